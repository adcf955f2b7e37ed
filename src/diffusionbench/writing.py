"""Files and folders that appear whole or not at all and stay, the places where users want them, and the cache folder.

What is written lies under a temporary name until it is on the disk, and only then gets its own. Its writer holds a lock
on it, which ends with the process: what a killed one left can be told from what another still writes, and is removed.
A folder gives way to a new one only where all of it is known to be of an earlier one.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
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
# Of renameat2(2).
_AT_FDCWD: Final = -100
_EXCHANGE: Final = 2
_UNSUPPORTED: Final = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


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
    """Check that a file or folder can be written where a user wants it, before the work is done.

    Raises:
        RequestError: if something else is there, or the folder cannot be written.
    """
    with write_errors(path):
        if kind == "file" and path.is_dir():
            raise RequestError(f"{path} cannot be written: it is a folder. Name a file, such as {path / 'result'}.")
        if path.exists() and not (path.is_file() if kind == "file" else path.is_dir()):
            raise RequestError(f"{path} cannot be written: it is no {kind}. Choose another place.")
        folder = path if kind == "folder" else path.parent
        # Below a link to nothing no folder can be made.
        while not (folder.exists() or folder.is_symlink()) and folder != folder.parent:
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
    """Write content where its mark may stand (`check_gives_way`); where one would cost another file, none is written.

    Raises:
        RequestError: if one cannot be written.
    """
    for path, (_, mark) in files.items():
        check_gives_way(path, mark)
    for path, (text, _) in files.items():
        write_result(path, text)


def write_result(path: Path, text: str) -> None:
    """Write a file whose place a user chose, as `write_atomic` does; a RequestError says why it cannot be."""
    with write_errors(path):
        write_atomic(path, text)


def free_bytes(path: Path) -> int:
    """Return how many bytes are free on the disk where a path lies, or will lie."""
    return shutil.disk_usage(next(one for one in (path, *path.absolute().parents) if one.exists())).free


def cache_folder() -> Path:
    """Return where downloaded weights and computed features lie; `DIFFUSIONBENCH_CACHE` moves it, and no number."""
    return Path(os.environ.get("DIFFUSIONBENCH_CACHE") or Path.home() / ".cache" / "diffusionbench")


def prompt_folder(name: str) -> Path:
    """Return where the files of a prompt set lie that does not ship with the package."""
    return cache_folder() / "prompts" / name


def model_folder(repository: str) -> Path:
    """Return where a copy of a hub's repository may lie, which goes before the hub and its own cache."""
    return cache_folder() / "models" / repository


def snapshot_folder(repository: str, commit: str) -> Path | None:
    """Return where the hub's own cache keeps a repository at a commit, which need not be there.

    Without a commit it is that which the hub called main when it was last asked; None if it never was.
    """
    cache = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or "~/.cache/huggingface") / "hub"
    folder = Path(cache).expanduser() / f"models--{repository.replace('/', '--')}"
    if not commit:
        try:
            commit = (folder / "refs" / "main").read_text().strip()
        except OSError:
            return None
    return folder / "snapshots" / commit


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
        for place, _, names in os.walk(made):
            for name in names:
                sync(Path(place, name))
            sync(Path(place))
        check(out)
        _put(made, out)
        sync(out.parent)
    finally:
        # What was not finished, or what the new one took the place of.
        remove(made)
        os.close(handle)


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
