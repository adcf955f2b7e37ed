"""Images that can be scored: the types that a store and a source read as it goes have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple, Protocol

import numpy as np
from pydantic import Field

from diffusionbench import bounds
from diffusionbench.errors import DataError
from diffusionbench.sample import UNKNOWN, Item, Sample
from diffusionbench.schema import digest
from diffusionbench.source import ImageSource, UnreadableImages


class StoredImage(NamedTuple):
    """One image as a manifest knows it.

    Attributes:
        id, k, seed: see `Sample`.
        key, label, prompt: see `Item`; the prompt is its text.
        sha256: of the pixels.
    """

    id: Annotated[int, Field(ge=0, lt=bounds.IMAGES)]
    label: Annotated[int, Field(gt=-bounds.CLASSES, lt=bounds.CLASSES)] | None
    prompt: str | None
    sha256: str
    key: str = UNKNOWN.key
    k: Annotated[int, Field(ge=0, lt=bounds.IMAGES)] = 0
    seed: Annotated[int, Field(ge=0, le=bounds.SEED)] | None = None

    def sample(self) -> Sample:
        """Return its sample, as far as a manifest knows what was asked."""
        return Sample(self.id, Item(self.key, self.label, self.prompt), self.k, self.seed)


class ImageSet(Protocol):
    """Images that can be scored: a store, or a source read as it goes.

    Attributes:
        description: where the images come from.
        image_format: see `ImageSource`; None where they were made.
    """

    description: str
    image_format: str | None

    def batches(self, count: int) -> Iterator[tuple[list[Sample], np.ndarray]]:
        """Give the readable ones of samples 0 .. count - 1 in order, in batches of one size."""
        ...

    def entries(self, count: int) -> list[StoredImage]:
        """Return what `batches` gave, by id; complete once it has ended."""
        ...

    def unreadable(self, count: int) -> dict[int, str]:
        """Fault by id of the samples that `batches` left out."""
        ...

    def seconds(self) -> float:
        """Time spent making the images, summed over processes."""
        ...


def images_digest(entries: Sequence[StoredImage]) -> str:
    """Return the SHA-256 over ids, labels, prompts and pixels: how the images were made or stored plays no part."""
    return digest(sorted([one.id, one.label, one.prompt, one.sha256] for one in entries))


def hashed(samples: Sequence[Sample], images: np.ndarray) -> list[StoredImage]:
    """Return the manifest entries of a batch uint8 [B, H, W, 3]."""
    return [
        StoredImage(
            id=sample.id,
            label=sample.label,
            prompt=sample.prompt,
            sha256=hashlib.sha256(image.tobytes()).hexdigest(),
            key=sample.item.key,
            k=sample.k,
            seed=sample.seed,
        )
        for sample, image in zip(samples, images, strict=True)
    ]


def read(source: ImageSource, samples: Sequence[Sample]) -> tuple[list[Sample], np.ndarray | None, dict[int, str]]:
    """Ask a source for samples: those that could be read, their images (None if there are none), and the faults.

    The images are a copy: a source may use its array again.

    Raises:
        DataError: if what comes back is not uint8 [B, H, W, 3] with B samples and at least one pixel.
    """
    kept, faults = list(samples), {}
    try:
        images = source.images(kept)
    except UnreadableImages as error:
        faults = error.reasons
        if not (kept := [sample for sample in samples if sample.id not in faults]):
            return [], None, faults
        images = source.images(kept)
    given = np.array(images)
    is_sound = given.dtype == np.uint8 and given.ndim == 4 and given.shape[::3] == (len(kept), 3) and given.size
    if not isinstance(images, np.ndarray) or not is_sound:
        values = f" from {given.min():g} to {given.max():g}" if given.size and given.dtype.kind in "biuf" else ""
        raise DataError(
            f"{source.description} gave {type(images).__name__} {given.dtype} {list(given.shape)}{values} for "
            f"{len(kept)} samples. Images must be a uint8 array [{len(kept)}, H, W, 3] with values from 0 to 255."
        )
    return kept, given, faults


class ImageStream:
    """A source read as it is scored; nothing is kept but hashes."""

    def __init__(self, source: ImageSource, samples: Sequence[Sample]) -> None:
        self.description = source.description
        self.image_format: str | None = getattr(source, "image_format", None)
        self._source = source
        self._samples = samples
        self._entries: list[StoredImage] = []
        self._unreadable: dict[int, str] = {}

    def batches(self, count: int) -> Iterator[tuple[list[Sample], np.ndarray]]:
        self._entries, self._unreadable = [], {}
        size = self._source.preferred_batch
        for start in range(0, count, size):
            samples, images, faults = read(self._source, self._samples[start : min(start + size, count)])
            self._unreadable |= faults
            if images is not None:
                self._entries += hashed(samples, images)
                yield samples, images

    def entries(self, count: int) -> list[StoredImage]:
        return self._entries[:count]

    def unreadable(self, count: int) -> dict[int, str]:
        return {sample: fault for sample, fault in self._unreadable.items() if sample < count}

    def seconds(self) -> float:
        """Return zero: reading is part of scoring."""
        return 0.0
