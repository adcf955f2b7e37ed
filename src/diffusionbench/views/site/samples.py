"""The first stored images of an evaluation as one picture, where an image store lies beside the records.

A store belongs to a record if the hashes of its images give the record's `images_digest`. Only the small lists beside
the images are read for that, so large stores cost nothing; stores of no record are ignored.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field, ValidationError

from diffusionbench.errors import DataError
from diffusionbench.images import decode
from diffusionbench.imagesets import StoredImage, images_digest
from diffusionbench.limits import SMALL, read_small
from diffusionbench.readers import Given, ImagePlace, ImageReader
from diffusionbench.record import Record

SHOWN: Final = 24
# The page in which a small network draws, as `nanogen report` calls it.
LIVE: Final = "live.html"
_COLUMNS: Final = 8
_TILE: Final = 128
# Pixels a side; two dozen of them take a gigabyte.
_LARGEST: Final = 4096
_UNREADABLE: Final = (DataError, ValidationError, OSError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Sheet:
    """A picture of several images, row by row, and their prompts."""

    png: bytes
    width: int
    height: int
    count: int
    prompts: tuple[str, ...]


class _Chunk(BaseModel):
    """A list of images of a store (`diffusionbench.store` describes it); its other fields are ignored."""

    entries: list[StoredImage]
    shape: tuple[int, int] | None = None
    sizes: list[Annotated[int, Field(ge=1, le=SMALL)]] = []
    places: list[ImagePlace] = []


class _Manifest(BaseModel):
    """What a store says of images that exist already; its other fields are ignored."""

    given: Given | None = None


class Store:
    """The lists of one image store (`diffusionbench.store` describes its files)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._digests: dict[int, str | None] = {}

    @cached_property
    def entries(self) -> dict[int, tuple[StoredImage, Path, _Chunk, int]]:
        """Return by image id: its entry, the file of its list, the list, and its row there."""
        found: dict[int, tuple[StoredImage, Path, _Chunk, int]] = {}
        for path in sorted(self.folder.glob("*.json")):
            if path.stem == "store":
                continue
            try:
                chunk = _Chunk.model_validate_json(read_small(path), strict=True)
            except (OSError, ValidationError):
                # No list of a store, or a half-written one: its images are left out.
                continue
            for row, entry in enumerate(chunk.entries):
                found.setdefault(entry.id, (entry, path, chunk, row))
        return found

    def digest(self, count: int) -> str | None:
        """Return the digest of the images 0 .. count - 1 that are here, as a record states it."""
        if count not in self._digests:
            held = [entry for number, (entry, *_) in self.entries.items() if number < count]
            self._digests[count] = images_digest(held) if held else None
        return self._digests[count]

    def sheet(self) -> Sheet | None:
        """Return the first images; None where they cannot be read, are too large for a page, or differ in size."""
        chosen = [self.entries[number] for number in sorted(self.entries)[:SHOWN]]
        try:
            picture = _tiled(np.stack([self._pixels(*one, self._reader) for one in chosen]))
        except _UNREADABLE:
            return None
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG", optimize=True)
        prompts = tuple(entry.prompt for entry, *_ in chosen if entry.prompt is not None)
        return Sheet(buffer.getvalue(), picture.width, picture.height, len(chosen), prompts)

    def picture(self, number: int) -> np.ndarray | None:
        """Return an image uint8 [H, W, 3] by its id; None where it is not here, or as for `sheet`."""
        try:
            return self._pixels(*self.entries[number], self._reader)
        except (KeyError, *_UNREADABLE):
            return None

    @cached_property
    def _reader(self) -> ImageReader | None:
        given = _Manifest.model_validate_json(read_small(self.folder / "store.json"), strict=True).given
        return None if given is None else given.open()

    def _pixels(
        self, entry: StoredImage, path: Path, chunk: _Chunk, row: int, reader: ImageReader | None
    ) -> np.ndarray:
        """Return an image uint8 [H, W, 3] that has the hash of the list.

        Raises:
            ValueError: if it has another one, or is not where the list says.
            DataError, OSError: if it cannot be read.
        """
        if chunk.shape is None or max(chunk.shape) > _LARGEST:
            raise ValueError("too large for a page")
        if row < len(chunk.sizes):
            with path.with_suffix(".images").open("rb") as file:
                file.seek(sum(chunk.sizes[:row]))
                data = file.read(chunk.sizes[row])
            is_raw = len(data) == 3 * chunk.shape[0] * chunk.shape[1]
            pixels = np.frombuffer(data, np.uint8).reshape(*chunk.shape, 3) if is_raw else _decoded(data)
        elif row < len(chunk.places) and reader is not None:
            place = chunk.places[row]
            file_ = reader.root / reader.file(place)
            if not file_.is_file() or (place.row is None and file_.stat().st_size > SMALL):
                raise ValueError("no image of a size for a page")
            pixels = reader.pixels(place)
        else:
            raise ValueError("the list names no place")
        # Nothing is shown that the record does not state.
        if hashlib.sha256(pixels.tobytes()).hexdigest() != entry.sha256:
            raise ValueError("another image")
        return pixels


def _decoded(data: bytes) -> np.ndarray:
    # The size stands at the beginning, before anything is unpacked.
    with warnings.catch_warnings(action="ignore"):
        size = Image.open(io.BytesIO(data), formats=("PNG",)).size
    if max(size) > _LARGEST:
        raise ValueError("too large for a page")
    return np.asarray(decode(data, "of a chunk", transparency="refuse"))


def _tiled(images: np.ndarray) -> Image.Image:
    """Return images uint8 [n, H, W, 3] side by side; small ones enlarged by a whole factor, large ones reduced."""
    height, width = images.shape[1:3]
    small = max(height, width) < _TILE
    factor = max(1, 48 // max(height, width))
    size = (width * factor, height * factor) if small else (_TILE, _TILE)
    columns = min(_COLUMNS, len(images))
    gap = 2
    sheet = Image.new(
        "RGB",
        (columns * (size[0] + gap) - gap, -(-len(images) // columns) * (size[1] + gap) - gap),
        (128, 128, 128),
    )
    way = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    for index, image in enumerate(images):
        tile = Image.fromarray(image).resize(size, way)
        sheet.paste(tile, (index % columns * (size[0] + gap), index // columns * (size[1] + gap)))
    return sheet


def find_stores(folders: Iterable[Path]) -> list[Store]:
    """Return every image store below the folders."""
    found = {path.parent.resolve(): None for folder in folders for path in sorted(folder.rglob("store.json"))}
    return [Store(folder) for folder in found]


def find_live(folders: Iterable[Path]) -> bytes | None:
    """Return the first page below the folders in which a network draws in the browser (`nanogen report` writes it)."""
    pages = (path.read_bytes() for folder in folders for path in sorted(folder.rglob(LIVE)))
    return next((page for page in pages if b"NanoGen live</title>" in page[:2000]), None)


def sheet_of(record: Record, stores: Iterable[Store]) -> Sheet | None:
    """Return the samples of a record, or None where no store holds its images."""
    wanted, count = record.provenance.images_digest, record.protocol.count
    if wanted is None or count is None:
        return None
    store = next((store for store in stores if store.digest(count) == wanted), None)
    return None if store is None else store.sheet()
