"""What a text cache says about itself: which encoder, limit and data its states are of. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError

from diffusionbench import bounds
from diffusionbench.errors import DataError
from diffusionbench.limits import read_small
from diffusionbench.schema import Strict

Dtype = Literal["float16", "bfloat16", "float32"]
MANIFEST, STATES, INDEX = "manifest.json", "states.bin", "index.npz"


class Manifest(Strict):
    """Contents of `manifest.json`.

    Attributes:
        encoder, encoder_digest: the text encoder, and SHA-256 over its weights and tokenizer.
        max_tokens: longer captions were cut.
        dtype: of the stored states.
        width: of a state.
        data_digest: SHA-256 of the data set whose captions are stored.
        captions, tokens: distinct captions, and states over all of them.
        truncated: captions that were cut.
        index_sha256: of `index.npz`, which holds a hash of each caption's states.
    """

    kind: Literal["nanogen text cache"] = "nanogen text cache"
    version: Literal[2] = 2
    encoder: str
    encoder_digest: str
    max_tokens: int = Field(ge=1, le=bounds.TOKENS)
    dtype: Dtype
    width: int = Field(ge=1, le=bounds.WIDTH)
    data_digest: str
    captions: int = Field(ge=0, le=bounds.DURATION)
    tokens: int = Field(ge=0, le=bounds.DURATION)
    truncated: int = Field(ge=0, le=bounds.DURATION)
    index_sha256: str


def read_manifest(folder: Path) -> Manifest:
    """Return the manifest of a text cache.

    Raises:
        DataError: if there is none, or it is damaged.
    """
    try:
        return Manifest.model_validate_json(read_small(folder / MANIFEST))
    except (OSError, ValidationError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its manifest.json is damaged or of another version"
        raise DataError(f"{folder} is no text cache: {reason}. Make one with `nanogen prepare text`.") from None


def stale(folder: Path, what: str, there: object, asked: object) -> DataError:
    """Return the refusal of a cache that was made from something else."""
    return DataError(
        f"text cache {folder} is stale: {what} is {there} there and {asked} now. "
        "Make it again with `nanogen prepare text`, or set condition.cache=null."
    )


def check_index(keys: np.ndarray, starts: np.ndarray, manifest: Manifest) -> None:
    """Check that an index is one of these states: sorted keys uint64 [n, 2], and where each caption's states start.

    Raises:
        ValueError: saying what is wrong with it.
    """
    count = manifest.captions
    if keys.dtype != np.uint64 or keys.shape != (count, 2) or starts.dtype != np.int64 or starts.shape != (count + 1,):
        raise ValueError(f"{INDEX} is not one of {count} captions")
    if starts[0] != 0 or starts[-1] != manifest.tokens or (np.diff(starts) < 0).any():
        raise ValueError(f"{INDEX} does not divide {manifest.tokens} states")
    if (keys[1:, 0] < keys[:-1, 0]).any():
        raise ValueError(f"{INDEX} is not in order")
