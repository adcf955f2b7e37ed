"""Data sets that are arrays, of images or of their latents: a batch costs one indexing operation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from nanogen.data import Batch, Dataset, Item
from nanogen.data.plan import Part, parts_of


@runtime_checkable
class Gathers(Protocol):
    """What makes batches itself, at once: no worker reads ahead for it."""

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray, positions: list[int]) -> Batch:
        """Return the items int64 [B], for these places in the global batch."""
        ...


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

    def batch(self, indices: np.ndarray, positions: list[int]) -> Batch:
        return Batch(
            image=torch.from_numpy(self.images[indices]).permute(0, 3, 1, 2).contiguous(),
            label=None if self.labels is None else torch.from_numpy(self.labels[indices]),
            caption=None if self.captions is None else [self.captions[index] for index in indices],
            positions=positions,
        )


@dataclass(frozen=True)
class KeptLatents:
    """The latents of a data set with its labels or captions, for the loop; no image is decoded or encoded again.

    Attributes:
        latents: float32 [n, C, h, w].
        labels: int64 [n], or None.
        captions: n strings, or None.
        parts: how the images lay, so that the order is the data set's own.
    """

    latents: Tensor
    labels: Tensor | None
    captions: list[str] | None
    parts: tuple[Part, ...]

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, indices: np.ndarray, positions: list[int]) -> Batch:
        places = torch.from_numpy(indices)
        return Batch(
            image=None,
            label=None if self.labels is None else self.labels[places],
            caption=None if self.captions is None else [self.captions[index] for index in indices],
            positions=positions,
            latent=self.latents[places],
        )


def keep_latents(dataset: Dataset, batches: Iterable[Batch], encode: Callable[[Batch], Tensor]) -> KeptLatents:
    """Encode every image of a data set once.

    Args:
        dataset: whose order is kept.
        batches: all of it, in the order of its indices.
        encode: a batch to its latents, float32 [B, C, h, w].

    Raises:
        DataError: if an image cannot be read; it is named.
    """
    latents: list[Tensor] = []
    labels: list[Tensor] = []
    captions: list[str] = []
    for batch in batches:
        latents.append(encode(batch).cpu())
        labels += [] if batch.label is None else [batch.label]
        captions += batch.caption or []
    return KeptLatents(
        latents=torch.cat(latents),
        labels=torch.cat(labels) if labels else None,
        captions=captions or None,
        parts=parts_of(dataset, len(dataset)),
    )


def array_digest(*arrays: np.ndarray) -> str:
    """Return the SHA-256 over types, shapes and values."""
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
