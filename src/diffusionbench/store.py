"""Keeps the images of an evaluation, so that an interrupted one continues and another metric needs no new images.

A store is a folder: `store.json` says whose images these are; each `<first id>.npz` holds some images and the
`.json` beside it their ids, labels and hashes. The `.json` is written last and alone makes a chunk count, so
several processes may add to one store at once, and a process may die at any moment.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, ValidationError

from diffusionbench import bounds
from diffusionbench.archives import Archive
from diffusionbench.errors import DataError, RequestError, RunError
from diffusionbench.imagesets import StoredImage, hashed
from diffusionbench.limits import read_small
from diffusionbench.request import EvalRequest
from diffusionbench.sample import Sample
from diffusionbench.schema import Strict, file_digest
from diffusionbench.writing import write_atomic

STORE = "store.json"
CHUNK = 128
BATCH = 64


class StoreManifest(Strict):
    """Says which images a store holds: `key` decides, the rest is for users and for scoring again."""

    schema_version: Literal[1] = 1
    key: str
    description: str
    request: EvalRequest


class StoredChunk(Strict):
    """The images of one .npz file, row by row, and the samples that could not be read when it was written."""

    file_sha256: str
    entries: tuple[StoredImage, ...]
    unreadable: dict[Annotated[int, Field(ge=0, lt=bounds.IMAGES)], str] = {}
    seconds: float = 0.0


class ImageStore:
    """One folder of images; see the module."""

    def __init__(self, folder: Path) -> None:
        """Open a store that exists.

        Raises:
            DataError: if the folder is no store.
        """
        self.folder = folder
        try:
            self.manifest = StoreManifest.model_validate_json(read_small(folder / STORE))
        except OSError as error:
            raise DataError(f"{folder} is no image store: it has no store.json ({error.strerror}).") from None
        except ValidationError as error:
            raise DataError(f"{folder / 'store.json'} does not fit the schema: {error.errors()[0]['msg']}.") from None
        self.description = self.manifest.description
        self._sound: dict[str, StoredChunk] = {}
        self._place: dict[int, tuple[str, int]] = {}
        self._faults: dict[int, str] = {}

    @classmethod
    def create(cls, folder: Path, manifest: StoreManifest) -> ImageStore:
        """Open a store, made if it is not there.

        Raises:
            RequestError: if the folder holds the images of another request or source.
        """
        if not (folder / STORE).exists():
            write_atomic(folder / STORE, manifest.model_dump_json(indent=2) + "\n")
        store = cls(folder)
        if store.manifest.key != manifest.key:
            raise RequestError(
                f"image store {folder} holds images of {store.description} (key {store.manifest.key[:12]}), and "
                f"this request needs others (key {manifest.key[:12]}: another source, seed or sampling). Use another "
                "folder."
            )
        return store

    def missing(self, samples: Sequence[Sample]) -> list[Sample]:
        """Return the samples that still need an image; one in a damaged chunk does.

        Raises:
            RequestError: if an image was stored for another label or prompt.
        """
        self._refresh()
        absent = []
        for sample in samples:
            if sample.id in self._place:
                name, row = self._place[sample.id]
                entry = self._sound[name].entries[row]
                if (entry.label, entry.prompt) != (sample.label, sample.prompt):
                    stored, now = (
                        f"label {of.label}" if of.prompt is None else f"prompt {of.prompt!r}" for of in (entry, sample)
                    )
                    raise RequestError(
                        f"image store {self.folder} has image {sample.id} for {stored}, and {now} is asked for now. "
                        "Use another folder."
                    )
            elif sample.id not in self._faults:
                absent.append(sample)
        return absent

    def add(
        self,
        samples: Sequence[Sample],
        images: np.ndarray | None,
        unreadable: Mapping[int, str] | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Keep a chunk of images uint8 [n, H, W, 3] (None where n = 0) and the faults of the samples without one.

        Raises:
            RunError: if the store is no longer there.
        """
        faults = dict(unreadable or {})
        if images is None:
            images = np.zeros((0, 0, 0, 3), np.uint8)
        name = f"{min([sample.id for sample in samples] + list(faults)):07d}"
        buffer = io.BytesIO()
        np.savez(buffer, images=images)
        data = buffer.getvalue()
        chunk = StoredChunk(
            file_sha256=hashlib.sha256(data).hexdigest(),
            entries=tuple(hashed(samples, images)),
            unreadable=faults,
            seconds=seconds,
        )
        if not (self.folder / STORE).exists():
            raise RunError(
                f"image store {self.folder} is gone: it was moved or deleted while it was filled. Move it back and "
                "start the same command again."
            )
        write_atomic(self.folder / f"{name}.npz", data)
        write_atomic(self.folder / f"{name}.json", chunk.model_dump_json() + "\n")

    def ids(self) -> list[int]:
        """Return the samples that are here, unreadable ones among them, by rising id."""
        self._refresh()
        return sorted(self._place.keys() | self._faults.keys())

    def chunks(self) -> list[str]:
        """Return the names of the whole chunks: the files of one begin with its name and a dot."""
        self._refresh()
        return sorted(self._sound)

    def count(self) -> int:
        """Return how many samples from 0 on are there without a gap, unreadable ones among them."""
        self._refresh()
        known = self._place.keys() | self._faults.keys()
        return next(sample for sample in range(len(known) + 1) if sample not in known)

    def asked(self) -> int:
        """Return how many samples there should be: as many as the store was made for, or as later requests asked."""
        self._refresh()
        return max([self.manifest.request.count, *(sample + 1 for sample in (*self._place, *self._faults))])

    def check_whole(self, count: int, start: int = 0) -> None:
        """Check that the samples from `start` to `count` - 1 are there.

        Raises:
            DataError: if one is missing or its chunk is damaged.
        """
        self._refresh()
        gaps = [sample for sample in range(start, count) if sample not in self._place and sample not in self._faults]
        if gaps:
            raise DataError(
                f"image store {self.folder} lacks {len(gaps):,} of {count - start:,} images (first: {gaps[0]}), or "
                "their files are damaged. Run the command that filled it again: it makes only what is missing."
            )

    def batches(self, count: int) -> Iterator[tuple[list[Sample], np.ndarray]]:
        """See `ImageSet`.

        Raises:
            DataError: as `check_whole`.
        """
        self.check_whole(count)
        yield from self.some(range(count))

    def some(self, ids: Sequence[int]) -> Iterator[tuple[list[Sample], np.ndarray]]:
        """Give the images of those of some samples, of rising ids, that are here and readable."""
        self._refresh()
        stored = [sample for sample in ids if sample in self._place]
        for name, group in groupby(stored, key=lambda sample: self._place[sample][0]):
            images = self._read(name)
            rows = [self._place[sample][1] for sample in group]
            for start in range(0, len(rows), BATCH):
                chosen = rows[start : start + BATCH]
                entries = [self._sound[name].entries[row] for row in chosen]
                yield [entry.sample() for entry in entries], images[chosen]

    def entries(self, count: int) -> list[StoredImage]:
        """See `ImageSet`."""
        self._refresh()
        places = (self._place[sample] for sample in range(count) if sample in self._place)
        return [self._sound[name].entries[row] for name, row in places]

    def unreadable(self, count: int) -> dict[int, str]:
        """See `ImageSet`."""
        self._refresh()
        return {sample: fault for sample, fault in sorted(self._faults.items()) if sample < count}

    def seconds(self) -> float:
        """See `ImageSet`."""
        self._refresh()
        return sum(chunk.seconds for chunk in self._sound.values())

    def _refresh(self) -> None:
        """Take up chunks that other processes added; leave out damaged ones."""
        for path in sorted(self.folder.glob("*.json")):
            name = path.stem
            if name == "store" or name in self._sound:
                continue
            try:
                chunk = StoredChunk.model_validate_json(read_small(path))
                images = self.folder / f"{name}.npz"
                whole = images.is_file() and file_digest(images) == chunk.file_sha256
            except (OSError, ValidationError):
                whole = False
            if not whole:
                continue
            self._sound[name] = chunk
            for row, entry in enumerate(chunk.entries):
                self._place.setdefault(entry.id, (name, row))
            self._faults |= chunk.unreadable

    def _read(self, name: str) -> np.ndarray:
        path, rows = self.folder / f"{name}.npz", len(self._sound[name].entries)
        try:
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() == self._sound[name].file_sha256:
                images = Archive(path, data).read("images")
                if images.dtype == np.uint8 and images.ndim == 4 and images.size and images.shape[::3] == (rows, 3):
                    return images
        except (OSError, DataError):
            pass
        raise DataError(f"{path} was damaged while it was in use. Run the same command again.")
