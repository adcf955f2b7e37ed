"""Preparation by shards: each a pure function of its items and the recipe, whole or absent, made anywhere.

A shard's name tells its number and the recipe, and it ends with the SHA-256 of its content: one that is there and whole
is left as it is, so that the same command continues and repairs. Local processes, parts of a job array and actors of
Ray make the same bytes, and may share a folder.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, TypeVar

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import Tensor

from diffusionbench import bounds
from diffusionbench.errors import ConfigError, DataError, RunError
from diffusionbench.limits import read_small
from diffusionbench.provenance import usable_cores
from diffusionbench.registry import require
from diffusionbench.schema import Strict, digest
from diffusionbench.views.terminal import progress_line
from diffusionbench.writing import check_replaceable, free_bytes, make_folder, sweep, write_atomic, write_errors

MANIFEST: Final = "manifest.json"
# Bytes of a shard of items of one size, about.
SHARD_BYTES: Final = 64 * 2**20
# Shards of a small set, about, and their fewest items.
SHARDS: Final = 64
SHARD_ITEMS: Final = 16
# Of the SHA-256 at the end.
SUM_BYTES: Final = 32

Dtype = Literal["float16", "bfloat16", "float32"]
"""Of stored latents and states."""


class ShardManifest(Strict):
    """Contents of `manifest.json` in the folder of a cache.

    Attributes:
        title, command: what messages call the cache, and what makes it.
    """

    title: ClassVar[str]
    command: ClassVar[str]


ManifestT = TypeVar("ManifestT", bound=ShardManifest)


def read_manifest(folder: Path, kind: type[ManifestT]) -> ManifestT:
    """Return the manifest of a cache; DataError if there is none, or it is damaged."""
    try:
        return kind.model_validate_json(read_small(folder / MANIFEST))
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its manifest.json is damaged or of another version"
        raise DataError(f"{folder} is no {kind.title}: {reason}. Make one with `{kind.command}`.") from None


class ShardRecipe(ShardManifest):
    """All that decides the bytes of the shards beside it.

    Attributes:
        setting: the key of a config that names the folder.
        prefix: of the files.
        count: items in all.
        shard: items of one shard; the last one may have fewer.
    """

    setting: ClassVar[str]
    prefix: ClassVar[str]
    count: int = Field(ge=1, le=bounds.DURATION)
    shard: int = Field(ge=1, le=bounds.DURATION)

    @property
    def item_bytes(self) -> int | None:
        """Bytes of one item; None where they differ."""
        return None

    @property
    def num_shards(self) -> int:
        return -(-self.count // self.shard)

    @property
    def total_bytes(self) -> int:
        """Bytes of all shards; 0 where items differ in size."""
        return 0 if self.item_bytes is None else self.count * self.item_bytes + self.num_shards * SUM_BYTES

    def items(self, number: int) -> range:
        """Return the indices of the items of a shard."""
        return range(number * self.shard, min((number + 1) * self.shard, self.count))

    def path(self, folder: Path, number: int) -> Path:
        return folder / f"{self.prefix}-{number:06d}-{digest(self)[:12]}.bin"

    def is_intact(self, folder: Path, number: int) -> bool:
        """Return whether a shard is there, of the right size and with the hash of its content."""
        path = self.path(folder, number)
        try:
            size = path.stat().st_size - SUM_BYTES
            if size < 0 or (self.item_bytes is not None and size != self.item_bytes * len(self.items(number))):
                return False
            content = np.memmap(path, np.uint8, "r")
        except (OSError, ValueError):
            return False
        return hashlib.sha256(content[:size].data).digest() == content[size:].tobytes()

    def remaining(self, folder: Path, part: tuple[int, int] = (1, 1)) -> list[int]:
        """Return the shards of one part that are missing or damaged; see `Spread.part`."""
        return [number for number in range(part[0] - 1, self.num_shards, part[1]) if not self.is_intact(folder, number)]


def check_same(folder: Path, there: ShardRecipe, asked: ShardRecipe, remedy: str = "") -> None:
    """Refuse shards of another recipe; DataError naming the fields that differ, with both values.

    Args:
        remedy: of the message; by default that of a training.
    """
    old, new = there.model_dump(), asked.model_dump()
    # What a recipe is of goes before how many there are.
    keys = [key for key in sorted(old, key=lambda key: key in ("count", "shard")) if old[key] != new[key]]
    found = [f"{key} is {str(old[key])[:16]} there and {str(new[key])[:16]} now" for key in keys]
    if found:
        again = f"Make it again with `{asked.command}` in another folder, or set {asked.setting}=null."
        raise DataError(f"{asked.title} {folder} is of another recipe: {'; '.join(found)}. {remedy or again}")


def check_complete(folder: Path, recipe: ShardRecipe) -> None:
    """Refuse a folder that lacks shards of its recipe, with a DataError."""
    paths = [recipe.path(folder, number) for number in range(recipe.num_shards)]
    missing = [path.name for path in paths if not path.exists()]
    if missing:
        raise DataError(
            f"{recipe.title} {folder} is unfinished: {len(missing)} of {len(paths)} shards are missing, first "
            f"{missing[0]}. The same `{recipe.command}` command continues."
        )


def start_folder(folder: Path, recipe: ShardRecipe) -> None:
    """Make a folder of shards, or go on with one of the same recipe.

    Raises:
        DataError: if the folder holds anything else, cannot be written, or has no room for what is missing.
    """
    if (folder / MANIFEST).exists():
        check_same(folder, read_manifest(folder, type(recipe)), recipe, "Remove that folder, or give another --out.")
    else:
        if folder.is_dir():
            # What a killed process left of the manifest is no stranger.
            sweep(folder)
        check_replaceable(folder, recipe.title, [], DataError)
    with write_errors(f"{recipe.title} {folder}", kind=DataError):
        make_folder(folder)
        here = sum(path.stat().st_size for path in folder.glob(f"{recipe.prefix}-*.bin"))
        free, needed = free_bytes(folder), recipe.total_bytes - here
        if needed > free:
            raise DataError(
                f"{recipe.title} {folder} needs {needed / 2**30:.2f} GiB more, {free / 2**30:.2f} GiB are free there. "
                "Choose another place or a shorter --dtype."
            )
        write_atomic(folder / MANIFEST, recipe.model_dump_json(indent=2) + "\n")


def write_shard(folder: Path, recipe: ShardRecipe, number: int, content: bytes) -> None:
    """Write one shard, whole or not at all; DataError if that is not possible."""
    path = recipe.path(folder, number)
    with write_errors(path, kind=DataError):
        write_atomic(path, content + hashlib.sha256(content).digest())


def read_shard(folder: Path, recipe: ShardRecipe, number: int) -> np.ndarray:
    """Return the content of a shard as uint8 [n], a private memory map; DataError if it is missing or damaged."""
    path = recipe.path(folder, number)
    if not recipe.is_intact(folder, number):
        raise DataError(f"shard {path} is missing or damaged. The same `{recipe.command}` command makes it again.")
    return np.memmap(path, np.uint8, "c")[:-SUM_BYTES]


def array_bytes(shape: Sequence[int], dtype: str) -> int:
    """Return the bytes of an array."""
    return math.prod(shape) * getattr(torch, dtype).itemsize


def items_of_a_shard(item_bytes: int, count: int) -> int:
    """Return how many of `count` items of one size make a shard.

    About 64 MiB; of a small set a 64th, so that workers share it and one that is killed costs little; 16 at the least.
    """
    return max(1, min(SHARD_BYTES // item_bytes, max(SHARD_ITEMS, -(-count // SHARDS))))


def stored_bytes(values: Tensor, dtype: str, what: str) -> bytes:
    """Return the bytes of values in another type; DataError saying that `what` does not fit, where a value does not."""
    converted = values.to("cpu", getattr(torch, dtype)).contiguous()
    if not converted.isfinite().all():
        raise DataError(f"{what} does not fit into {dtype}. Choose bfloat16 or float32.")
    return converted.view(torch.uint8).numpy().tobytes()


@dataclass(frozen=True)
class Spread:
    """How shards are shared out; any way gives the same files.

    Attributes:
        part: (i, n): every n-th shard from the i-th on, counted from 1; all parts may write into one folder.
        workers: processes of this machine, or actors of Ray.
        engine: "local" or "ray".

    Raises:
        ConfigError: for another engine.
        MissingPackageError: if Ray is asked for and not installed.
    """

    part: tuple[int, int] = (1, 1)
    workers: int = 1
    engine: str = "local"

    def __post_init__(self) -> None:
        if self.engine not in ("local", "ray"):
            raise ConfigError(f"--engine {self.engine}: unknown. Allowed: local, ray.")
        if self.engine == "ray":
            require("ray", "cluster", "--engine ray")


ALONE: Final = Spread()


class ShardMaker(ABC):
    """Base class of what makes shards; a process opens one, as `kind(config, device)`, and makes many."""

    def __init__(self, config: Any, device: str) -> None:
        self.config, self.device = config, device

    @abstractmethod
    def content(self, recipe: Any, items: range) -> bytes:
        """Return the bytes of some items, by the recipe alone."""


def _make(maker: ShardMaker, folder: Path, recipe: ShardRecipe, number: int) -> int:
    """Write a shard; returns how many items it has."""
    items = recipe.items(number)
    write_shard(folder, recipe, number, maker.content(recipe, items))
    return len(items)


class RayWorker:
    """An actor of Ray, which opens its own maker and is called with rows of numbers of shards."""

    def __init__(self, kind: type[ShardMaker], config: Any, device: str, folder: Path, recipe: ShardRecipe) -> None:
        self.make = partial(_make, kind(config, device), folder, recipe)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"items": self.make(int(row["item"]))}


_HERE: Callable[[int], int]


def _open_here(kind: type[ShardMaker], config: Any, folder: Path, recipe: ShardRecipe, workers: int) -> None:
    """Open what a local worker needs; the cores, and the GPUs, are shared out."""
    global _HERE
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    # Processes that decode ahead help only on cores that no worker has.
    loaders = min(config.data.workers, max(0, usable_cores() // workers - 1))
    config = config.model_copy(update={"data": config.data.model_copy(update={"workers": loaders})})
    place = (multiprocessing.current_process()._identity or (1,))[0] - 1
    device = f"cuda:{place % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    _HERE = partial(_make, kind(config, device), folder, recipe)


def _make_here(number: int) -> int:
    return _HERE(number)


def make_shards(maker: ShardMaker, folder: Path, recipe: ShardRecipe, spread: Spread) -> None:
    """Make the shards of a part that are missing or damaged.

    Args:
        maker: what works where one process does; others open their own, of its kind and config.

    Raises:
        UserError: of the maker, such as for an image that cannot be read; what is made stays.
        RunError: if a worker ends before its time, which costs its shard alone.
    """
    waiting = recipe.remaining(folder, spread.part)
    opening = type(maker), maker.config
    if spread.engine == "ray" and waiting:
        ray = require("ray", "cluster", "--engine ray")
        given = (*opening, maker.device, folder.resolve(), recipe)
        actors = {"fn_constructor_args": given, "concurrency": spread.workers}
        ray.data.from_items(waiting).map(RayWorker, **actors).materialize()
        return
    show, done = progress_line("items"), 0
    total = sum(len(recipe.items(number)) for number in waiting)
    workers = min(spread.workers, len(waiting))
    with ExitStack() as held:
        made: Iterable[int] = map(partial(_make, maker, folder, recipe), waiting)
        if workers > 1:
            spawn = multiprocessing.get_context("spawn")
            opened = (*opening, folder, recipe, workers)
            made = held.enter_context(ProcessPoolExecutor(workers, spawn, _open_here, opened)).map(_make_here, waiting)
        try:
            for count in made:
                done += count
                if show is not None:
                    show("prepared", done, total)
        except BrokenProcessPool:
            raise RunError("a worker ended before its time. The same command continues.") from None
