"""Strict frozen models, their canonical JSON and hashes, and files that appear whole or not at all and stay.

What is written lies under a temporary name until it is on the disk, and only then gets its own. Its writer holds a lock
on it, which ends with the process: what a killed one left can be told from what another still writes, and is removed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final, Literal

from pydantic import BaseModel, ConfigDict

from diffusionbench.errors import RequestError


class Strict(BaseModel):
    """A frozen model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """SHA-256 (64 hex digits) of the canonical JSON of a value or model."""
    # File names may hold bytes that are no UTF-8, which Python keeps as surrogates.
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (64 hex digits) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_shipped(whose: str, weights: Path, sha256: str) -> None:
    """Verify that weights which ship with the package are there and whole, without loading them.

    Args:
        whose: what needs them, such as "latent space 'toy-ae'".
        sha256: the hash that their card names.

    Raises:
        RequestError: saying what is wrong with them.
    """
    remedy = "Reinstall the package."
    if not weights.is_file():
        raise RequestError(f"{whose} needs its weights {weights}, which are missing. {remedy}")
    if file_digest(weights) != sha256:
        raise RequestError(
            f"{whose}: the weights {weights} do not have the SHA-256 that their card names, so they are damaged or "
            f"belong to another version. {remedy}"
        )


# Nothing else is called so, and nothing called so is anybody else's.
_TEMPORARY: Final = re.compile(r"\.diffusionbench-[0-9a-f]{16}\.tmp")
# Seconds after which a temporary is left over for certain, where the file system has no locks to tell.
_ABANDONED: Final = 24 * 3600
_swept: set[Path] = set()


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
    """Lock an open file or folder until it is closed or the process ends; whether nobody else holds its lock.

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


def check_place(path: Path, kind: Literal["file", "folder"] = "file") -> None:
    """Check that a result can be written where a user wants it, before the work is done.

    Args:
        path: of the result; folders above it that are missing will be made.
        kind: whether the result is one file or several in a folder.

    Raises:
        RequestError: if something else is there, or the folder cannot be written.
    """
    try:
        if kind == "file" and path.is_dir():
            raise RequestError(f"{path} cannot be written: it is a folder. Name a file, such as {path / 'result'}.")
        if path.exists() and not (path.is_file() if kind == "file" else path.is_dir()):
            raise RequestError(f"{path} cannot be written: it is no {kind}. Choose another place.")
        folder = path if kind == "folder" else path.parent
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror or error}. Choose another place.") from None
    if not folder.is_dir():
        raise RequestError(f"{path} cannot be written: {folder} is no folder. Choose another place.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise RequestError(f"{path} cannot be written: {folder} is read-only. Choose another place.")


def write_result(path: Path, text: str) -> None:
    """Write a file whose place a user chose, as `write_atomic` does.

    Raises:
        RequestError: if it cannot be written there.
    """
    try:
        write_atomic(path, text)
    except OSError as error:
        raise RequestError(f"{path} cannot be written: {error.strerror or error}. Choose another place.") from None
