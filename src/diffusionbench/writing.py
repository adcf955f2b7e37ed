"""Files that appear whole or not at all and stay, and the places where users want them.

What is written lies under a temporary name until it is on the disk, and only then gets its own. Its writer holds a lock
on it, which ends with the process: what a killed one left can be told from what another still writes, and is removed.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, Literal

from diffusionbench.errors import RequestError, UserError

# Nothing else is called so, and nothing called so is anybody else's.
_TEMPORARY: Final = re.compile(r"\.diffusionbench-[0-9a-f]{16}\.tmp")
# Seconds after which a temporary is left over for certain, where the file system has no locks to tell.
_ABANDONED: Final = 24 * 3600
_swept: set[Path] = set()
# Bytes at either end of a file, within which the mark of a result stands.
_ENDS: Final = 64 * 1024


def write_atomic(path: Path, write: bytes | str | Callable[[IO[bytes]], Any]) -> None:
    """Write a file under a temporary name beside it, then rename: readers see the old file or the whole new one.

    Once it returns, the file outlasts a power cut.

    Args:
        path: the final name; its folder is made.
        write: the content, or a function that writes it to an open binary file.

    Raises:
        OSError: if it cannot be written, or the name is taken by what is no regular file; the old file is untouched.
    """
    make_folder(path.parent)
    sweep(path.parent)
    if path.exists() and not path.is_file():
        raise OSError(errno.EEXIST, "it is no regular file", str(path))
    with _new_temporary(path.parent) as file:
        try:
            if callable(write):
                write(file)
            else:
                file.write(write.encode() if isinstance(write, str) else write)
            file.flush()
            os.fsync(file.fileno())
            # Before it is closed, which ends the lock.
            os.replace(file.name, path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    sync(path.parent)


def temporary_name(folder: Path) -> Path:
    """Return a new name in a folder, for what is not finished; `sweep` removes what has such a name and no lock."""
    return folder / f".diffusionbench-{secrets.token_hex(8)}.tmp"


def _new_temporary(folder: Path) -> IO[bytes]:
    while True:
        file = temporary_name(folder).open("xb")
        lock(file.fileno())
        # Another process may have swept it before it was locked.
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()


def lock(handle: int) -> bool:
    """Lock an open file or folder until it is closed or the process ends; return whether nobody else holds its lock.

    Where the file system has no locks, what was changed within a day counts as held.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - os.fstat(handle).st_mtime > _ABANDONED
    return True


def sweep(folder: Path) -> None:
    """Remove what killed processes left unfinished in a folder; done once for each folder by a process."""
    if folder.absolute() in _swept:
        return
    _swept.add(folder.absolute())
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if _TEMPORARY.fullmatch(entry.name)]
    for name in names:
        try:
            handle = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            if lock(handle):
                remove(folder / name)
        finally:
            os.close(handle)


def remove(path: Path) -> None:
    """Remove a file or folder of ours as far as that is possible; what is left is unlocked, so it goes later."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def make_folder(folder: Path) -> None:
    """Make a folder and those above it; new ones outlast a power cut."""
    if not folder.exists():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot do that for folders.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


@contextmanager
def write_errors(
    what: object, remedy: str = "Choose another place.", kind: type[UserError] = RequestError
) -> Iterator[None]:
    """Turn an OSError into one sentence: what cannot be written, why, and what to do.

    Args:
        what: as messages call it, such as a path.
        kind: of the error that is raised in its place.
    """
    try:
        yield
    except OSError as error:
        raise kind(f"{what} cannot be written: {error.strerror or error}. {remedy}") from None


def check_place(path: Path, kind: Literal["file", "folder"] = "file") -> None:
    """Check that a result can be written where a user wants it, before the work is done.

    Args:
        path: of the result; folders above it that are missing will be made.
        kind: whether the result is one file or several in a folder.

    Raises:
        RequestError: if something else is there, or the folder cannot be written.
    """
    with write_errors(path):
        if kind == "file" and path.is_dir():
            raise RequestError(f"{path} cannot be written: it is a folder. Name a file, such as {path / 'result'}.")
        if path.exists() and not (path.is_file() if kind == "file" else path.is_dir()):
            raise RequestError(f"{path} cannot be written: it is no {kind}. Choose another place.")
        folder = path if kind == "folder" else path.parent
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
    if not folder.is_dir():
        raise RequestError(f"{path} cannot be written: {folder} is no folder. Choose another place.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RequestError(f"{path} cannot be written: {folder} is read-only. Choose another place.")


def check_gives_way(path: Path, mark: str) -> None:
    """Check that a result may be written where a user said: nothing is there, an empty file or a result of its kind.

    Args:
        mark: what stands near the beginning or the end of every such result, and of nothing else.

    Raises:
        RequestError: if another file would be lost, or what is there cannot be read.
    """
    if not path.is_file():
        return
    with write_errors(path), path.open("rb") as file:
        first = file.read(_ENDS)
        file.seek(max(0, path.stat().st_size - _ENDS))
        last = file.read()
    if first and mark.encode() not in first and mark.encode() not in last:
        raise RequestError(
            f"{path} exists and is no earlier result of this kind, so it would be lost. Choose another place, or "
            "remove it."
        )


def write_results(files: Mapping[Path, tuple[str, str]]) -> None:
    """Write files whose places a user chose; where one of them would cost another file, none is written.

    Args:
        files: content and mark (see `check_gives_way`) by path.

    Raises:
        RequestError: if one cannot be written.
    """
    for path, (_, mark) in files.items():
        check_gives_way(path, mark)
    for path, (text, _) in files.items():
        write_result(path, text)


def write_result(path: Path, text: str) -> None:
    """Write a file whose place a user chose, as `write_atomic` does.

    Raises:
        RequestError: if it cannot be written there.
    """
    with write_errors(path):
        write_atomic(path, text)
