"""Strict frozen models, their canonical JSON and hashes, and files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal

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


def write_atomic(path: Path, write: bytes | str | Callable[[IO[bytes]], Any]) -> None:
    """Write a file under a temporary name beside it, then rename: readers see the old file or the whole new one.

    Args:
        path: the final name; its folder is made.
        write: the content, or a function that writes it to an open binary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            if callable(write):
                write(file)
            else:
                file.write(write.encode() if isinstance(write, str) else write)
        # mkstemp makes private files; a result is as readable as any other new file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
