"""Reading and writing files of weights."""


class WeightsError(ValueError):
    """Weights that cannot be read or do not fit; the message says why and what to do."""
