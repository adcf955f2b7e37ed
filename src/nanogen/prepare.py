"""Preparation that is computed once before training: text states, images, latents and their statistics."""

from __future__ import annotations

import tempfile
import time
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast, get_args

import numpy as np
import torch
from safetensors.torch import save

from diffusionbench.errors import ConfigError
from diffusionbench.views.terminal import progress_line
from diffusionbench.writing import check_place, remove, temporary_name, write_atomic, write_errors
from nanogen import evaluate, parallel, shards
from nanogen.config import Config
from nanogen.data.cached import CachedBatches, ImageCacheManifest, StoredPictures
from nanogen.data.order import in_order
from nanogen.latents import LATENTS, cache, open_latent
from nanogen.latents.cache import LatentCacheManifest, StoredLatents
from nanogen.log import say
from nanogen.settings import to_steps
from nanogen.shards import ALONE, Dtype, ShardMaker, ShardRecipe, Spread, read_shard
from nanogen.text import cache as text_cache
from nanogen.text import open_spec
from nanogen.text.encoder import TextEncoder
from nanogen.train import CHUNK_PIXELS, encoded, open_data, recipe_of

# Items that a dry run makes.
_TRIED = 64

MakerT = TypeVar("MakerT", bound="CacheMaker")


class CacheMaker(ShardMaker):
    """Base of what makes the shards of a cache of a config's data."""

    def __init__(self, config: Config, device: str) -> None:
        self.data, config = open_data(config)
        super().__init__(config, device)

    @abstractmethod
    def recipe(self, dtype: Dtype) -> ShardRecipe:
        """Return the recipe of the whole cache."""

    @abstractmethod
    def reader(self, folder: Path, recipe: Any) -> Callable[[], object]:
        """Return what reads all items of a folder of one shard as a training does."""


class TextShards(CacheMaker):
    """Encodes the distinct captions of the data and of the config's evaluation, in the order of a cache."""

    def __init__(self, config: Config, device: str) -> None:
        super().__init__(config, device)
        if not self.data.captioned:
            raise ConfigError(f"data set '{config.data.name}' has no captions, so there is nothing to encode.")
        own = (self.data.caption(index) or "" for index in range(len(self.data)))
        self.captions = text_cache.distinct([*own, *evaluate.prompt_texts(self.config)])
        name = config.condition.encoder
        self.encoder = TextEncoder(str(name), open_spec(name), device, config.condition.max_tokens)

    def recipe(self, dtype: Dtype) -> text_cache.TextShardRecipe:
        return text_cache.shard_recipe(self.captions, self.encoder, self.data.digest, dtype)

    def content(self, recipe: text_cache.TextShardRecipe, items: range) -> bytes:
        return text_cache.shard_content(self.captions[items.start : items.stop], self.encoder, recipe.dtype)

    def reader(self, folder: Path, recipe: text_cache.TextShardRecipe) -> Callable[[], object]:
        captions = self.captions[: recipe.count]
        text_cache.assemble(folder / "cache", captions, recipe, [read_shard(folder, recipe, 0)])
        stored = text_cache.TextCache(folder / "cache", self.encoder)
        return lambda: stored.read(captions)


class ArrayShards(CacheMaker):
    """Base of what stores one array for each image, as `stored` reads them."""

    stored: type[CachedBatches]

    def __init__(self, config: Config, device: str) -> None:
        if config.data.corrupt == "skip":
            raise ConfigError("a cache holds something of each image, and data.corrupt=skip replaces some. Set stop.")
        super().__init__(config, device)

    def reader(self, folder: Path, recipe: Any) -> Callable[[], object]:
        source = self.stored(folder, self.data, recipe)
        return lambda: source.batch(np.arange(recipe.count), [])


class PictureShards(ArrayShards):
    """Decodes and crops images."""

    stored = StoredPictures

    def recipe(self, dtype: Dtype) -> ImageCacheManifest:
        return ImageCacheManifest.of(self.data, self.config.data.image_size)

    def content(self, recipe: ImageCacheManifest, items: range) -> bytes:
        return b"".join(self.data[index].image.transpose(2, 0, 1).tobytes() for index in items)


class LatentShards(ArrayShards):
    """Encodes images."""

    stored = StoredLatents

    def __init__(self, config: Config, device: str) -> None:
        super().__init__(config, device)
        self.latent = open_latent(config.latent.name, device, config.latent.weights)

    def recipe(self, dtype: Dtype) -> LatentCacheManifest:
        return recipe_of(self.data, self.config, self.latent, dtype)

    def content(self, recipe: LatentCacheManifest, items: range) -> bytes:
        size, what = _encoded_together(recipe.image_size), f"a latent of images {items[0]:,} to {items[-1]:,}"
        images = (batch.image for batch in in_order(self.data, size, self.config.data.workers, items))
        latents = (encoded(some, self.latent, recipe.shape, self.device) for some in images if some is not None)
        return b"".join(shards.stored_bytes(some, recipe.dtype, what) for some in latents)


def _encoded_together(image_size: int) -> int:
    """Return how many images are encoded in one call."""
    return max(1, CHUNK_PIXELS // image_size**2)


@dataclass(frozen=True)
class DryRun:
    """What a preparation would take.

    Attributes:
        items, num_bytes, num_shards: in all.
        sample, seconds, reading: items that were made, the time that they took, and that of reading them back.
        passes: over the data that the training makes; None: it is not known.
    """

    items: int
    num_bytes: float
    num_shards: int
    sample: int
    seconds: float
    reading: float
    passes: float | None

    @property
    def break_even(self) -> float | None:
        """Passes after which making all once and reading them is cheaper than making them in each; None: never."""
        return self.seconds / (self.seconds - self.reading) if self.reading < self.seconds else None

    def lines(self) -> list[str]:
        """Return three sentences: size, time, and when it pays."""
        hours = self.seconds / self.sample * self.items / 3600
        if self.break_even is None:
            pays = "it never pays, as reading takes as long as making"
        else:
            pays = f"it pays after {_passes(self.break_even)} over the data"
        made = "an unknown number of passes" if self.passes is None else _passes(self.passes)
        is_cheaper = self.passes is not None and (self.break_even is None or self.passes <= self.break_even)
        return [
            f"{self.items:,} items, {self.num_bytes / 1e9:,.3g} GB in {self.num_shards:,} shards",
            f"{hours:,.3g} hours of one worker, by {self.sample} items in {self.seconds:.3g} s; reading them back took "
            f"{self.reading:.3g} s from memory, and a slow disk takes longer",
            f"{pays}; the training makes {made}{': making each when it is needed costs less' if is_cheaper else ''}",
        ]


def _passes(number: float) -> str:
    return f"{number:.3g} pass{'' if f'{number:.3g}' == '1' else 'es'}"


def _try(maker: CacheMaker, recipe: ShardRecipe) -> DryRun:
    """Make a few items, and read them back from a temporary folder; the second time of each is counted."""

    def timed(run: Callable[[], object]) -> float:
        run()
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    count = min(recipe.count, _TRIED)
    few = recipe.model_copy(update={"count": count, "shard": count})
    content = maker.content(few, few.items(0))
    seconds = timed(lambda: maker.content(few, few.items(0)))
    with tempfile.TemporaryDirectory() as name:
        shards.start_folder(Path(name), few)
        shards.write_shard(Path(name), few, 0, content)
        reading = timed(maker.reader(Path(name), few))
    size, images = maker.config.train.batch_size, len(maker.data)
    steps = to_steps(maker.config.train.duration, size, images)
    return DryRun(
        items=recipe.count,
        num_bytes=recipe.total_bytes or len(content) / count * recipe.count,
        num_shards=recipe.num_shards,
        sample=count,
        seconds=seconds,
        reading=reading,
        passes=None if steps is None else steps * size / images,
    )


def _prepare(
    kind: type[MakerT], config: Config, folder: Path, dtype: str, spread: Spread, dry_run: bool
) -> tuple[MakerT, Any] | DryRun | None:
    """Make shards, and return their maker and recipe; None in processes beside the main one, which end."""
    if dtype not in get_args(Dtype):
        raise ConfigError(f"--dtype {dtype}: unknown. Allowed: {', '.join(get_args(Dtype))}.")
    with parallel.processes() as device:
        if not parallel.is_main():
            return None
        if dry_run:
            # Starting processes would take longer than a few items do.
            config = config.model_copy(update={"data": config.data.model_copy(update={"workers": 0})})
        maker = kind(config, device)
        recipe: Any = maker.recipe(cast(Dtype, dtype))
        if dry_run:
            return _try(maker, recipe)
        if isinstance(maker, ArrayShards):
            size = f"{recipe.total_bytes / 2**30:.3g} GiB in {recipe.num_shards:,} shards"
            array = f"{'x'.join(map(str, recipe.shape))} in {recipe.dtype}"
            say(f"{folder}: {recipe.count:,} {recipe.prefix} of {array}, {size}")
        shards.start_folder(folder, recipe)
        shards.make_shards(maker, folder, recipe, spread)
        return maker, recipe


def prepare_text(
    config: Config, out: Path, dtype: str, spread: Spread = ALONE, dry_run: bool = False
) -> text_cache.CacheManifest | DryRun | None:
    """Encode the captions of a config's data and of its evaluation; see `prepare_latents` for what is alike.

    Shards lie in a folder beside the cache until all are there, so that the same command continues.

    Args:
        config: with condition.encoder and condition.max_tokens.
        out: folder for the cache.
        spread: which shards, and over how many processes; the call without a part makes what is missing, and the cache.

    Returns:
        The description of the cache, in the main process; None where only a part was asked for.

    Raises:
        ConfigError: if the config has no text encoder or the data no captions.
        DataError: if the folder holds anything but a text cache, or cannot be written.
    """
    open_spec(config.condition.encoder)
    text_cache.check_cache_replaceable(out)
    # A cache that is named in the config may be the very one to be made anew.
    config = config.model_copy(update={"condition": config.condition.model_copy(update={"cache": None})})
    folder = out.resolve().with_name(f"{out.resolve().name}.parts")
    made = _prepare(TextShards, config, folder, dtype, spread, dry_run)
    if not isinstance(made, tuple):
        return made
    if spread.part != ALONE.part:
        return None
    maker, recipe = made
    contents = (read_shard(folder, recipe, number) for number in range(recipe.num_shards))
    manifest = text_cache.assemble(out, maker.captions, recipe, contents)
    # Under another name first: half of it shall not pass for shards.
    doomed = temporary_name(folder.parent)
    folder.rename(doomed)
    remove(doomed)
    return manifest


def prepare_images(
    config: Config, out: Path, spread: Spread = ALONE, dry_run: bool = False
) -> ImageCacheManifest | DryRun | None:
    """Decode and crop the images of a config's data into a cache; see `prepare_latents` for what is alike."""
    config = config.model_copy(update={"data": config.data.model_copy(update={"cache": None})})
    made = _prepare(PictureShards, config, out, "float32", spread, dry_run)
    return made[1] if isinstance(made, tuple) else made


def prepare_latents(
    config: Config, out: Path, dtype: str, spread: Spread = ALONE, dry_run: bool = False
) -> LatentCacheManifest | DryRun | None:
    """Encode the images of a config's data into a cache; processes that torchrun started beside the first end.

    Shards that are there and whole are left as they are, so the same command continues, and repairs.

    Args:
        config: with the latent space and the data.
        out: folder of the cache.
        dtype: of the stored latents.
        spread: which shards, and over how many processes.
        dry_run: encode a few images and write nothing there.

    Returns:
        The recipe of the cache, in the main process.

    Raises:
        ConfigError: if samples may be replaced, whose latents would then be those of others.
        DataError: if an image cannot be read, or the folder is no cache of this recipe or has no room.
        RunError: if a worker ends before its time.
    """
    made = _prepare(LatentShards, config, out, dtype, spread, dry_run)
    return made[1] if isinstance(made, tuple) else made


@torch.no_grad()
def prepare_statistics(config: Config, out: Path) -> Path | None:
    """Compute mean and variance of the latents of a config's data, per channel and position, in one process.

    They are of the latents before the normalisation by such statistics, where the latent space has one.

    Args:
        out: folder; the file `statistics/stats.safetensors` in it is found where latent.weights names the folder.

    Returns:
        The file, in the main process.

    Raises:
        ConfigError: if the latent space takes no images of this size.
        DataError: if an image cannot be read or a value of the latent never varies.
        RequestError: if the file cannot be written.
    """
    path = out / "statistics" / "stats.safetensors"
    check_place(path)
    LATENTS[config.latent.name].shape(config.data.image_size)
    with parallel.processes() as device:
        if not parallel.is_main():
            return None
        data, config = open_data(config)
        name, weights = config.latent.name, config.latent.weights
        spec = replace(LATENTS[name], folder=None if weights is None else Path(weights))
        encode = LATENTS.load(name).before_statistics(spec, device)
        statistics, show, done = cache.Statistics(), progress_line("images"), 0
        for batch in in_order(data, _encoded_together(config.data.image_size), config.data.workers):
            assert batch.image is not None
            statistics.add(encode(batch.image.to(device).float() / 255))
            done += len(batch.image)
            if show is not None:
                show("encoded", done, len(data))
        content = save(statistics.finish(), {"latent": name, "data": data.digest, "images": str(done)})
        with write_errors(path):
            write_atomic(path, content)
        return path
