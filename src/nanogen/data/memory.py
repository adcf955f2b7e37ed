"""A data set that is one array: small sets cost one indexing operation a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nanogen.data import Dataset, Item


@dataclass(frozen=True)
class InMemory:
    """Decoded images with their labels or captions.

    Attributes:
        images: uint8 [n, H, W, 3].
        labels: int64 [n], or None.
        captions: n strings, or None.
        classes: names of the classes in the order of their labels, or None where unknown.
        num_classes: number of classes, or None without labels.
        digest: SHA-256 over the list of images.
    """

    images: np.ndarray
    labels: np.ndarray | None
    captions: Sequence[str] | None
    classes: tuple[str, ...] | None
    num_classes: int | None
    digest: str

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Item:
        return Item(self.images[index], None if self.labels is None else int(self.labels[index]), self.caption(index))

    @property
    def captioned(self) -> bool:
        return self.captions is not None

    def caption(self, index: int) -> str | None:
        return None if self.captions is None else self.captions[index]


def array_digest(*arrays: np.ndarray) -> str:
    """SHA-256 over types, shapes and values."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype.str}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()


def into_memory(dataset: Dataset) -> InMemory:
    """Decode a whole data set once; takes n * H * W * 3 bytes.

    Raises:
        DataError: if an image cannot be read; it is named.
    """
    if isinstance(dataset, InMemory):
        return dataset
    items = [dataset[index] for index in range(len(dataset))]
    labels = [item.label for item in items if item.label is not None]
    captions = [item.caption for item in items if item.caption is not None]
    return InMemory(
        images=np.stack([item.image for item in items]),
        labels=np.array(labels, np.int64) if labels else None,
        captions=captions or None,
        classes=dataset.classes,
        num_classes=dataset.num_classes,
        digest=dataset.digest,
    )
