"""Preparation that is computed once before training: text states, latents and their statistics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

import torch
from safetensors.torch import save
from torch import Tensor

from diffusionbench.errors import ConfigError
from diffusionbench.views.terminal import progress_line
from diffusionbench.writing import make_folder, write_atomic, write_errors
from nanogen import evaluate, parallel, precision
from nanogen.build import build_components
from nanogen.config import Config
from nanogen.data.order import in_order
from nanogen.latents import LATENTS, cache
from nanogen.latents.cache import Dtype, LatentCacheManifest
from nanogen.log import say
from nanogen.text import cache as text_cache
from nanogen.text import open_spec
from nanogen.text.encoder import TextEncoder
from nanogen.train import CHUNK_PIXELS, latents_of, open_data, recipe_of


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


def prepare_latents(
    config: Config, out: Path, dtype: str, part: tuple[int, int] = (1, 1)
) -> LatentCacheManifest | None:
    """Encode the images of a config's data into a cache, in one process; others that torchrun started end.

    Shards that are there and whole are left as they are, so the same command continues, and repairs.

    Args:
        config: with the latent space and the data.
        out: folder of the cache.
        dtype: of the stored latents.
        part: (i, n): every n-th shard from the i-th on, counted from 1; all parts may write into one folder.

    Returns:
        The recipe of the cache, in the main process.

    Raises:
        ConfigError: if samples may be replaced, whose latents would then be those of others.
        DataError: if an image cannot be read, or the folder is no cache of this recipe or has no room.
    """
    if dtype not in get_args(Dtype):
        raise ConfigError(f"--dtype {dtype}: unknown. Allowed: {', '.join(get_args(Dtype))}.")
    if not 1 <= part[0] <= part[1]:
        raise ConfigError(f"--part {part[0]}/{part[1]}: give i/n with 1 <= i <= n, such as 3/64.")
    if config.data.corrupt == "skip":
        raise ConfigError("a cache holds the latents of each image, and data.corrupt=skip replaces some. Set stop.")
    with parallel.processes() as device:
        if not parallel.is_main():
            return None
        data, config = open_data(config)
        components = build_components(config, device, precision.choose("float32", device))
        manifest = recipe_of(data, config, components, cast(Dtype, dtype))
        say(
            f"{out}: {manifest.count:,} latents of {'x'.join(map(str, manifest.shape))} in {dtype}, "
            f"{manifest.total_bytes / 2**30:.3g} GiB in {manifest.num_shards:,} shards"
        )
        cache.start_cache(out, manifest)
        size = max(1, CHUNK_PIXELS // config.data.image_size**2)

        def encode(images: range) -> Iterator[Tensor]:
            return (latents_of(batch, components) for batch in in_order(data, size, config.data.workers, images))

        cache.encode_shards(out, manifest, cache.remaining(out, manifest, part), encode, progress_line("images"))
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
