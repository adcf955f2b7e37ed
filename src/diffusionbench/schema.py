"""Strict frozen models, their canonical JSON, and hashes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from diffusionbench.errors import RequestError


class Strict(BaseModel):
    """A frozen model that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def identity(model: BaseModel, *added: str) -> dict[str, Any]:
    """Return a model as plain values for a digest; fields added later count once they are set, so old digests stay."""
    return model.model_dump(mode="json", exclude={name for name in added if getattr(model, name) is None})


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal text."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def digest(value: Any) -> str:
    """Return the SHA-256 (64 hex digits) of the canonical JSON of a value or model."""
    # File names may hold bytes that are no UTF-8, which Python keeps as surrogates.
    return hashlib.sha256(canonical_json(value).encode("utf-8", "surrogatepass")).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 (64 hex digits) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify_bundled_weights(owner: str, weights: Path, sha256: str) -> None:
    """Verify that weights which ship with the package are there and whole, without loading them.

    Args:
        owner: what needs them, such as "latent space 'toy-ae'".
        sha256: the hash that their card names.

    Raises:
        RequestError: saying what is wrong with them.
    """
    remedy = "Reinstall the package."
    if not weights.is_file():
        raise RequestError(f"{owner} needs its weights {weights}, which are missing. {remedy}")
    if file_digest(weights) != sha256:
        raise RequestError(
            f"{owner}: the weights {weights} do not have the SHA-256 that their card names, so they are damaged or "
            f"belong to another version. {remedy}"
        )
