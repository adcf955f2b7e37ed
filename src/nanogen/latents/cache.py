"""Latents on disk: shards of latents end to end (`nanogen.shards`), and statistics over all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from diffusionbench import bounds
from diffusionbench.errors import DataError
from nanogen import shards
from nanogen.data import Dataset
from nanogen.data.cached import CachedBatches
from nanogen.latents import LatentSpec
from nanogen.shards import Dtype, ShardRecipe


class LatentCacheManifest(ShardRecipe):
    """Recipe of a latent cache.

    Attributes:
        latent, latent_digest: the latent space, and SHA-256 of its weights.
        revisions: pinned commits of its files, by part.
        options: of its row, such as the preprocessing.
        image_size: pixels a side of what was encoded.
        data_digest: SHA-256 of the data set.
        dtype: of the stored latents.
        shape: (C, h, w) of one.
        count: images.
    """

    title = "latent cache"
    command = "nanogen prepare latents"
    setting = "latent.cache"
    prefix = "latents"
    kind: Literal["nanogen latent cache"] = "nanogen latent cache"
    version: Literal[2] = 2
    latent: str
    latent_digest: str
    revisions: dict[str, str] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)
    image_size: int = Field(ge=1, le=bounds.SIDE)
    data_digest: str
    dtype: Dtype
    shape: tuple[int, int, int]

    @property
    def item_bytes(self) -> int:
        return shards.array_bytes(self.shape, self.dtype)


def recipe(spec: LatentSpec, latent_digest: str, image_size: int, data: Dataset, dtype: Dtype) -> LatentCacheManifest:
    """Return the manifest of a cache of a data set."""
    shape = spec.shape(image_size)
    return LatentCacheManifest(
        latent=spec.name,
        latent_digest=latent_digest,
        revisions={weights.part: weights.revision for weights in spec.weights if weights.revision},
        # As they are read back.
        options=json.loads(json.dumps(dict(spec.options))),
        image_size=image_size,
        data_digest=data.digest,
        dtype=dtype,
        shape=shape,
        count=len(data),
        shard=shards.items_of_a_shard(shards.array_bytes(shape, dtype), len(data)),
    )


class StoredLatents(CachedBatches):
    """A latent cache; the type of the stored numbers may be another than the one that is asked for."""

    field = "latent"

    def __init__(self, folder: Path, data: Dataset, asked: LatentCacheManifest) -> None:
        # Commits may be pinned later: the hash of what was loaded tells other weights.
        super().__init__(folder, data, asked, ("shard", "dtype", "revisions"))


class Statistics:
    """Mean and population variance of latents per channel and position, merged batch by batch in float64."""

    def __init__(self) -> None:
        self.count = 0
        self._mean: Tensor = torch.zeros(())
        self._squares: Tensor = torch.zeros(())

    def add(self, latents: Tensor) -> None:
        """Take in latents [B, C, h, w].

        Source: Chan et al. 1983 (doi 10.1080/00031305.1983.10483115), as one sum of squares about the mean.
        """
        x = latents.detach().double().cpu()
        mean = x.mean(0)
        squares = (x - mean).square().sum(0)
        total = self.count + len(x)
        apart = mean - self._mean
        self._squares = self._squares + squares + apart.square() * (self.count * len(x) / total)
        self._mean = self._mean + apart * (len(x) / total)
        self.count = total

    def finish(self) -> dict[str, Tensor]:
        """Return "mean" and "var", float32 [C, h, w] each; DataError if a variance is 0 or no number."""
        mean, var = self._mean, self._squares / max(self.count, 1)
        wrong = ~(var > 0)
        if wrong.any():
            raise DataError(
                f"{int(wrong.sum()):,} of {var.numel():,} values of the latent never vary over {self.count:,} images, "
                "so they cannot be normalised. Give more or other images."
            )
        return {"mean": mean.float(), "var": var.float()}
