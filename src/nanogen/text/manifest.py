"""What a text cache says about itself: which encoder, limit and data its states are of. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from diffusionbench.errors import DataError
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
    max_tokens: int
    dtype: Dtype
    width: int
    data_digest: str
    captions: int
    tokens: int
    truncated: int
    index_sha256: str


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a text cache.

    Raises:
        DataError: if there is none, or it is damaged.
    """
    try:
        return Manifest.model_validate_json((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its manifest.json is damaged or of another version"
        raise DataError(f"{folder} is no text cache: {reason}. Make one with `nanogen prepare text`.") from None


def stale(folder: Path, what: str, there: object, asked: object) -> DataError:
    """The refusal of a cache that was made from something else."""
    return DataError(
        f"text cache {folder} is stale: {what} is {there} there and {asked} now. "
        "Make it again with `nanogen prepare text`, or set condition.cache=null."
    )
