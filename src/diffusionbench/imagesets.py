"""Images that can be scored: the types that a store and a source read as it goes have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Annotated, NamedTuple, Protocol

import numpy as np
from pydantic import Field

from diffusionbench import bounds
from diffusionbench.errors import DataError
from diffusionbench.sample import Sample, plain_item
from diffusionbench.schema import digest
from diffusionbench.source import ImageSource, UnreadableImages


class StoredImage(NamedTuple):
    """One image as a manifest knows it."""

    id: Annotated[int, Field(ge=0, lt=bounds.IMAGES)]
    label: Annotated[int, Field(gt=-bounds.CLASSES, lt=bounds.CLASSES)] | None
    prompt: str | None
    sha256: str

    def sample(self) -> Sample:
        """Return its sample, as far as a manifest knows what was asked."""
        return Sample(self.id, plain_item(self.label, self.prompt))


class ImageSet(Protocol):
    """Images that can be scored: a store, or a source read as it goes.

    Attributes:
        description: where the images come from.
    """

    description: str

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
    return digest([list(entry) for entry in sorted(entries)])


def hashed(samples: Sequence[Sample], images: np.ndarray) -> list[StoredImage]:
    """Return the manifest entries of a batch uint8 [B, H, W, 3]."""
    return [
        StoredImage(sample.id, sample.label, sample.prompt, hashlib.sha256(image.tobytes()).hexdigest())
        for sample, image in zip(samples, images, strict=True)
    ]


def read(source: ImageSource, samples: Sequence[Sample]) -> tuple[list[Sample], np.ndarray | None, dict[int, str]]:
    """Ask a source for samples: those that could be read, their images (None if there are none), and the faults.

    Raises:
        DataError: if what comes back is not uint8 [B, H, W, 3].
    """
    kept, faults = list(samples), {}
    try:
        images = source.images(kept)
    except UnreadableImages as error:
        faults = error.reasons
        if not (kept := [sample for sample in samples if sample.id not in faults]):
            return [], None, faults
        images = source.images(kept)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[::3] != (len(kept), 3):
        raise DataError(
            f"{source.description} gave {images.dtype} {list(images.shape)} for {len(kept)} samples. "
            "Images must be uint8 [B, H, W, 3]."
        )
    return kept, images, faults


class ImageStream:
    """A source read as it is scored; nothing is kept but hashes."""

    def __init__(self, source: ImageSource, samples: Sequence[Sample]) -> None:
        self.description = source.description
        self._source = source
        self._samples = samples
        self._entries: list[StoredImage] = []
        self._unreadable: dict[int, str] = {}

    def batches(self, count: int) -> Iterator[tuple[list[Sample], np.ndarray]]:
        """See `ImageSet`."""
        self._entries, self._unreadable = [], {}
        size = self._source.preferred_batch
        for start in range(0, count, size):
            samples, images, faults = read(self._source, self._samples[start : min(start + size, count)])
            self._unreadable |= faults
            if images is not None:
                self._entries += hashed(samples, images)
                yield samples, images

    def entries(self, count: int) -> list[StoredImage]:
        """See `ImageSet`."""
        return self._entries[:count]

    def unreadable(self, count: int) -> dict[int, str]:
        """See `ImageSet`."""
        return {sample: fault for sample, fault in self._unreadable.items() if sample < count}

    def seconds(self) -> float:
        """Return zero: reading is part of scoring."""
        return 0.0
