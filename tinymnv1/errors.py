"""What a user's mistake raises. The lowest floor: everything imports from here, this imports nothing.

The command lines turn each of these into one line on stderr and exit status 2. A library caller can
catch `TinyMNError` for all of them, or the precise one.
"""


class TinyMNError(Exception):
    """Something the user can mend: the message says what is wrong and what to do."""


class ConfigError(TinyMNError, ValueError):
    """An argument, option or array shape that cannot work."""


class DataError(TinyMNError):
    """A data set or an image that is missing, damaged or not what it claims to be."""


class CheckpointError(TinyMNError):
    """A checkpoint that is missing, damaged, or of another model."""


class DivergedError(TinyMNError):
    """The loss became NaN or infinite; the last good checkpoint is still there."""
