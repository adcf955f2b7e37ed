"""Untrusted small files: regular ones only, up to a size, and JSON up to a depth.

A folder, a pipe without a writer, a link to nothing, gigabytes or 100,000 brackets under an expected name end in one
error that the caller turns into a sentence, never in a wait, a full memory or a full stack.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

from diffusionbench.errors import RequestError
from diffusionbench.shown import clipped

P = ParamSpec("P")
T = TypeVar("T")

# A thousand times the largest record, list of images or manifest of ours.
SMALL: Final = 64 * 2**20
LEVELS: Final = 100


class TooDeepError(ValueError):
    """A JSON text of more than `LEVELS` levels."""

    def __init__(self) -> None:
        super().__init__(f"is nested deeper than {LEVELS} levels")


def read_small(path: Path, most: int = SMALL) -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    Raises:
        OSError: if it is no regular file, is larger or cannot be read; `strerror` says which.
    """
    # A pipe that nobody writes to would wait for ever where it is opened; without waiting it can be asked what it is.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "is no regular file", str(path))
        # Asked for all that is allowed, Python would hold as much memory for a file of a few bytes.
        size = min(os.fstat(file.fileno()).st_size, most)
        content = file.read(size + 1)
        if len(content) > size:
            content += file.read(most + 1 - len(content))
    if len(content) > most:
        raise OSError(errno.EFBIG, f"is larger than the {most // 2**20} MiB that such a file may have", str(path))
    return content


def parse_json(content: bytes | str) -> Any:
    """Return the value of a JSON text of at most `LEVELS` levels; a ValueError says that it has more, or is none."""
    try:
        value = json.loads(content)
    except RecursionError:
        raise TooDeepError from None
    level = [value]
    for _ in range(LEVELS):
        inside = [list(one.values()) if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)]
        level = [child for children in inside for child in children]
    if level:
        raise TooDeepError
    return value


def reads_extra(read: Callable[P, T]) -> Callable[P, T]:
    """Turn what a reader of `extra` ends in, where that is not what a metric wrote, into one sentence.

    Raises:
        RequestError: from the function, naming its first argument, a record's path, and what was missing.
    """

    @wraps(read)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise RequestError(
                f"record {args[0]}: its 'extra' is not what a metric wrote there ({clipped(reason, 200)}). Score the "
                "images again."
            ) from None

    return guarded
