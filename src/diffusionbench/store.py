"""Keeps the images of an evaluation, so that an interrupted one continues and another metric needs no new images.

A store is a folder: `store.json` says whose images these are. A chunk of images is a `NAME.json`, which lists them, and
`NAME.images` with their pixels, each without loss as PNG or raw, whichever is smaller. Images that exist already as
files are not copied: their chunks list where they are and what they are recognised by. The `NAME.json` is written last
and alone makes a chunk count, so several processes may add to one store at once, and a process may die at any moment.

A chunk's list is bound to its store, and its file to the list, by hashes. Files are trusted by size and time of change
when a store is opened, and hashed where these differ, when images are read, and by `verify`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import Field, ValidationError

from diffusionbench import bounds
from diffusionbench.errors import DataError, RequestError, RunError
from diffusionbench.images import UnreadableImage, decode, encode_png
from diffusionbench.imagesets import StoredImage, hashed
from diffusionbench.limits import parse_json, read_small
from diffusionbench.readers import FileFacts, FileName, Given, ImagePlace, ImageReader, facts_of, is_unchanged
from diffusionbench.request import EvalRequest
from diffusionbench.sample import Sample
from diffusionbench.schema import Strict, digest
from diffusionbench.source import ImageSource
from diffusionbench.writing import write_atomic

STORE = "store.json"
CHUNK = 128
BATCH = 64
# Photographs take 59 % of their raw size at level 1 and 58 % at level 3, which is a fifth slower.
_LEVEL: Final = 1


class StoreManifest(Strict):
    """Says which images a store holds: `key` decides, the rest is for users and for scoring again.

    Attributes:
        image_format: in which images that exist already are kept; None where they were made.
        given: how images that exist already are read; None where the store holds pixels.
    """

    schema_version: Literal[2] = 2
    key: str
    description: str
    image_format: str | None = None
    given: Given | None = None
    request: EvalRequest

    @classmethod
    def of(cls, key: str, source: ImageSource, request: EvalRequest) -> StoreManifest:
        """Return the manifest for a source's images."""
        image_format, given = getattr(source, "image_format", None), getattr(source, "given", None)
        return cls(key=key, description=source.description, image_format=image_format, given=given, request=request)


class StoredChunk(Strict):
    """The list of a chunk.

    Attributes:
        store: key of the store.
        entries: its images.
        shape: (height, width) of them all.
        sizes: bytes of each in the chunk's file, one behind the other: raw pixels where they are as many, else a PNG;
            none where the images exist already.
        places: where images lie that exist already; else none.
        files: what the file or files with the pixels are recognised by; names are below the store, or below the root of
            images that exist already, where "" is the root itself.
        unreadable: faults of samples without an image.
        seconds: that the images took.
        seal: SHA-256 over all of this but times.
    """

    store: str
    entries: tuple[StoredImage, ...]
    shape: tuple[int, int] | None = None
    sizes: tuple[Annotated[int, Field(ge=1)], ...] = ()
    places: tuple[ImagePlace, ...] = ()
    files: dict[FileName, FileFacts] = {}
    unreadable: dict[Annotated[int, Field(ge=0, lt=bounds.IMAGES)], str] = {}
    seconds: float = 0.0
    seal: str = ""

    def hashed(self) -> str:
        """Return what the seal must be."""
        timeless = {"files": {"__all__": {"mtime"}}, "seconds": True, "seal": True}
        return digest(self.model_dump(mode="json", exclude=timeless))  # type: ignore[arg-type]

    @property
    def is_consistent(self) -> bool:
        """Whether the seal holds and each image has its place."""
        found = len(self.sizes) + len(self.places)
        return self.seal == self.hashed() and found == len(self.entries) and not (self.sizes and self.places)

    def part(self, row: int) -> slice:
        """Return where the pixels of an image stand in the chunk's file."""
        start = sum(self.sizes[:row])
        return slice(start, start + self.sizes[row])


class ImageStore:
    """One folder of images; see the module.

    Attributes:
        description, image_format: see `ImageSet`.
    """

    def __init__(self, folder: Path) -> None:
        """Open a store that exists.

        Raises:
            DataError: if the folder is no store.
        """
        self.folder = folder
        self.manifest = _read_manifest(folder)
        self.description = self.manifest.description
        self.image_format = self.manifest.image_format
        self._chunks: dict[str, StoredChunk] = {}
        self._place: dict[int, tuple[str, int]] = {}
        self._faults: dict[int, str] = {}
        # Of images that exist already, and are no longer what they were.
        self._changed: dict[int, str] = {}

    @classmethod
    def create(cls, folder: Path, manifest: StoreManifest, source: ImageSource | None = None) -> ImageStore:
        """Open a store, made if it is not there.

        Args:
            source: of images that exist already: says where each lies. Without it no such image can be added.

        Raises:
            RequestError: if the folder holds the images of another request or source.
        """
        if not (folder / STORE).exists():
            write_atomic(folder / STORE, manifest.model_dump_json(indent=2) + "\n")
        store = cls(folder)
        if store.manifest.key == manifest.key and manifest.given and not store._has_root():
            # The same images lie elsewhere now.
            store.manifest = store.manifest.model_copy(update={"given": manifest.given})
            write_atomic(folder / STORE, store.manifest.model_dump_json(indent=2) + "\n")
        store._source = source
        if store.manifest.key != manifest.key:
            raise RequestError(
                f"image store {folder} holds images of {store.description} (key {store.manifest.key[:12]}), and "
                f"this request needs others (key {manifest.key[:12]}: another source, seed or sampling). Use another "
                "folder."
            )
        return store

    _source: Any = None

    def missing(self, samples: Sequence[Sample]) -> list[Sample]:
        """Return the samples that still need an image; one in a damaged chunk does, and one whose file has changed.

        Raises:
            RequestError: if an image was stored for another item, label, prompt or seed.
        """
        self._refresh()
        absent = []
        for sample in samples:
            if sample.id in self._place:
                self._check_asked(self._entry(sample.id), sample)
            elif sample.id not in self._faults:
                absent.append(sample)
        return absent

    def _check_asked(self, entry: StoredImage, sample: Sample) -> None:
        found = entry.sample()
        if (found.label, found.prompt) != (sample.label, sample.prompt):
            stored, now = (
                f"label {of.label}" if of.prompt is None else f"prompt {of.prompt!r}" for of in (found, sample)
            )
        elif (found.item.key, found.k, found.seed) != (sample.item.key, sample.k, sample.seed):
            stored, now = (f"image {of.k} of item {of.item.key!r} with seed {of.seed}" for of in (found, sample))
        else:
            return
        raise RequestError(
            f"image store {self.folder} has image {sample.id} for {stored}, and {now} is asked for now. Use another "
            "folder."
        )

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
        name = self._free_name(min([sample.id for sample in samples] + list(faults)))
        if not (self.folder / STORE).exists():
            raise RunError(
                f"image store {self.folder} is gone: it was moved or deleted while it was filled. Move it back and "
                "start the same command again."
            )
        pixels: dict[str, Any] = {"entries": ()}
        if images is not None:
            pixels = {"entries": tuple(hashed(samples, images)), "shape": images.shape[1:3]}
            if self.manifest.given is None:
                pixels |= self._written(f"{name}.images", images)
            else:
                places = tuple(self._source.place(sample) for sample in samples)
                files = dict.fromkeys(map(self._reader.file, places))
                pixels |= {"places": places, "files": {name: facts_of(self._reader.root / name) for name in files}}
        chunk = StoredChunk(store=self.manifest.key, unreadable=faults, seconds=seconds, **pixels)
        chunk = chunk.model_copy(update={"seal": chunk.hashed()})
        write_atomic(self.folder / f"{name}.json", chunk.model_dump_json() + "\n")

    def _written(self, name: str, images: np.ndarray) -> dict[str, Any]:
        """Write the pixels of a chunk, and return what its list says of them."""
        parts = [*map(_packed, images)]
        data, path = b"".join(parts), self.folder / name
        write_atomic(path, data)
        # Of what was written, not of what may stand there by now.
        facts = FileFacts(size=len(data), mtime=path.stat().st_mtime_ns, sha256=hashlib.sha256(data).hexdigest())
        return {"sizes": tuple(map(len, parts)), "files": {name: facts}}

    def _free_name(self, first: int) -> str:
        """Return the name of a new chunk; a damaged one of this name gives way, a sound one does not."""
        self._refresh()
        name, number = f"{first:07d}", 1
        while name in self._chunks:
            name, number = f"{first:07d}-{number}", number + 1
        return name

    def ids(self) -> list[int]:
        """Return the samples that are here, unreadable ones among them, by rising id."""
        self._refresh()
        return sorted(self._known())

    def _known(self) -> set[int]:
        return {*self._place, *self._faults, *self._changed}

    def chunks(self) -> list[str]:
        """Return the names of the whole chunks: the files of one begin with its name and a dot."""
        self._refresh()
        return sorted(self._chunks)

    def sizes(self) -> set[tuple[int, int]]:
        """Return every (height, width) of the images."""
        self._refresh()
        return {chunk.shape for chunk in self._chunks.values() if chunk.shape is not None}

    def count(self) -> int:
        """Return how many samples from 0 on are there without a gap, unreadable ones among them."""
        self._refresh()
        known = self._known()
        return next(sample for sample in range(len(known) + 1) if sample not in known)

    def asked(self) -> int:
        """Return how many samples there should be: as many as the store was made for, or as later requests asked."""
        self._refresh()
        return max([self.manifest.request.count, *(sample + 1 for sample in self._known())])

    def check_whole(self, count: int, start: int = 0) -> None:
        """Check that the samples from `start` to `count` - 1 are there.

        Raises:
            DataError: if one is missing or its chunk is damaged.
        """
        self._refresh()
        known = self._known()
        gaps = [sample for sample in range(start, count) if sample not in known]
        if gaps:
            raise DataError(
                f"image store {self.folder} lacks {len(gaps):,} of {count - start:,} images (first: {gaps[0]}), or "
                "their files are damaged. Run the command that filled it again: it makes only what is missing."
            )

    def verify(self, count: int) -> None:
        """Read and hash the first `count` images; those of files that have changed become unreadable."""
        for _ in self.batches(count):
            pass

    def batches(self, count: int) -> Iterator[tuple[list[Sample], np.ndarray]]:
        """See `ImageSet`.

        Raises:
            DataError: as `check_whole`, or if a chunk is damaged.
        """
        self.check_whole(count)
        yield from self.some(range(count))

    def some(self, ids: Collection[int]) -> Iterator[tuple[list[Sample], np.ndarray]]:
        """Give the images of those of some samples, of rising ids, that are here; a damaged chunk is a DataError."""
        self._refresh()
        stored = [sample for sample in ids if sample in self._place]
        for name, group in groupby(stored, key=lambda sample: self._place[sample][0]):
            chunk, rows = self._chunks[name], [self._place[sample][1] for sample in group]
            content = b"" if chunk.places or not rows else self._content(name)
            for start in range(0, len(rows), BATCH):
                read = {row: self._pixels(name, row, content) for row in rows[start : start + BATCH]}
                found = {row: image for row, image in read.items() if image is not None}
                if found:
                    yield [chunk.entries[row].sample() for row in found], np.stack([*found.values()])

    def entries(self, count: int) -> list[StoredImage]:
        self._refresh()
        return [self._entry(sample) for sample in range(count) if sample in self._place]

    def _entry(self, sample: int) -> StoredImage:
        name, row = self._place[sample]
        return self._chunks[name].entries[row]

    def unreadable(self, count: int) -> dict[int, str]:
        self._refresh()
        faults = {**self._changed, **self._faults}
        return {sample: fault for sample, fault in sorted(faults.items()) if sample < count}

    def seconds(self) -> float:
        self._refresh()
        return sum(chunk.seconds for chunk in self._chunks.values())

    def _refresh(self) -> None:
        """Take up chunks that other processes added; leave out damaged ones."""
        for path in sorted(self.folder.glob("[0-9]*.json")):
            if path.stem in self._chunks:
                continue
            try:
                chunk = StoredChunk.model_validate(parse_json(read_small(path)))
            except (OSError, ValueError):
                continue
            # Files of images that exist already are looked at when the chunk is taken up.
            files = {} if chunk.places else chunk.files
            whole = all(is_unchanged(self.folder / name, facts) for name, facts in files.items())
            if chunk.store == self.manifest.key and chunk.is_consistent and whole:
                self._take(path.stem, chunk)

    def _take(self, name: str, chunk: StoredChunk) -> None:
        self._chunks[name] = chunk
        changed = self._changed_files(chunk)
        for row, entry in enumerate(chunk.entries):
            file = self._reader.file(chunk.places[row]) if changed else None
            if file in changed:
                if entry.id not in self._place:
                    self._changed[entry.id] = changed[file]
            elif self._place.setdefault(entry.id, (name, row)) == (name, row):
                self._changed.pop(entry.id, None)
        self._faults |= chunk.unreadable

    def _changed_files(self, chunk: StoredChunk) -> dict[str | None, str]:
        """Return a sentence for each file of images that exist already that is gone or no longer what it was.

        Nothing where all of them lie elsewhere: evidence of them is as good, and reading tells whoever needs pixels.
        """
        if not chunk.places or not self._has_root():
            return {}
        root = self._reader.root
        return {
            name: f"{root / name} has changed since its images were first read, or is gone"
            for name, facts in chunk.files.items()
            if not is_unchanged(root / name, facts)
        }

    def _has_root(self) -> bool:
        """Return whether the folder or archive of images that exist already is there."""
        return self.manifest.given is None or Path(self.manifest.given.root).exists()

    @cached_property
    def _reader(self) -> ImageReader:
        assert self.manifest.given is not None
        return self.manifest.given.open()

    def _content(self, name: str) -> bytes:
        """Return what is in the file of a chunk; every image in it is hashed when it is taken out."""
        path = self.folder / f"{name}.images"
        try:
            return path.read_bytes()
        except OSError:
            raise self._damaged(path) from None

    def _damaged(self, path: Path) -> DataError:
        # A file of the size and time that its list names would be trusted again.
        with suppress(OSError):
            os.utime(path)
        return DataError(f"{path} is damaged. Run the command that filled the store again: it makes its images anew.")

    def _pixels(self, name: str, row: int, content: bytes) -> np.ndarray | None:
        """Return an image uint8 [H, W, 3], or None where its file has changed; a damaged chunk is an error."""
        chunk, entry = self._chunks[name], self._chunks[name].entries[row]
        assert chunk.shape is not None
        fault = None
        try:
            if chunk.places:
                pixels = self._reader.pixels(chunk.places[row])
            else:
                pixels = _unpacked(content[chunk.part(row)], chunk.shape)
            if pixels.shape == (*chunk.shape, 3) and hashlib.sha256(pixels.tobytes()).hexdigest() == entry.sha256:
                return pixels
        except UnreadableImage as error:
            fault = error.fault
        except (DataError, ValueError):
            pass
        if not chunk.places:
            raise self._damaged(self.folder / f"{name}.images")
        path = self._reader.root / self._reader.file(chunk.places[row])
        self._changed[entry.id] = fault or f"{path}: image {entry.id} has changed since it was first read"
        del self._place[entry.id]
        return None


def _read_manifest(folder: Path) -> StoreManifest:
    try:
        found = parse_json(read_small(folder / STORE))
        if isinstance(found, dict) and found.get("schema_version", 1) == 1 and "key" in found:
            raise DataError(
                f"image store {folder} is of version 1, and version 2 is read. Its images cannot be taken over: delete "
                "the folder and run the command that filled it again, which makes them anew."
            )
        return StoreManifest.model_validate(found)
    except OSError as error:
        raise DataError(f"{folder} is no image store: it has no store.json ({error.strerror}).") from None
    except ValidationError as error:
        raise DataError(f"{folder / STORE} does not fit the schema: {error.errors()[0]['msg']}.") from None
    except ValueError as error:
        raise DataError(f"{folder / STORE} is no JSON ({error}). Use another folder.") from None


def _packed(image: np.ndarray) -> bytes:
    """Return an image uint8 [H, W, 3] as PNG, or raw where that is as small."""
    raw, png = image.tobytes(), encode_png(image, level=_LEVEL)
    return png if len(png) < len(raw) else raw


def _unpacked(data: bytes, shape: tuple[int, int]) -> np.ndarray:
    """Return an image; raises DataError or ValueError where the bytes are no such image."""
    if len(data) == 3 * shape[0] * shape[1]:
        return np.frombuffer(data, np.uint8).reshape(*shape, 3)
    return np.asarray(decode(data, "of a chunk", transparency="refuse"))
