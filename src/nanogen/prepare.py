"""Preparation that is computed once before training: text states."""

from __future__ import annotations

from pathlib import Path
from typing import cast, get_args

from diffusionbench.errors import ConfigError
from diffusionbench.views.terminal import progress_line
from nanogen import evaluate, parallel
from nanogen.config import Config
from nanogen.text import open_spec
from nanogen.text.cache import CacheManifest, Dtype, check_cache_replaceable, write_cache
from nanogen.text.encoder import TextEncoder
from nanogen.train import open_data


def prepare_text(config: Config, out: Path, dtype: str) -> CacheManifest | None:
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
    if dtype not in get_args(Dtype):
        raise ConfigError(f"--dtype {dtype}: unknown. Allowed: {', '.join(get_args(Dtype))}.")
    spec = open_spec(config.condition.encoder)
    # A cache that is named in the config may be the very one to be made anew.
    config = config.model_copy(update={"condition": config.condition.model_copy(update={"cache": None})})
    with parallel.processes() as device:
        if not parallel.is_main():
            return None
        check_cache_replaceable(out)
        data, config = open_data(config)
        if not data.captioned:
            raise ConfigError(f"data set '{config.data.name}' has no captions, so there is nothing to encode.")
        encoder = TextEncoder(str(config.condition.encoder), spec, device, config.condition.max_tokens)
        captions = [data.caption(index) or "" for index in range(len(data))]
        captions += evaluate.prompt_texts(config)
        return write_cache(out, captions, encoder, data.digest, cast(Dtype, dtype), progress_line("captions"))
