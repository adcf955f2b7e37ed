"""Errors that a user can act on; each message says what was asked, found, allowed, and what to do.

`UserError` and its children end a command with exit code 2 (wrong use), `RunError` with 1 (the run failed).
Everything else is our own bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

from diffusionbench.shown import message


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


def run_program(program: Callable[[], object], interrupted: str) -> None:
    """Run a command line: an error above becomes one sentence on stderr and its exit code, Ctrl-C a word and 130.

    Args:
        program: parses the arguments and runs a command.
        interrupted: what to say after Ctrl-C, such as how to go on.
    """
    try:
        program()
    except (UserError, RunError) as error:
        print(message(f"{type(error).__name__}: {error}"), file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        # A name that no file can have is met wherever a path is first asked for.
        if error.errno not in (errno.ENAMETOOLONG, errno.ELOOP):
            raise
        print(message(f"UserError: {error.filename}: {error.strerror}. Give another path."), file=sys.stderr)
        sys.exit(UserError.exit_code)
    except SystemExit as end:
        # Typer has turned Ctrl-C into this code, without a word.
        if end.code == 130:
            print(interrupted, file=sys.stderr)
        raise
