"""Which files below a folder count, in which order, and how classes are numbered: one rule for every reader.

Training, scoring and references list folders with these functions, so that a class has one number everywhere.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from diffusionbench.errors import DataError

# What Pillow decodes without a plugin and people store pictures in.
IMAGE_SUFFIXES: Final = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif",
)  # fmt: skip
# Folders and files that systems leave behind; names with a leading dot are hidden too.
_SYSTEM_NAMES: Final = frozenset(
    {"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information", "Thumbs.db", "desktop.ini"}
)

MAX_LEVELS: Final = 100


def natural_key(name: str) -> tuple[object, ...]:
    """Return the sort key of a name or relative path: folder by folder, runs of digits as numbers, so "2" < "10"."""
    folders = []
    for part in name.split("/"):
        pieces = re.split(r"([0-9]+)", part)
        # A number compares by its length without leading zeros, then by its digits: names may have thousands of them.
        folders.append(
            tuple(
                (len(piece.lstrip("0")), piece.lstrip("0")) if place % 2 else piece
                for place, piece in enumerate(pieces)
            )
        )
    return (tuple(folders), name)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this base name plays no part anywhere."""
    return name.startswith(".") or name in _SYSTEM_NAMES


def is_image(name: str) -> bool:
    """Return whether a file counts as an image, by the ending of its name."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(name.rpartition("/")[2])


class LeftOut:
    """What a reader did not read, counted by reason, with the first name of each."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[int, str]] = {}

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """Count what is left out.

        Args:
            reason: what it is, in the plural, such as "files that are no images".
            name: the (first) one's.
        """
        before, first = self._found.get(reason, (0, name))
        self._found[reason] = (before + count, first)

    def sentence(self, where: Path | str) -> str | None:
        """Return one sentence about all of it, or None where nothing was left out."""
        if not self._found:
            return None
        parts = (f"{count:,} {reason} (first: {first})" for reason, (count, first) in self._found.items())
        return f"{where}: left out {'; '.join(parts)}."


def list_files(folder: Path, left_out: LeftOut) -> dict[str, int]:
    """List all files below a folder.

    Links are followed. A link to nothing is listed, so that reading it names it; a link to a folder that holds it is
    left out, as are hidden entries and what is neither file nor folder.

    Args:
        left_out: counts what is not listed.

    Returns:
        Name relative to `folder`, with "/" -> bytes, in natural order; 0 bytes where the size is not known.

    Raises:
        DataError: if a folder cannot be read.
    """
    found: dict[str, int] = {}
    _walk(folder, "", (_identity(folder),), found, left_out)
    return {name: found[name] for name in sorted(found, key=natural_key)}


def _walk(
    folder: Path, prefix: str, above: tuple[tuple[int, int], ...], found: dict[str, int], left_out: LeftOut
) -> None:
    try:
        with os.scandir(folder) as opened:
            entries = sorted(opened, key=lambda entry: natural_key(entry.name))
    except OSError as error:
        raise DataError(f"cannot read folder {folder}: {error.strerror}. Correct its permissions.") from None
    for entry in entries:
        name = prefix + entry.name
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError:
            # A link that leads to itself.
            is_folder = is_file = False
        if is_hidden(entry.name):
            left_out.add("hidden entries", name)
        elif is_folder:
            identity = _identity(Path(entry.path))
            if identity in above:
                left_out.add("links to a folder above", name)
            elif len(above) == MAX_LEVELS:
                left_out.add(f"folders more than {MAX_LEVELS} levels down", name)
            else:
                _walk(Path(entry.path), f"{name}/", (*above, identity), found, left_out)
        elif is_file:
            found[name] = entry.stat().st_size
        elif entry.is_symlink():
            found[name] = 0
        else:
            left_out.add("entries that are neither file nor folder", name)


def _identity(folder: Path) -> tuple[int, int]:
    try:
        stat = folder.stat()
    except OSError as error:
        raise DataError(f"cannot read folder {folder}: {error.strerror}. Correct its permissions.") from None
    return stat.st_dev, stat.st_ino


def class_key(name: str) -> str:
    """Return what two folder names of one class share: "07" and "7" are one class, as are both Unicode forms."""
    return (name.lstrip("0") or "0") if name.isascii() and name.isdigit() else unicodedata.normalize("NFC", name)


def number_classes(names: Iterable[str], known: Sequence[str] | None = None) -> tuple[dict[str, int], list[str]]:
    """Number classes by the names of a reference, else in natural order.

    Args:
        names: folder names of the classes, in any order, repeated or not.
        known: the reference's class names in the order of their numbers, or None where it has none.

    Returns:
        Name -> number, and the names that `known` lacks in natural order; where there is any, all are numbered in
        natural order, which is of use only to what reads no labels.

    Raises:
        DataError: if two names are one class, as 1 and 01.
    """
    found: dict[str, str] = {}
    for name in sorted(set(names), key=natural_key):
        if found.setdefault(class_key(name), name) != name:
            raise DataError(f"{found[class_key(name)]} and {name} name one class twice. Rename one of them.")
    places = {class_key(name): place for place, name in enumerate(known or ())}
    lacking = [name for key, name in found.items() if known is not None and key not in places]
    if known is None or lacking:
        return {name: place for place, name in enumerate(found.values())}, lacking
    return {name: places[key] for key, name in found.items()}, []
