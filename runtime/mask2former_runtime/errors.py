"""What goes wrong with a file of an exported model."""


class ExportError(ValueError):
    """A model file cannot be used; the message names the file, the reason and what to do."""
