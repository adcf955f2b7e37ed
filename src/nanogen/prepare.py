"""Preparation that is computed once before training: text states, latents and their statistics."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args

import torch
from safetensors.torch import save

from diffusionbench.errors import ConfigError, RunError
from diffusionbench.registry import require
from diffusionbench.views.terminal import progress_line
from diffusionbench.writing import make_folder, write_atomic, write_errors
from nanogen import evaluate, parallel
from nanogen.config import Config
from nanogen.data.order import in_order
from nanogen.latents import LATENTS, cache, open_latent
from nanogen.latents.cache import Dtype, LatentCacheManifest
from nanogen.log import say
from nanogen.text import cache as text_cache
from nanogen.text import open_spec
from nanogen.text.encoder import TextEncoder
from nanogen.train import CHUNK_PIXELS, encoded, open_data, recipe_of


def prepare_text(config: Config, out: Path, dtype: str) -> text_cache.CacheManifest | None:
    """Encode the captions of a config's data and of its evaluation, in one process; others that torchrun started end.

    Args:
        config: with condition.encoder and condition.max_tokens.
        out: folder for the cache.
        dtype: of the stored states.

    Returns:
        The description of the cache, in the main process.

    Raises:
        ConfigError: if the config has no text encoder or the data no captions.
        DataError: if the folder holds anything but a text cache, or cannot be written.
    """
    if dtype not in get_args(text_cache.Dtype):
        raise ConfigError(f"--dtype {dtype}: unknown. Allowed: {', '.join(get_args(text_cache.Dtype))}.")
    spec = open_spec(config.condition.encoder)
    # A cache that is named in the config may be the very one to be made anew.
    config = config.model_copy(update={"condition": config.condition.model_copy(update={"cache": None})})
    with parallel.processes() as device:
        if not parallel.is_main():
            return None
        text_cache.check_cache_replaceable(out)
        data, config = open_data(config)
        if not data.captioned:
            raise ConfigError(f"data set '{config.data.name}' has no captions, so there is nothing to encode.")
        encoder = TextEncoder(str(config.condition.encoder), spec, device, config.condition.max_tokens)
        captions = [data.caption(index) or "" for index in range(len(data))]
        captions += evaluate.prompt_texts(config)
        return text_cache.write_cache(
            out, captions, encoder, data.digest, cast(text_cache.Dtype, dtype), progress_line("captions")
        )


@dataclass(frozen=True)
class Spread:
    """How the shards of a cache are shared out; any way gives the same files.

    Attributes:
        part: (i, n): every n-th shard from the i-th on, counted from 1; all parts may write into one folder.
        workers: processes of this machine, or actors of Ray.
        engine: "local" or "ray".
    """

    part: tuple[int, int] = (1, 1)
    workers: int = 1
    engine: str = "local"


class ShardEncoder:
    """Encodes shards of a cache, each a pure function of its images; a process opens data and codec once."""

    def __init__(self, config: Config, out: Path, manifest: LatentCacheManifest, device: str) -> None:
        self.data, self.config = open_data(config)
        self.out, self.manifest, self.device = out, manifest, device
        self.latent = open_latent(config.latent.name, device, config.latent.weights)

    def encode(self, number: int) -> int:
        """Encode and write a shard; returns how many images it has."""
        images = self.manifest.images(number)
        size = max(1, CHUNK_PIXELS // self.manifest.image_size**2)
        batches = in_order(self.data, size, self.config.data.workers, images)
        stated = self.manifest.shape
        latents = (encoded(batch.image, self.latent, stated, self.device) for batch in batches)  # type: ignore[arg-type]
        cache.write_shard(self.out, self.manifest, number, latents)
        return len(images)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Encode the shard that a row of Ray Data names."""
        return {"images": self.encode(int(row["item"]))}


def _open_here(config: Config, out: Path, manifest: LatentCacheManifest, workers: int) -> None:
    """Open what a local worker needs; the cores, and the GPUs, are shared out."""
    global _HERE
    torch.set_num_threads(max(1, torch.get_num_threads() // workers))
    place = (multiprocessing.current_process()._identity or (1,))[0] - 1
    device = f"cuda:{place % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    _HERE = ShardEncoder(config, out, manifest, device)


def _encode_here(number: int) -> int:
    return _HERE.encode(number)


_HERE: ShardEncoder


def prepare_latents(config: Config, out: Path, dtype: str, spread: Spread = Spread()) -> LatentCacheManifest | None:
    """Encode the images of a config's data into a cache; processes that torchrun started beside the first end.

    Shards that are there and whole are left as they are, so the same command continues, and repairs.

    Args:
        config: with the latent space and the data.
        out: folder of the cache.
        dtype: of the stored latents.
        spread: which shards, and over how many processes.

    Returns:
        The recipe of the cache, in the main process.

    Raises:
        ConfigError: if samples may be replaced, whose latents would then be those of others.
        DataError: if an image cannot be read, or the folder is no cache of this recipe or has no room.
        RunError: if a worker ends before its time.
    """
    if dtype not in get_args(Dtype):
        raise ConfigError(f"--dtype {dtype}: unknown. Allowed: {', '.join(get_args(Dtype))}.")
    if spread.engine not in ("local", "ray"):
        raise ConfigError(f"--engine {spread.engine}: unknown. Allowed: local, ray.")
    if not 1 <= spread.part[0] <= spread.part[1]:
        raise ConfigError(f"--part {spread.part[0]}/{spread.part[1]}: give i/n with 1 <= i <= n, such as 3/64.")
    if config.data.corrupt == "skip":
        raise ConfigError("a cache holds the latents of each image, and data.corrupt=skip replaces some. Set stop.")
    ray = require("ray", "cluster", "--engine ray") if spread.engine == "ray" else None
    with parallel.processes() as device:
        if not parallel.is_main():
            return None
        data, config = open_data(config)
        latent = open_latent(config.latent.name, device, config.latent.weights)
        manifest = recipe_of(data, config, latent, cast(Dtype, dtype))
        say(
            f"{out}: {manifest.count:,} latents of {'x'.join(map(str, manifest.shape))} in {dtype}, "
            f"{manifest.total_bytes / 2**30:.3g} GiB in {manifest.num_shards:,} shards"
        )
        cache.start_cache(out, manifest)
        waiting = cache.remaining(out, manifest, spread.part)
        if ray is not None:
            actors = {"fn_constructor_args": (config, out.resolve(), manifest, device), "concurrency": spread.workers}
            ray.data.from_items(waiting).map(ShardEncoder, **actors).materialize()
            return manifest
        show, done, total = progress_line("images"), 0, sum(len(manifest.images(number)) for number in waiting)
        with ExitStack() as held:
            if (workers := min(spread.workers, len(waiting))) > 1:
                spawn = multiprocessing.get_context("spawn")
                given = (config, out, manifest, workers)
                pool = held.enter_context(ProcessPoolExecutor(workers, spawn, _open_here, given))
                shards = pool.map(_encode_here, waiting)
            else:
                shards = map(ShardEncoder(config, out, manifest, device).encode, waiting)
            try:
                for count in shards:
                    done += count
                    if show is not None:
                        show("encoded", done, total)
            except BrokenProcessPool:
                raise RunError("a worker ended before its time. The same command continues.") from None
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
