"""Folders that are made as a whole: built under a temporary name, on the disk, and then in place in one step.

A folder gives way to a new one only where all of it is known to be of an earlier one. The cache folder is here too.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from diffusionbench.errors import UserError
from diffusionbench.writing import lock, make_folder, remove, sweep, sync, temporary_name

# Of renameat2(2).
_AT_FDCWD: Final = -100
_EXCHANGE: Final = 2
_UNSUPPORTED: Final = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


def cache_folder() -> Path:
    """Return where downloaded weights and computed features lie; `DIFFUSIONBENCH_CACHE` moves it, and no number."""
    return Path(os.environ.get("DIFFUSIONBENCH_CACHE") or Path.home() / ".cache" / "diffusionbench")


def strangers(folder: Path, files: Collection[str]) -> list[str]:
    """Return what lies in a folder beside the named files (paths below it), in order of names; nothing if it is absent.

    A link is a stranger whatever it leads to, an empty folder is none.
    """
    found = []
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        found += [os.path.relpath(os.path.join(place, name), folder) for name in (*names, *links)]
    return sorted(set(found) - set(files))


def check_replaceable(out: Path, kind: str, files: Collection[str], error: type[UserError]) -> None:
    """Check that a folder is absent, empty, or holds nothing but an earlier result.

    Args:
        kind: of the result, for messages, such as "site".
        files: that an earlier result in this folder consists of; none where there is no earlier one.

    Raises:
        error: naming what would be lost.
    """
    remedy = f"Give a folder that is new, empty or an earlier {kind}."
    if out.exists() and not out.is_dir():
        raise error(f"{kind} {out} is a file. {remedy}")
    if others := strangers(out, files):
        raise error(
            f"{kind} {out} holds {len(others)} file(s) of no earlier {kind}, the first: {others[0]}. They would be "
            f"lost: move them away. {remedy}"
        )


@contextmanager
def whole_folder(out: Path, check: Callable[[Path], None]) -> Iterator[Path]:
    """Give an empty folder to fill; once the block ends without an error it stands at `out`, whole and on the disk.

    Killed at any moment, the folder that was there is still there, or the new one is, or `recover` restores the old.

    Args:
        out: its final place; what stands there is removed.
        check: raises if that may not be removed; called before the block and again after it.

    Raises:
        OSError: if it cannot be written; what stood there still does.
    """
    # The folder itself is renamed: "." and a link must stand for what they lead to.
    out = out.resolve()
    recover(out)
    check(out)
    make_folder(out.parent)
    sweep(out.parent)
    made = temporary_name(out.parent)
    made.mkdir()
    handle = os.open(made, os.O_RDONLY)
    lock(handle)
    try:
        yield made
        sync_all(made)
        check(out)
        _put(made, out)
        sync(out.parent)
    finally:
        # What was not finished, or what the new one took the place of.
        remove(made)
        os.close(handle)


def sync_all(folder: Path) -> None:
    """Wait until a folder with all that is in it is on the disk."""
    for place, _, names in os.walk(folder):
        for name in names:
            sync(Path(place, name))
        sync(Path(place))


def recover(out: Path) -> None:
    """Put a folder back that a killed process had moved aside, where the two could not change places in one step."""
    before = _before(out)
    if before.exists():
        if out.exists():
            remove(before)
        else:
            before.rename(out)


def _before(out: Path) -> Path:
    return out.with_name(f".diffusionbench-{hashlib.sha256(os.fsencode(out.name)).hexdigest()[:16]}.before")


def _put(made: Path, out: Path) -> None:
    if not out.exists() or not any(out.iterdir()):
        made.rename(out)
        return
    try:
        _exchange(made, out)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        out.rename(_before(out))
        try:
            made.rename(out)
        finally:
            recover(out)


def _exchange(one: Path, other: Path) -> None:
    """Let two names change places in one step; Linux only."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(other))
