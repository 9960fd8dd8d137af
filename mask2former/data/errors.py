"""The error that says what is wrong with a user's data."""


class DatasetError(ValueError):
    """A data set, one of its files or one of its annotations cannot be used as it is."""
