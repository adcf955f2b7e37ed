"""Data sets that are arrays, of images or of their latents: a batch costs one indexing operation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from nanogen.data import Batch, Component, Dataset, Example


@runtime_checkable
class SupportsBatches(Protocol):
    """A source of training that makes batches itself, at once: no worker reads ahead for it."""

    @property
    def components(self) -> tuple[Component, ...]: ...

    def __len__(self) -> int: ...

    def batch(self, indices: np.ndarray, positions: list[int]) -> Batch:
        """Return the examples int64 [B], for these places in the global batch."""
        ...


@dataclass(kw_only=True, eq=False)
class ArrayDataset(Dataset):
    """Decoded images with their labels or captions.

    Attributes:
        images: uint8 [n, H, W, 3].
        labels: int64 [n], or None.
        captions: n strings, or None.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    captions: Sequence[str] | None = None

    def __post_init__(self) -> None:
        self.captioned = self.captions is not None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Example:
        return Example(self.images[index], self.label(index), self.caption(index))

    def label(self, index: int) -> int | None:
        return None if self.labels is None else int(self.labels[index])

    def caption(self, index: int) -> str | None:
        return None if self.captions is None else self.captions[index]

    def batch(self, indices: np.ndarray, positions: list[int]) -> Batch:
        return Batch(
            image=torch.from_numpy(self.images[indices]).permute(0, 3, 1, 2).contiguous(),
            label=None if self.labels is None else torch.from_numpy(self.labels[indices]),
            caption=None if self.captions is None else [self.captions[index] for index in indices],
            positions=positions,
        )


@dataclass(frozen=True, eq=False)
class CachedLatents:
    """The latents, or the images, of a data set with its labels or captions; nothing is decoded or encoded again.

    Attributes:
        latents: float32 [n, C, h, w]; images: uint8 [n, 3, H, W].
        labels: int64 [n], or None.
        captions: n strings, or None.
        components: those of the data set, so that the order is its own.
        field: of a batch, where they go.
    """

    latents: Tensor
    labels: Tensor | None
    captions: list[str] | None
    components: tuple[Component, ...]
    field: Literal["image", "latent"] = "latent"

    def __len__(self) -> int:
        return len(self.latents)

    def batch(self, indices: np.ndarray, positions: list[int]) -> Batch:
        places = torch.from_numpy(indices)
        rows = self.latents[places]
        return Batch(
            image=rows if self.field == "image" else None,
            label=None if self.labels is None else self.labels[places],
            caption=None if self.captions is None else [self.captions[index] for index in indices],
            positions=positions,
            latent=rows if self.field == "latent" else None,
        )


def cache_latents(
    dataset: Dataset,
    batches: Iterable[Batch],
    encode: Callable[[Batch], Tensor | None],
    field: Literal["image", "latent"] = "latent",
) -> CachedLatents:
    """Encode every image of a data set once.

    Args:
        dataset: whose order is kept.
        batches: all of it, in the order of its indices.
        encode: a batch to its latents, float32 [B, C, h, w], or to what else is kept of its images.
        field: see `CachedLatents`.

    Raises:
        DataError: if an image cannot be read; it is named.
    """
    latents: list[Tensor] = []
    labels: list[Tensor] = []
    captions: list[str] = []
    for batch in batches:
        encoded = encode(batch)
        assert encoded is not None
        latents.append(encoded.cpu())
        labels += [] if batch.label is None else [batch.label]
        captions += batch.caption or []
    whole = torch.cat(labels) if labels else None
    return CachedLatents(torch.cat(latents), whole, captions or None, dataset.components, field)


def array_digest(*arrays: np.ndarray) -> str:
    """Return the SHA-256 over types, shapes and values."""
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype.str}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).data)
    return sha.hexdigest()
