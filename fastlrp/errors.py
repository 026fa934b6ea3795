"""The exceptions for files and networks that cannot be read."""


class FormatError(ValueError):
    """A file is malformed; the message names the file and the place in it."""


class UnsupportedError(FormatError):
    """A network of another library has operators that fastlrp has not; the message names all of them, where each
    stands, and what is supported."""
