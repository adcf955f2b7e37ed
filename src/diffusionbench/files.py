"""Listing of folders: which files count, in which order, and how classes are numbered; one rule for every reader.

Training, scoring and references list folders with these functions, so that a class has one number everywhere.
"""

from __future__ import annotations

import codecs
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from diffusionbench.errors import DataError
from diffusionbench.limits import read_small
from diffusionbench.shown import printable

# Formats that Pillow decodes without a plugin and users store pictures in.
IMAGE_SUFFIXES: Final = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif",
)  # fmt: skip
# Folders and files that systems leave behind, in small letters; names with a leading dot are hidden too.
_SYSTEM_NAMES: Final = frozenset({
    "__macosx", "__pycache__", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "lost+found",
    "system volume information", "thumbs.db", "desktop.ini",
})  # fmt: skip

MAX_LEVELS: Final = 100
_NUMBER: Final = re.compile("[0-9]+")
# Folder names that say which split is inside.
_SPLITS: Final = frozenset(
    {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval", "held_out"}
)


def natural_key(name: str) -> tuple[tuple[str, str], ...]:
    """Return the sort key of a name or relative path: folder by folder, runs of digits as numbers, so "2" < "10".

    Names whose numbers have equally many digits keep the order of strings.
    """
    return tuple([(_NUMBER.sub(_by_length, part), part) for part in name.split("/")])


def _by_length(number: re.Match[str]) -> str:
    # A number compares by its length without leading zeros, then by its digits: names may have thousands of them.
    digits = number[0].lstrip("0")
    return f"{len(digits):05d}{digits}"


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this base name plays no part anywhere."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def is_image(name: str) -> bool:
    """Return whether a file counts as an image, by the ending of its name."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not is_hidden(name.rpartition("/")[2])


def is_split(name: str) -> bool:
    """Return whether a folder is named like the split of a data set, in any case."""
    return name.lower() in _SPLITS


def no_split(folder: Path | str, split: str) -> DataError:
    """Return the error that a folder has no subfolder for a split other than `train`."""
    return DataError(f"{folder} has no subfolder for split '{split}'. Make it, or ask for split 'train'.")


class LeftOut:
    """Counts what a reader leaves out.

    Attributes:
        found: number and first name by reason.
    """

    def __init__(self) -> None:
        self.found: dict[str, tuple[int, str]] = {}

    def add(self, reason: str, name: str, count: int = 1) -> None:
        """Count what is left out for a reason, such as "files that are no images", with the name of the first."""
        before, first = self.found.get(reason, (0, printable(name)))
        self.found[reason] = (before + count, first)

    def sentence(self, where: Path | str) -> str | None:
        """Return one sentence about all of it, or None where nothing was left out."""
        if not self.found:
            return None
        parts = (f"{count:,} {reason} (first: {first})" for reason, (count, first) in self.found.items())
        return f"{printable(str(where))}: left out {'; '.join(parts)}."


def walk_files(
    folder: Path, left_out: LeftOut, prefix: str = "", above: tuple[str, ...] = ()
) -> Iterator[tuple[str, int]]:
    """Give all files below a folder one by one, as name relative to it, with "/", and bytes; in natural order.

    Links are followed. A link to nothing is listed with 0 bytes, so that reading it names it; a link to a folder that
    holds it is left out, as are hidden entries and what is neither file nor folder.

    Args:
        left_out: counts what is not listed.
        prefix, above: of a folder further down, its name and the real paths of those that hold it.

    Raises:
        DataError: if a folder cannot be read.
    """
    above = above or (os.path.realpath(folder),)
    try:
        with os.scandir(folder) as opened:
            entries = sorted(opened, key=lambda entry: natural_key(entry.name))
    except OSError as error:
        raise DataError(
            f"cannot read folder {printable(str(folder))}: {error.strerror}. Correct its permissions."
        ) from None
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
            real = os.path.realpath(entry.path)
            if real in above:
                left_out.add("links to a folder above", name)
            elif len(above) == MAX_LEVELS:
                left_out.add(f"folders more than {MAX_LEVELS} levels down", name)
            else:
                yield from walk_files(Path(entry.path), left_out, f"{name}/", (*above, real))
        elif is_file:
            yield name, entry.stat().st_size
        elif not os.path.exists(entry.path):
            yield name, 0
        else:
            left_out.add("entries that are neither file nor folder", name)


def list_files(folder: Path, left_out: LeftOut) -> dict[str, int]:
    """Return all files of `walk_files`: name -> bytes."""
    return dict(walk_files(folder, left_out))


def list_images(folder: Path, left_out: LeftOut, also: tuple[str, ...] = ()) -> dict[str, int]:
    """List the images below a folder, and files with other endings (lower-case `also`); the rest is left out.

    Raises:
        DataError: if a folder cannot be read, or a link leads to nothing and may have been a folder of images.
    """
    found = {}
    for name, size in list_files(folder, left_out).items():
        if is_image(name) or name.lower().endswith(also):
            found[name] = size
        elif size == 0 and not os.path.exists(folder / name):
            raise DataError(
                f"{printable(str(folder / name))} is a link to nothing, so what it should lead to is missing. Restore "
                "its target (is a disk not mounted?), or remove the link."
            )
        else:
            left_out.add("files that are no images", name)
    return found


@dataclass(frozen=True)
class ImageFolder:
    """The images of one set: flat in a folder, or in one folder per class.

    Attributes:
        root: the folder that was given, or the split's below it.
        prefix: the split's below what was given, as "train/", or "".
        images: name relative to `root`, with "/" -> bytes, in natural order; at least one.
        classes: names of the class folders in natural order, or None where the images lie in `root` itself.
        empty: folders in `root` without an image.
        left_out: what was not read.
    """

    root: Path
    prefix: str
    images: dict[str, int]
    classes: tuple[str, ...] | None
    empty: tuple[str, ...]
    left_out: LeftOut


def open_image_folder(folder: Path, split: str = "train") -> ImageFolder:
    """List a folder of images or of class folders; images at any depth below a class folder are of that class.

    Args:
        split: taken where the folder holds a folder of this name that holds class folders.

    Raises:
        DataError: if there is no image, a folder cannot be read, or it is not clear what the classes are.
    """
    left_out = LeftOut()
    return image_folder(folder, list_images(folder, left_out), left_out, split)


def image_folder(folder: Path, images: dict[str, int], left_out: LeftOut, split: str = "train") -> ImageFolder:
    """Return the images of a folder, or of an archive of one, as `open_image_folder` does.

    Args:
        images: name below the folder -> bytes, in natural order.
        left_out: what was not listed; images of other splits join it.
    """
    where = printable(str(folder))
    if not images:
        what = "archive" if folder.is_file() else "folder"
        raise DataError(
            f"{what} {where} has no images and no class folders of images. Looked for {', '.join(IMAGE_SUFFIXES)} at "
            f"any depth. {left_out.sentence('There') or ''}".rstrip()
        )
    prefix = _split_prefix(where, images, split)
    inside = {name.removeprefix(prefix): size for name, size in images.items() if name.startswith(prefix)}
    if outside := [name for name in images if not name.startswith(prefix)]:
        left_out.add(f"images outside {prefix}", outside[0], len(outside))
    root = folder / prefix
    classes = tuple(dict.fromkeys(name.partition("/")[0] for name in inside if "/" in name))
    folders: list[str] = []
    if root.is_dir():
        with os.scandir(root) as opened:
            folders = [entry.name for entry in opened if os.path.isdir(entry.path) and not is_hidden(entry.name)]
    empty = tuple(sorted(set(folders) - set(classes), key=natural_key))
    if classes:
        _check_classes(root, inside, classes)
    return ImageFolder(root, prefix, inside, classes or None, empty, left_out)


def _split_prefix(where: str, images: Iterable[str], split: str) -> str:
    """Return "train/" where a folder holds splits, "" where its folders are classes, one of them perhaps `train`."""
    # Name of each folder -> whether images lie directly in it, as they do in most class folders.
    direct: dict[str, bool] = {}
    for name in images:
        top, slash, rest = name.partition("/")
        if slash:
            direct[top] = direct.get(top, False) or "/" not in rest
    others = [top for top in direct if not is_split(top)]
    if split in direct:
        if not direct[split] and not any(direct[top] for top in others):
            return f"{split}/"
        if direct[split] and others and split == "train":
            return ""
    elif split != "train":
        raise no_split(where, split)
    elif others or all(direct.values()):
        return ""
    if direct.get(split):
        raise DataError(
            f"{where}/{split} is named like a split and holds images, no class folders. Give {where}/{split} itself, "
            "or put the images into one folder per class."
        )
    raise DataError(
        f"{where} holds {', '.join(map(printable, direct))}: it is not clear which are splits and which are classes. "
        f"Give the folder that holds the class folders, such as {where}/{printable(next(iter(direct)))}."
    )


def _check_classes(root: Path, images: Iterable[str], classes: Sequence[str]) -> None:
    where = printable(str(root))
    if loose := next((name for name in images if "/" not in name), None):
        raise DataError(
            f"folder {where} has images at different depths ({printable(loose)} beside the class folder "
            f"{printable(classes[0])}). Put all images in the folder itself, or all in class folders."
        )
    below = {name.split("/")[1] if name.count("/") > 1 else None for name in images}
    if len(classes) == 1 and None not in below and len(below) > 1:
        inside = printable(str(root / classes[0]))
        raise DataError(
            f"folder {where} holds one folder, {printable(classes[0])}, and that one holds folders. Give {inside} "
            f"if those are the classes; else put the images directly into {inside}."
        )


def class_key(name: str) -> str:
    """Return what two folder names of one class share: "07" and "7" are one class, as are both Unicode forms."""
    return (name.lstrip("0") or "0") if name.isascii() and name.isdigit() else unicodedata.normalize("NFC", name)


def are_folder_names(classes: Sequence[str]) -> bool:
    """Return whether each class can have a folder of its name that every reader takes for that class."""
    keys = {class_key(name).casefold() for name in classes}
    return len(keys) == len(classes) and not any(
        is_hidden(name) or not name or re.search(r"[/\\]", name) or printable(name) != name or len(name.encode()) > 255
        for name in classes
    )


def number_classes(names: Iterable[str], known: Sequence[str] | None = None) -> tuple[dict[str, int], list[str]]:
    """Number the class folders `names` by the names of a reference in their order, else in natural order.

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


def read_lines(path: Path, what: str) -> list[str]:
    """Read the lines of a UTF-8 text file, with or without a byte order mark, ended by LF, CR LF or CR.

    Raises:
        DataError: if it is no file of at most 64 MiB, cannot be read, is in another encoding, or holds NUL characters.
    """
    name = f"{what} {printable(str(path))}:"
    try:
        data = read_small(path)
    except OSError as error:
        raise DataError(f"{name} it cannot be read ({error.strerror or error}). Give a UTF-8 text file.") from None
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError(f"{name} it is UTF-16. Convert it: iconv -f UTF-16 -t UTF-8.")
    if 0 in data:
        raise DataError(
            f"{name} it holds NUL bytes (the first is byte {data.index(0)}), so it is no UTF-8 text. Convert it."
        )
    try:
        # Files that were joined have a byte order mark at the head of each.
        text = data.decode("utf-8").replace("\ufeff", "")
    except UnicodeDecodeError as error:
        raise DataError(f"{name} it is not UTF-8 (byte {error.start}). Convert it, for example with iconv.") from None
    return re.split("\r\n|\n|\r", text)
