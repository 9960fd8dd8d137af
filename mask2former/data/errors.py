"""The error for bad data of a user."""


class DatasetError(ValueError):
    """A data set, one of its files or one of its annotations cannot be used as it is.

    The message says where the mistake is, and what to do if that is known.
    """

    exit_status = 1  # see `run_reporting_errors`

    @property
    def reason(self) -> str:
        """The message, without the traceback that torch adds to an error of a loading worker."""
        return str(self).rsplit(f"{DatasetError.__name__}: ", 1)[-1].strip()
