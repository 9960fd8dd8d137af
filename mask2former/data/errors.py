"""The error for bad data of a user."""


class DatasetError(ValueError):
    """A data set, one of its files or one of its annotations cannot be used as it is.

    The message says where the mistake is, and what to do if that is known.
    """
