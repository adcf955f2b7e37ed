"""Errors that a user can act on; each message says what was asked, found, allowed, and what to do.

`UserError` and its children end a command with exit code 2 (wrong use), `RunError` with 1 (the run failed), `Stopped`
with 128 + signal. What the machine lacks, such as memory, is 1 too. Everything else is our own bug and keeps its
traceback.
"""

from __future__ import annotations

import errno
import os
import sys
import warnings
from collections.abc import Callable
from typing import Any, TextIO

from diffusionbench.shown import first_line, message


class UserError(Exception):
    """The request cannot be carried out as written.

    Attributes:
        everywhere: whether all processes of a command meet it alike, so that the first of a machine says it.
    """

    exit_code = 2
    everywhere = True


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


class Caution(UserWarning):
    """What speaks against a number as it stands; a program says it in one sentence."""


class RunError(Exception):
    """The run started and failed; `everywhere` as in `UserError`."""

    exit_code = 1
    everywhere = True


class Stopped(RunError):  # noqa: N818
    """A signal ended the run.

    Args:
        number: of the signal.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.number = number
        self.exit_code = 128 + number


class Told(Exception):  # noqa: N818
    """Another process of the same command has said why all of them end.

    Args:
        exit_code: of that process.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__()
        self.exit_code = exit_code


_MEMORY = "memory does not suffice. Lower the batch size or the number of processes, or raise the limit"
# Words in the messages of Python, torch and the system, and what they mean for a user.
_LACKS = {
    "DataLoader worker": "a loader process was killed or crashed, mostly for want of memory. Free some, or use fewer "
    "(data.workers)",
    "out of memory": _MEMORY,
    "allocate memory": _MEMORY,
    "bad_alloc": _MEMORY,
    "failed to map segment": _MEMORY,
    "start new thread": "no further thread can be started. Raise the limit on processes (ulimit -u)",
    "home directory": "no home folder is known for this user. Set HOME",
    "getpwuid": "this user has no name. Set USER and HOME",
}
_STORAGE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE}
# Met wherever a path is first asked for: names that no file can have, and files and caches of other users.
_ANYWHERE = {
    errno.ENAMETOOLONG: "Give another path",
    errno.ELOOP: "Give another path",
    errno.EACCES: "Give another path, or have its permissions and those of its folders changed",
}


def lacking(error: BaseException) -> str | None:
    """Return one sentence about what the machine lacks, or None where an exception says something else."""
    if isinstance(error, MemoryError):
        return f"{_MEMORY}."
    if isinstance(error, OSError) and error.errno in _STORAGE:
        return f"{error.filename or 'the output'} cannot be written or read: {error.strerror}. Correct that first."
    if not isinstance(error, (RuntimeError, OSError, ImportError, KeyError)):
        return None
    found = next((means for words, means in _LACKS.items() if words in str(error)), None)
    return None if found is None else f"{found} ({first_line(error)[:200]})."


def run_program(program: Callable[[], object], interrupted: str) -> None:
    """Run a command line to its exit code: an error above becomes one sentence on stderr, Ctrl-C a word and 130.

    Output that cannot be written is no traceback either, and characters that a terminal lacks are escaped.

    Args:
        program: parses the arguments and runs a command.
        interrupted: what to say after Ctrl-C, such as how to go on.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            # Closed by the caller. Left so, the next file that is opened would get what is meant for the terminal.
            setattr(sys, name, _nowhere())
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    show = warnings.showwarning

    def say(message: Warning | str, category: type[Warning], *where: Any) -> None:
        if issubclass(category, Caution):
            _tell(f"Caution: {message}")
        else:
            show(message, category, *where)

    warnings.showwarning = say  # type: ignore[assignment]
    code = _exit_code(program, interrupted)
    try:
        sys.stdout.flush()
    except OSError as error:
        # Otherwise Python tries again at its end, with a traceback.
        sys.stdout = _nowhere()
        if not isinstance(error, BrokenPipeError):
            _tell(f"RunError: {lacking(error) or error}")
        code = code or 1
    sys.exit(code)


def _unwrapped(program: Callable[[], object]) -> None:
    try:
        program()
    except Exception as error:
        # torch's compiler makes an error of its own of a signal that comes while it compiles.
        inner = getattr(error, "inner_exception", None)
        if not isinstance(inner, Stopped):
            raise
        raise inner from None


def _exit_code(program: Callable[[], object], interrupted: str) -> int | str | None:
    try:
        _unwrapped(program)
    except Told as end:
        return end.exit_code
    except (UserError, RunError) as error:
        if not error.everywhere or os.environ.get("LOCAL_RANK", "0") == "0":
            _tell(message(f"{type(error).__name__}: {error}"))
        return error.exit_code
    except KeyboardInterrupt:
        _tell(interrupted)
        return 130
    except SystemExit as end:
        # Typer has turned Ctrl-C into this code, without a word.
        if end.code == 130:
            _tell(interrupted)
        return end.code
    except BrokenPipeError:
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None and error.errno in _ANYWHERE:
            _tell(message(f"UserError: {error.filename}: {error.strerror}. {_ANYWHERE[error.errno]}."))
            return UserError.exit_code
        found = lacking(error)
        if found is None:
            raise
        _tell(f"RunError: {found}")
        return 1
    return 0


def _tell(sentence: str) -> None:
    try:
        print(sentence, file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = _nowhere()


def _nowhere() -> TextIO:
    return open(os.devnull, "w")
