"""The first stored images of an evaluation as one picture, where an image store lies beside the records.

A store belongs to a record if the hashes of its images give the record's `images_digest`. Only the small lists beside
the images are read for that, so large stores cost nothing; stores of no record are ignored.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field, ValidationError

from diffusionbench import bounds
from diffusionbench.archives import ImageRows
from diffusionbench.errors import DataError
from diffusionbench.limits import read_small
from diffusionbench.record import Record
from diffusionbench.schema import digest

SHOWN: Final = 24
_COLUMNS: Final = 8
_TILE: Final = 128
# Pixels a side; two dozen of them take a gigabyte.
_LARGEST: Final = 4096


@dataclass(frozen=True)
class Sheet:
    """A picture of several images, row by row, and their prompts."""

    png: bytes
    width: int
    height: int
    count: int
    prompts: tuple[str, ...]


class _Chunk(BaseModel):
    """A list of images of a store, [id, label, prompt, hash] each; its other fields are ignored."""

    entries: list[tuple[Annotated[int, Field(ge=0, lt=bounds.IMAGES)], int | None, str | None, str]]


class Store:
    """The lists of one image store (`diffusionbench.store` describes its files)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._digests: dict[int, str | None] = {}

    @cached_property
    def entries(self) -> dict[int, tuple[tuple[int, int | None, str | None, str], Path, int]]:
        """Return by image id: [id, label, prompt, hash], its archive, and its row there."""
        found: dict[int, tuple[tuple[int, int | None, str | None, str], Path, int]] = {}
        for path in sorted(self.folder.glob("*.json")):
            if path.stem == "store":
                continue
            try:
                chunk = _Chunk.model_validate_json(read_small(path), strict=True)
            except (OSError, ValidationError):
                # No list of a store, or a half-written one: its images are left out.
                continue
            for row, entry in enumerate(chunk.entries):
                found.setdefault(entry[0], (entry, path.with_suffix(".npz"), row))
        return found

    def digest(self, count: int) -> str | None:
        """Return the digest of the images 0 .. count - 1 that are here."""
        if count not in self._digests:
            held = [entry for number, (entry, _, _) in sorted(self.entries.items()) if number < count]
            self._digests[count] = digest(held) if held else None
        return self._digests[count]

    def sheet(self) -> Sheet | None:
        """Return the first images; None where they cannot be read, are too large for a page, or differ in size."""
        chosen = [self.entries[number] for number in sorted(self.entries)[:SHOWN]]
        try:
            images: dict[tuple[Path, int], np.ndarray] = {}
            for path, places in groupby(sorted((path, row) for _, path, row in chosen), key=itemgetter(0)):
                rows = ImageRows(path, "images")
                if max(rows.size) > _LARGEST:
                    return None
                images |= {place: rows.read(place[1]) for place in places}
            # Only these rows were decompressed; images of different sizes do not stack.
            picture = _tiled(np.stack([images[path, row] for _, path, row in chosen]))
        except (DataError, ValueError, Image.DecompressionBombError):
            return None
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG", optimize=True)
        prompts = tuple(entry[2] for entry, _, _ in chosen if entry[2] is not None)
        return Sheet(buffer.getvalue(), picture.width, picture.height, len(chosen), prompts)


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


def sheet_of(record: Record, stores: Iterable[Store]) -> Sheet | None:
    """Return the samples of a record, or None where no store holds its images."""
    wanted, count = record.provenance.images_digest, record.protocol.count
    if wanted is None or count is None:
        return None
    store = next((store for store in stores if store.digest(count) == wanted), None)
    return None if store is None else store.sheet()
