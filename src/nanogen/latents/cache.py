"""Latents on disk: flat shards, each a pure function of its images and the recipe, read through memory maps.

A shard is its latents end to end, followed by the SHA-256 of these bytes. It is written whole or not at all, so a
preparation that was interrupted continues, and several may share a folder. A shard is verified when it is first read.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from diffusionbench import bounds
from diffusionbench.errors import DataError
from diffusionbench.limits import read_small
from diffusionbench.schema import Strict, digest
from diffusionbench.writing import check_replaceable, make_folder, write_atomic, write_errors
from nanogen.data import Batch, Component, Dataset
from nanogen.latents import LatentSpec

Dtype = Literal["float16", "bfloat16", "float32"]
MANIFEST: Final = "manifest.json"
# Bytes of a shard, about.
SHARD_BYTES: Final = 64 * 2**20
_SUM: Final = 32


class LatentCacheManifest(Strict):
    """Contents of `manifest.json`: the recipe of a cache.

    Attributes:
        latent, latent_digest: the latent space, and SHA-256 of its weights.
        revisions: pinned commits of its files, by part.
        options: of its row, such as the preprocessing.
        image_size: pixels a side of what was encoded.
        data_digest: SHA-256 of the data set.
        dtype: of the stored latents.
        shape: (C, h, w) of one.
        count: images.
        shard: images of a shard; the last one may have fewer.
    """

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
    count: int = Field(ge=1, le=bounds.DURATION)
    shard: int = Field(ge=1, le=bounds.DURATION)

    @property
    def item_bytes(self) -> int:
        """Bytes of one latent."""
        return math.prod(self.shape) * getattr(torch, self.dtype).itemsize

    @property
    def num_shards(self) -> int:
        """Shards of a whole cache."""
        return -(-self.count // self.shard)

    @property
    def total_bytes(self) -> int:
        """Bytes of a whole cache, its manifest aside."""
        return self.count * self.item_bytes + self.num_shards * _SUM

    def images(self, number: int) -> range:
        """Return the indices of the images of a shard."""
        return range(number * self.shard, min((number + 1) * self.shard, self.count))

    def path(self, folder: Path, number: int) -> Path:
        """Return where a shard lies; its name tells shard and recipe."""
        return folder / f"latents-{number:06d}-{digest(self)[:12]}.bin"


def recipe(spec: LatentSpec, latent_digest: str, image_size: int, data: Dataset, dtype: Dtype) -> LatentCacheManifest:
    """Return the manifest of a cache of a data set, with shards of about 64 MiB."""
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
        shard=max(1, SHARD_BYTES // (math.prod(shape) * getattr(torch, dtype).itemsize)),
    )


def read_manifest(folder: Path) -> LatentCacheManifest:
    """Return the manifest of a latent cache; DataError if there is none, or it is damaged."""
    try:
        return LatentCacheManifest.model_validate_json(read_small(folder / MANIFEST))
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its manifest.json is damaged or of another version"
        raise DataError(f"{folder} is no latent cache: {reason}. Make one with `nanogen prepare latents`.") from None


def check_same(folder: Path, there: LatentCacheManifest, asked: LatentCacheManifest) -> None:
    """Refuse a cache of another recipe; DataError naming the fields that differ, with both values."""
    old, new = there.model_dump(), asked.model_dump()
    found = [f"{key} is {str(old[key])[:16]} there and {str(new[key])[:16]} now" for key in old if old[key] != new[key]]
    if found:
        raise DataError(
            f"latent cache {folder} is of another recipe: {'; '.join(found)}. Make it again with `nanogen prepare "
            "latents` in another folder, or set latent.cache=null."
        )


def intact(path: Path, size: int) -> bool:
    """Return whether a shard is there with `size` bytes of latents and their hash."""
    try:
        if path.stat().st_size != size + _SUM:
            return False
        content = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError):
        return False
    return hashlib.sha256(content[:size].data).digest() == content[size:].tobytes()


def start_cache(folder: Path, manifest: LatentCacheManifest) -> None:
    """Make the folder of a cache, or go on with one of the same recipe.

    Raises:
        DataError: if the folder holds anything else, cannot be written, or has no room for what is missing.
    """
    if (folder / MANIFEST).exists():
        check_same(folder, read_manifest(folder), manifest)
    else:
        check_replaceable(folder, "latent cache", [], DataError)
    with write_errors(f"latent cache {folder}", kind=DataError):
        make_folder(folder)
        here = sum(path.stat().st_size for path in folder.glob("latents-*.bin"))
        free, needed = shutil.disk_usage(folder).free, manifest.total_bytes - here
        if needed > free:
            raise DataError(
                f"latent cache {folder} needs {needed / 2**30:.2f} GiB more, {free / 2**30:.2f} GiB are free there. "
                "Choose another place or a shorter --dtype."
            )
        write_atomic(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")


def write_shard(folder: Path, manifest: LatentCacheManifest, number: int, latents: Iterable[Tensor]) -> None:
    """Write one shard, whole or not at all.

    Args:
        latents: of its images in their order, float32 [B, C, h, w] each.

    Raises:
        DataError: if it cannot be written, or a value does not fit into the type.
    """
    path = manifest.path(folder, number)
    stored = []
    for some in latents:
        converted = some.to("cpu", getattr(torch, manifest.dtype)).contiguous()
        if not converted.isfinite().all():
            raise DataError(
                f"latents of images {manifest.images(number)[0]:,} to {manifest.images(number)[-1]:,} do not fit into "
                f"{manifest.dtype}. Choose bfloat16 or float32."
            )
        stored.append(converted.view(torch.uint8).numpy().tobytes())
    content = b"".join(stored)
    with write_errors(path, kind=DataError):
        write_atomic(path, content + hashlib.sha256(content).digest())


class StoredLatents:
    """A cache as what the loop reads: latents from memory maps, labels and captions from the data set.

    Args:
        folder: of the cache.
        data: whose latents they are.
        asked: the recipe that is needed now; the type of the stored numbers may be another.

    Attributes:
        manifest: of the cache.

    Raises:
        DataError: if the cache is missing, unfinished or of another recipe.
    """

    def __init__(self, folder: Path, data: Dataset, asked: LatentCacheManifest) -> None:
        self.folder, self.data, self.manifest = folder, data, read_manifest(folder)
        free = {"dtype": self.manifest.dtype, "shard": self.manifest.shard}
        check_same(folder, self.manifest, asked.model_copy(update=free))
        paths = [self.manifest.path(folder, number) for number in range(self.manifest.num_shards)]
        missing = [path.name for path in paths if not path.exists()]
        if missing:
            raise DataError(
                f"latent cache {folder} is unfinished: {len(missing)} of {len(paths)} shards are missing, first "
                f"{missing[0]}. The same `nanogen prepare latents` command continues."
            )
        self._maps: dict[int, Tensor] = {}

    @property
    def components(self) -> tuple[Component, ...]:
        return self.data.components

    def __len__(self) -> int:
        return self.manifest.count

    def _shard(self, number: int) -> Tensor:
        """Return the latents [n, C, h, w] of a shard, verified when it is first read."""
        if number not in self._maps:
            path, count = self.manifest.path(self.folder, number), len(self.manifest.images(number))
            if not intact(path, count * self.manifest.item_bytes):
                raise DataError(
                    f"shard {path} is damaged. The same `nanogen prepare latents` command computes it again."
                )
            flat = torch.from_file(
                str(path), size=count * math.prod(self.manifest.shape), dtype=getattr(torch, self.manifest.dtype)
            )
            self._maps[number] = flat.view(count, *self.manifest.shape)
        return self._maps[number]

    def batch(self, indices: np.ndarray, positions: list[int]) -> Batch:
        size = self.manifest.shard
        latents = torch.stack([self._shard(int(index) // size)[int(index) % size] for index in indices])
        labels = [self.data.label(int(index)) for index in indices] if self.data.num_classes is not None else []
        return Batch(
            image=None,
            label=torch.tensor(labels) if labels else None,
            caption=[self.data.caption(int(index)) or "" for index in indices] if self.data.captioned else None,
            positions=positions,
            latent=latents.float(),
        )


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


def remaining(folder: Path, manifest: LatentCacheManifest, part: tuple[int, int]) -> list[int]:
    """Return the shards of one part of a cache that are missing or damaged.

    Args:
        part: (i, n): every n-th shard from the i-th on, counted from 1.
    """
    return [
        number
        for number in range(part[0] - 1, manifest.num_shards, part[1])
        if not intact(manifest.path(folder, number), len(manifest.images(number)) * manifest.item_bytes)
    ]
