"""Errors that a user can act on; each message says what was asked, found, allowed, and what to do.

`UserError` and its children end a command with exit code 2 (wrong use), `RunError` with 1 (the run failed).
Everything else is our own bug and keeps its traceback.
"""


class UserError(Exception):
    """The request cannot be carried out as written."""

    exit_code = 2


class ConfigError(UserError):
    """A config key, value or combination is wrong."""


class DataError(UserError):
    """An input file or folder is missing, empty, corrupt or of the wrong shape."""


class RequestError(UserError):
    """An evaluation request is wrong or lacks something it needs."""


class CheckpointError(UserError):
    """A checkpoint or run folder does not fit what was asked."""


class MissingPackageError(UserError):
    """An optional package is not installed."""


class RunError(Exception):
    """The run started and failed."""

    exit_code = 1
