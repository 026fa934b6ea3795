"""The exception for files that are not what they claim to be."""


class FormatError(ValueError):
    """A file is malformed; the message names the file and the place in it."""
