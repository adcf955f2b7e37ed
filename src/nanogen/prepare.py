"""Preparation that is computed once before training: text states, images, latents and their statistics."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast, get_args

import torch
from safetensors.torch import save

from diffusionbench.errors import ConfigError
from diffusionbench.views.terminal import progress_line
from diffusionbench.writing import make_folder, remove, temporary_name, write_atomic, write_errors
from nanogen import evaluate, parallel
from nanogen.config import Config
from nanogen.data import Dataset
from nanogen.data.cached import ImageCacheManifest
from nanogen.data.order import in_order
from nanogen.latents import LATENTS, cache, open_latent
from nanogen.latents.cache import Dtype, LatentCacheManifest
from nanogen.log import say
from nanogen.settings import to_steps
from nanogen.shards import ALONE, ShardMaker, Spread, make_shards, read_shard, start_folder
from nanogen.text import cache as text_cache
from nanogen.text import open_spec
from nanogen.text.encoder import TextEncoder
from nanogen.train import CHUNK_PIXELS, encoded, open_data, recipe_of

# Items that a dry run makes.
_TRIED = 64


class TextShards(ShardMaker):
    """Encodes the captions of shards; a process reads all captions and opens the encoder once."""

    def __init__(self, config: Config, folder: Path, recipe: text_cache.TextShardRecipe, device: str) -> None:
        super().__init__(folder, recipe, device)
        self.captions = _captions(*open_data(config))
        self.encoder = _encoder(config, device)

    def content(self, number: int) -> bytes:
        items = self.recipe.items(number)
        return text_cache.shard_content(self.captions[items.start : items.stop], self.encoder, self.recipe.dtype)


def _captions(data: Dataset, config: Config) -> list[str]:
    """Return the distinct captions of the data and of the config's evaluation, in the order of a cache."""
    if not data.captioned:
        raise ConfigError(f"data set '{config.data.name}' has no captions, so there is nothing to encode.")
    own = (data.caption(index) or "" for index in range(len(data)))
    return text_cache.distinct([*own, *evaluate.prompt_texts(config)])


def _encoder(config: Config, device: str) -> TextEncoder:
    name = config.condition.encoder
    return TextEncoder(str(name), open_spec(name), device, config.condition.max_tokens)


def prepare_text(
    config: Config, out: Path, dtype: str, spread: Spread = ALONE, dry_run: bool = False
) -> text_cache.CacheManifest | DryRun | None:
    """Encode the captions of a config's data and of its evaluation; under torchrun the first process does.

    Shards lie in a folder beside the cache until all are there, so that the same command continues.

    Args:
        config: with condition.encoder and condition.max_tokens.
        out: folder for the cache.
        dtype: of the stored states.
        spread: which shards, and over how many processes; the call without a part makes what is missing, and the cache.
        dry_run: encode a few captions and write nothing.

    Returns:
        The description of the cache, in the main process; None where only a part was asked for.

    Raises:
        ConfigError: if the config has no text encoder or the data no captions.
        DataError: if the folder holds anything but a text cache, or cannot be written.
        RunError: if a worker ends before its time.
    """
    if dtype not in get_args(text_cache.Dtype):
        raise ConfigError(f"--dtype {dtype}: unknown. Allowed: {', '.join(get_args(text_cache.Dtype))}.")
    open_spec(config.condition.encoder)
    # A cache that is named in the config may be the very one to be made anew.
    config = config.model_copy(update={"condition": config.condition.model_copy(update={"cache": None})})
    with parallel.processes() as device:
        if not parallel.is_main():
            return None
        text_cache.check_cache_replaceable(out)
        data, known = open_data(config)
        captions, encoder = _captions(data, known), _encoder(known, device)
        if dry_run:
            return _try_text(captions, encoder, dtype, known, len(data))
        folder = out.resolve().with_name(f"{out.resolve().name}.parts")
        recipe = text_cache.shard_recipe(captions, encoder, data.digest, cast(text_cache.Dtype, dtype))
        start_folder(folder, recipe)
        make_shards(TextShards, (config, folder, recipe), recipe.remaining(folder, spread.part), spread, device)
        if spread.part != ALONE.part:
            return None
        contents = (read_shard(folder, recipe, number) for number in range(recipe.num_shards))
        manifest = text_cache.assemble(out, captions, recipe, contents)
        # Under another name first: half of it shall not pass for shards.
        doomed = temporary_name(folder.parent)
        folder.rename(doomed)
        remove(doomed)
        return manifest


@dataclass(frozen=True)
class DryRun:
    """What a preparation would take.

    Attributes:
        items, num_bytes, num_shards: in all.
        sample, seconds: items that were made to find the speed, and the time they took.
        passes: over the data that the training makes.
    """

    items: int
    num_bytes: float
    num_shards: int
    sample: int
    seconds: float
    passes: float | None

    def lines(self) -> list[str]:
        """Return three sentences: size, time, and when it pays."""
        hours = self.seconds / self.sample * self.items / 3600
        made = "an unknown number of passes" if self.passes is None else f"{self.passes:.3g} passes"
        better = "" if self.passes is None or self.passes > 1 else ": making each when it is needed costs less"
        return [
            f"{self.items:,} items, {self.num_bytes / 1e9:,.3g} GB in {self.num_shards:,} shards",
            f"{hours:,.3g} hours of one worker, by {self.sample} items in {self.seconds:.3g} s",
            f"it pays after one pass over the data, if reading costs nothing; the training makes {made}{better}",
        ]


def _try(config: Config, count: int, make: Callable[[int], int]) -> tuple[int, float, float | None]:
    """Make a few items twice; return how many, the seconds of the second time, and the passes of the training."""
    made = make(min(count, _TRIED))
    start = time.perf_counter()
    make(made)
    seconds = time.perf_counter() - start
    steps = to_steps(config.train.duration, config.train.batch_size, count)
    return made, seconds, None if steps is None else steps * config.train.batch_size / count


def _try_text(captions: Sequence[str], encoder: TextEncoder, dtype: str, config: Config, count: int) -> DryRun:
    tokens = 0
    # Captions are in the order of their hashes, so the first are a fair sample.

    def make(number: int) -> int:
        nonlocal tokens
        tokens = sum(map(len, encoder(captions[:number])))
        return min(number, len(captions))

    sample, seconds, passes = _try(config, count, make)
    row = encoder.spec.width * getattr(torch, dtype).itemsize
    size = tokens / sample * len(captions) * row
    return DryRun(len(captions), size, -(-len(captions) // text_cache.CHUNK), sample, seconds, passes)


class PictureShards(ShardMaker):
    """Decodes and crops the images of shards."""

    def __init__(self, config: Config, folder: Path, recipe: ImageCacheManifest, device: str) -> None:
        super().__init__(folder, recipe, device)
        self.data, _ = open_data(config)

    def content(self, number: int) -> bytes:
        images = (self.data[index].image for index in self.recipe.items(number))
        return b"".join(image.transpose(2, 0, 1).tobytes() for image in images)


def prepare_images(
    config: Config, out: Path, spread: Spread = ALONE, dry_run: bool = False
) -> ImageCacheManifest | DryRun | None:
    """Decode and crop the images of a config's data into a cache; see `prepare_latents` for what is alike."""
    _check_stored(config, "images")
    config = config.model_copy(update={"data": config.data.model_copy(update={"cache": None})})
    with parallel.processes() as device:
        if not parallel.is_main():
            return None
        data, config = open_data(config)
        manifest = ImageCacheManifest.of(data, config.data.image_size)
        if dry_run:
            tried = _try(config, len(data), lambda number: len([data[index] for index in range(number)]))
            return DryRun(manifest.count, manifest.total_bytes, manifest.num_shards, *tried)
        start_folder(out, manifest)
        make_shards(PictureShards, (config, out, manifest), manifest.remaining(out, spread.part), spread, device)
        return manifest


def _check_stored(config: Config, what: str) -> None:
    if config.data.corrupt == "skip":
        raise ConfigError(f"a cache holds the {what} of each image, and data.corrupt=skip replaces some. Set stop.")


class LatentShards(ShardMaker):
    """Encodes the images of shards; a process opens data and codec once."""

    def __init__(self, config: Config, folder: Path, recipe: LatentCacheManifest, device: str) -> None:
        super().__init__(folder, recipe, device)
        self.data, self.config = open_data(config)
        self.latent = open_latent(config.latent.name, device, config.latent.weights)

    def content(self, number: int) -> bytes:
        size = max(1, CHUNK_PIXELS // self.recipe.image_size**2)
        batches = in_order(self.data, size, self.config.data.workers, self.recipe.items(number))
        stated = self.recipe.shape
        latents = (encoded(batch.image, self.latent, stated, self.device) for batch in batches)  # type: ignore[arg-type]
        return cache.shard_content(self.recipe, number, latents)


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
        dry_run: encode a few images and write nothing.

    Returns:
        The recipe of the cache, in the main process.

    Raises:
        ConfigError: if samples may be replaced, whose latents would then be those of others.
        DataError: if an image cannot be read, or the folder is no cache of this recipe or has no room.
        RunError: if a worker ends before its time.
    """
    if dtype not in get_args(Dtype):
        raise ConfigError(f"--dtype {dtype}: unknown. Allowed: {', '.join(get_args(Dtype))}.")
    _check_stored(config, "latents")
    with parallel.processes() as device:
        if not parallel.is_main():
            return None
        data, config = open_data(config)
        latent = open_latent(config.latent.name, device, config.latent.weights)
        manifest = recipe_of(data, config, latent, cast(Dtype, dtype))
        if dry_run:

            def make(number: int) -> int:
                size = max(1, CHUNK_PIXELS // manifest.image_size**2)
                for batch in in_order(data, size, 0, range(number)):
                    assert batch.image is not None
                    encoded(batch.image, latent, manifest.shape, device)
                return number

            return DryRun(manifest.count, manifest.total_bytes, manifest.num_shards, *_try(config, len(data), make))
        say(
            f"{out}: {manifest.count:,} latents of {'x'.join(map(str, manifest.shape))} in {dtype}, "
            f"{manifest.total_bytes / 2**30:.3g} GiB in {manifest.num_shards:,} shards"
        )
        start_folder(out, manifest)
        make_shards(LatentShards, (config, out, manifest), manifest.remaining(out, spread.part), spread, device)
        return manifest


@torch.no_grad()
def prepare_statistics(config: Config, out: Path) -> Path | None:
    """Compute mean and variance of the latents of a config's data, per channel and position, in one process.

    They are of the latents before the normalisation by such statistics, where the latent space has one.

    Args:
        out: folder; the file `statistics/stats.safetensors` in it is found where latent.weights names the folder.

    Returns:
        The file, in the main process.

    Raises:
        DataError: if an image cannot be read or a value of the latent never varies.
        RequestError: if the file cannot be written.
    """
    with parallel.processes() as device:
        if not parallel.is_main():
            return None
        data, config = open_data(config)
        name, weights = config.latent.name, config.latent.weights
        spec = replace(LATENTS[name], folder=None if weights is None else Path(weights))
        encode = LATENTS.load(name).before_statistics(spec, device)
        statistics, show, done = cache.Statistics(), progress_line("images"), 0
        for batch in in_order(data, max(1, CHUNK_PIXELS // config.data.image_size**2), config.data.workers):
            assert batch.image is not None
            statistics.add(encode(batch.image.to(device).float() / 255))
            done += len(batch.image)
            if show is not None:
                show("encoded", done, len(data))
        path = out / "statistics" / "stats.safetensors"
        with write_errors(path):
            make_folder(path.parent)
            write_atomic(path, save(statistics.finish(), {"latent": name, "data": data.digest, "images": str(done)}))
        return path
