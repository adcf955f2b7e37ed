"""Images that exist already, read by their place in a folder, a .tar or an .npz; nothing is unpacked or copied."""

from __future__ import annotations

import os
import stat
import tarfile
import time
from abc import ABC, abstractmethod
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import numpy as np
from pydantic import BeforeValidator, PlainSerializer

from diffusionbench import bounds
from diffusionbench.archives import FAULTS, Archive
from diffusionbench.errors import DataError
from diffusionbench.files import LeftOut, is_hidden, is_image, list_images, natural_key
from diffusionbench.images import HEAD, UnreadableImage, decode, format_of
from diffusionbench.schema import Strict, file_digest
from diffusionbench.shown import clipped, few, first_line, printable

# A file that was changed less than this many nanoseconds ago may be changed again within one tick of its clock.
_RECENT: Final = 2 * 10**9
# Of one image file: 32,768 pixels a side without any compression.
MOST_BYTES: Final = 2**32
# How names begin in lists that are no line of UTF-8.
_BYTES: Final = "bytes:"


def _kept(name: str) -> str:
    """Return a file's name as JSON can hold it: one that is no UTF-8 as its bytes in hex."""
    is_text = printable(name) == name and not name.startswith(_BYTES)
    return name if is_text else _BYTES + os.fsencode(name).hex()


def _named(kept: object) -> object:
    """Return the name that `_kept` was given; it is for pydantic, which refuses what is no text itself."""
    if not isinstance(kept, str) or not kept.startswith(_BYTES):
        return kept
    return os.fsdecode(bytes.fromhex(kept.removeprefix(_BYTES)))


FileName = Annotated[str, BeforeValidator(_named), PlainSerializer(_kept)]
"""Name of a file in a list that is kept as JSON."""


class ImagePlace(NamedTuple):
    """Where an image lies below a root.

    Attributes:
        file: name with "/" in a folder or .tar; "" in an .npz.
        row: of an .npz, or the tile of a grid; None where the file is the image.
    """

    file: FileName = ""
    row: int | None = None


class FileFacts(Strict):
    """What a file is recognised by: bytes, time of change in nanoseconds, hash."""

    size: int
    mtime: int
    sha256: str


def facts_of(path: Path) -> FileFacts:
    """Return the facts of a regular file; an OSError says that there is none."""
    found = path.stat()
    is_settled = time.time_ns() - found.st_mtime_ns > _RECENT
    sha256 = (_sha256 if is_settled else _sha256.__wrapped__)(path, found.st_size, found.st_mtime_ns)
    return FileFacts(size=found.st_size, mtime=found.st_mtime_ns, sha256=sha256)


@lru_cache(maxsize=100_000)
def _sha256(path: Path, size: int, mtime: int) -> str:
    return file_digest(path)


def is_unchanged(path: Path, facts: FileFacts) -> bool:
    """Return whether a file is what its facts say: by size and time, by its hash where the time differs."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode) or found.st_size != facts.size:
            return False
        return found.st_mtime_ns == facts.mtime or file_digest(path) == facts.sha256
    except OSError:
        return False


class ImageReader(ABC):
    """Reads the images below a root: a folder, .tar or .npz."""

    root: Path

    @abstractmethod
    def pixels(self, place: ImagePlace) -> np.ndarray:
        """Return an image, uint8 [H, W, 3].

        Raises:
            UnreadableImage: if it is missing or cannot be decoded.
            DataError: if it has transparency, more than 8 bits a channel, or does not divide into tiles.
        """

    def file(self, place: ImagePlace) -> str:
        """Return the file below the root that holds an image; "" is the root itself."""
        return ""


class PlacedFiles(ImageReader):
    """Image files by name, each a picture or a `grid` (rows, columns) of them."""

    def __init__(self, root: Path, grid: tuple[int, int] | None = None) -> None:
        self.root, self.grid = root, grid
        self._last: tuple[str, np.ndarray] | None = None

    @abstractmethod
    def names(self, left_out: LeftOut) -> dict[str, int]:
        """Return the images in natural order: name -> bytes; other files are counted as left out."""

    @abstractmethod
    def content(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Return the first bytes of an image file, by default all; `UnreadableImage` where it cannot be read."""

    def shown(self, name: str) -> str:
        """Return what messages call an image."""
        return printable(str(self.root / name))

    def format(self, name: str) -> str | None:
        """Return an image's format by its first bytes, None where it cannot be read or has none."""
        try:
            return format_of(self.content(name, HEAD))
        except UnreadableImage:
            return None

    def pixels(self, place: ImagePlace) -> np.ndarray:
        if place.row is None or self.grid is None:
            return self._decoded(place.file)
        # The tiles of one file follow each other.
        if self._last is None or self._last[0] != place.file:
            self._last = place.file, self._decoded(place.file)
        picture, (rows, columns) = self._last[1], self.grid
        if picture.shape[0] % rows or picture.shape[1] % columns:
            raise DataError(
                f"{self.shown(place.file)} is {picture.shape[0]}x{picture.shape[1]}, which does not divide into "
                f"{rows}x{columns} images. Name the grid that was made with --layout grid:ROWSxCOLUMNS."
            )
        height, width = picture.shape[0] // rows, picture.shape[1] // columns
        top, left = place.row // columns * height, place.row % columns * width
        return picture[top : top + height, left : left + width]

    def _decoded(self, name: str) -> np.ndarray:
        return np.asarray(decode(self.content(name), self.shown(name), transparency="refuse"))


class FolderReader(PlacedFiles):
    """Image files below a folder."""

    def names(self, left_out: LeftOut) -> dict[str, int]:
        return list_images(self.root, left_out)

    def file(self, place: ImagePlace) -> str:
        return place.file

    def content(self, name: str, most: int = MOST_BYTES) -> bytes:
        path = self.root / name
        try:
            # A pipe without a writer is not waited for.
            with open(path, "rb", opener=lambda file, flags: os.open(file, flags | os.O_NONBLOCK)) as file:
                return file.read(most)
        except OSError as error:
            if not os.path.lexists(path):
                raise UnreadableImage(f"{self.shown(name)} is missing") from None
            reason = "it is a link to nothing" if not os.path.exists(path) else error.strerror
            raise UnreadableImage(f"cannot read image {self.shown(name)}: {reason}") from None


class TarReader(PlacedFiles):
    """Image files in an uncompressed .tar, each read where it stands."""

    def __init__(self, root: Path, grid: tuple[int, int] | None = None) -> None:
        """Read the list of members.

        Raises:
            DataError: if it is no such archive, or holds two images of one name.
        """
        super().__init__(root, grid)
        self._others: list[tuple[str, str]] = []
        self._members: dict[str, tuple[int, int]] = {}
        try:
            if not root.is_file():
                # A pipe without a writer would be waited for.
                raise OSError("it is no regular file")
            with tarfile.open(root, "r:") as opened:
                for member in opened:
                    self._take(member)
        except (OSError, tarfile.TarError, ValueError, EOFError) as error:
            raise DataError(
                f"{printable(str(root))} cannot be read as .tar ({first_line(error)[:200]}). Give an uncompressed "
                ".tar, or unpack it and give the folder."
            ) from None

    def _take(self, member: tarfile.TarInfo) -> None:
        name = member.name.removeprefix("./").lstrip("/")
        if member.isdir():
            return
        if any(map(is_hidden, name.split("/"))):
            self._others.append(("hidden entries", name))
        elif not member.isreg() or member.issparse():
            self._others.append(("members that are no plain files", name))
        elif not is_image(name):
            self._others.append(("files that are no images", name))
        elif name in self._members:
            raise DataError(f"{self.shown(name)} is twice in the archive. Keep one of them.")
        elif len(self._members) == bounds.IMAGES:
            raise DataError(f"{printable(str(self.root))} holds more than {bounds.IMAGES:,} images. Split it.")
        else:
            self._members[name] = (member.offset_data, member.size)

    def names(self, left_out: LeftOut) -> dict[str, int]:
        for reason, name in self._others:
            left_out.add(reason, name)
        return {name: self._members[name][1] for name in sorted(self._members, key=natural_key)}

    @cached_property
    def _handle(self) -> int:
        return os.open(self.root, os.O_RDONLY)

    def __del__(self) -> None:
        if "_handle" in self.__dict__:
            os.close(self._handle)

    def content(self, name: str, most: int = MOST_BYTES) -> bytes:
        if name not in self._members:
            raise UnreadableImage(f"{self.shown(name)} is missing")
        start, size = self._members[name]
        try:
            data = os.pread(self._handle, min(size, most), start)
        except OSError as error:
            raise UnreadableImage(f"cannot read image {self.shown(name)}: {error.strerror}") from None
        if len(data) < min(size, most):
            raise UnreadableImage(f"cannot read image {self.shown(name)}: the archive ends within it")
        return data


class RowReader(ImageReader):
    """Images uint8 [N, H, W, 3] of an .npz, each read where it stands: 10 GB of them need no 10 GB of memory.

    Attributes:
        count, size: N, and (H, W); at least one image and one pixel.
    """

    def __init__(self, root: Path, key: str) -> None:
        """Open the archive, for as long as this reader lives.

        Raises:
            DataError: if it cannot be read, or the array is no such images.
        """
        self.root = root
        self._file, shape, dtype, fortran = Archive(root).open(key)
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape or fortran:
            raise DataError(
                f"{root}: '{key}' is {dtype} [{few(shape)}]{' in Fortran order' if fortran else ''}. "
                "Images must be uint8 [N, H, W, 3] (RGB, 0..255) with at least one image and one pixel."
            )
        self.count, self.size = shape[0], (shape[1], shape[2])
        if self.count > bounds.IMAGES or max(self.size) > bounds.SIDE:
            raise DataError(
                f"{root}: '{key}' is [{few(shape)}]. At most {bounds.IMAGES:,} images of {bounds.SIDE:,} pixels a "
                "side are read."
            )
        self._start = self._file.tell()

    def pixels(self, place: ImagePlace) -> np.ndarray:
        row = place.row or 0
        if row >= self.count:
            raise UnreadableImage(f"image {row} of {printable(str(self.root))} is missing: it holds {self.count:,}")
        height, width = self.size
        size = height * width * 3
        try:
            self._file.seek(self._start + row * size)
            return np.frombuffer(self._file.read(size), np.uint8).reshape(height, width, 3)
        except FAULTS as error:
            reason = clipped(first_line(error), 200)
            raise DataError(f"{self.root}: image {row} cannot be read ({reason}). Write the file again.") from None


class Given(Strict):
    """How images that exist already are read again: root, tiles of a file, key of the array of an .npz."""

    root: FileName
    grid: tuple[int, int] | None = None
    array: str | None = None

    def open(self) -> ImageReader:
        """Return the reader.

        Raises:
            DataError: if the root is gone or no longer what it was.
        """
        root = Path(self.root)
        if not root.exists():
            raise DataError(f"images {printable(self.root)} are gone: they were moved or deleted. Move them back.")
        if self.array is not None:
            return RowReader(root, self.array)
        return open_files(root, self.grid)


def open_files(root: Path, grid: tuple[int, int] | None = None) -> FolderReader | TarReader:
    """Return the reader of a folder or .tar."""
    return FolderReader(root, grid) if root.is_dir() else TarReader(root, grid)
