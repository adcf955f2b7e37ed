"""Data sets of which one array an example lies in shards on disk (`nanogen.shards`), read through memory maps.

Images are decoded, cropped and stored at the training's size once: a step then reads bytes and decodes nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from diffusionbench import bounds
from nanogen import shards
from nanogen.data import Batch, Component, Dataset
from nanogen.shards import ShardRecipe


class ImageCacheManifest(ShardRecipe):
    """Recipe of an image cache: uint8 [3, H, W] each.

    Attributes:
        image_size: pixels a side.
        data_digest: SHA-256 of the data set.
    """

    title = "image cache"
    command = "nanogen prepare images"
    setting = "data.cache"
    prefix = "images"
    kind: Literal["nanogen image cache"] = "nanogen image cache"
    version: Literal[1] = 1
    image_size: int = Field(ge=1, le=bounds.SIDE)
    data_digest: str

    @classmethod
    def of(cls, data: Dataset, image_size: int) -> ImageCacheManifest:
        """Return the recipe for a data set."""
        shard = shards.items_of_a_shard(3 * image_size**2, len(data))
        return cls(image_size=image_size, data_digest=data.digest, count=len(data), shard=shard)

    @property
    def shape(self) -> tuple[int, int, int]:
        return 3, self.image_size, self.image_size

    @property
    def dtype(self) -> str:
        return "uint8"

    @property
    def item_bytes(self) -> int:
        return shards.array_bytes(self.shape, self.dtype)


class CachedBatches:
    """A cache as what the loop reads; labels and captions come from the data set.

    A shard is verified when it is first read.

    Args:
        folder: of the cache.
        data: whose examples they are.
        asked: the recipe that is needed now.
        free: fields of it that do not matter.

    Attributes:
        manifest: the recipe of the cache.
        field: of a batch, where its arrays go.

    Raises:
        DataError: if the cache is missing, unfinished or of another recipe.
    """

    manifest: Any
    field: Literal["image", "latent"]

    def __init__(self, folder: Path, data: Dataset, asked: ShardRecipe, free: Collection[str] = ("shard",)) -> None:
        self.folder, self.data = folder, data
        self.manifest = shards.read_manifest(folder, type(asked))
        kept = {name: getattr(self.manifest, name) for name in free}
        shards.check_same(folder, self.manifest, asked.model_copy(update=kept))
        shards.check_complete(folder, self.manifest)
        self._maps: dict[int, Tensor] = {}

    @property
    def components(self) -> tuple[Component, ...]:
        return self.data.components

    def __len__(self) -> int:
        return self.manifest.count

    def rows(self, indices: np.ndarray) -> Tensor:
        """Return the arrays of examples int64 [B], of their stored type [B, ...]; DataError if a shard is damaged."""
        size = self.manifest.shard
        return torch.stack([self._shard(int(index) // size)[int(index) % size] for index in indices])

    def _shard(self, number: int) -> Tensor:
        if number not in self._maps:
            content = torch.from_numpy(shards.read_shard(self.folder, self.manifest, number))
            self._maps[number] = content.view(getattr(torch, self.manifest.dtype)).view(-1, *self.manifest.shape)
        return self._maps[number]

    def batch(self, indices: np.ndarray, positions: list[int]) -> Batch:
        """Return the examples int64 [B], for these places in the global batch; latents are float32."""
        rows = self.rows(indices)
        labels = [self.data.label(int(index)) for index in indices] if self.data.num_classes is not None else []
        return Batch(
            image=rows if self.field == "image" else None,
            latent=rows.float() if self.field == "latent" else None,
            label=torch.tensor(labels) if labels else None,
            caption=[self.data.caption(int(index)) or "" for index in indices] if self.data.captioned else None,
            positions=positions,
        )


class StoredPictures(CachedBatches):
    """An image cache."""

    field = "image"
