"""The table of latent spaces: pairs of maps between images in [0, 1] and normalised latents.

To add a latent space over a codec that is here: one row in `rows.py`. A new codec is one file with a subclass of
`Latent`, which is constructed as `codec(spec, device)`. Rows are read without torch and without weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from diffusionbench.registry import Table
from nanogen.latents.rows import ROWS, LatentSpec

if TYPE_CHECKING:
    from torch import Tensor


class Latent:
    """The two maps, deterministic and without gradient.

    Attributes:
        digest: SHA-256 of its weights; "" where it has none.
    """

    digest: str = ""

    def __init__(self, spec: LatentSpec, device: str) -> None:
        """Load the weights of the maps; pixels have none."""

    @classmethod
    def before_statistics(cls, spec: LatentSpec, device: str) -> Callable[[Tensor], Tensor]:
        """Return the encoder without the normalisation whose statistics `nanogen prepare latents` computes."""
        return cls(spec, device).encode

    def encode(self, images: Tensor) -> Tensor:
        """Map float32 [B, 3, H, W] in [0, 1] to float32 [B, C, h, w], about mean 0 and deviation 1."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """Map float32 [B, C, h, w] back to float32 [B, 3, H, W]; may leave [0, 1] (callers clamp)."""
        raise NotImplementedError


LATENTS = Table("latent space", {row.name: row for row in ROWS}, group="nanogen.latents")


def open_latent(name: str, device: str, weights: str | None = None) -> Latent:
    """Construct a latent space on a device.

    Args:
        weights: folder of its weight files (`latent.weights`); None: the usual places.

    Raises:
        RequestError: if its weights are missing.
        CheckpointError: if they are damaged or others.
    """
    spec = replace(LATENTS[name], folder=None if weights is None else Path(weights))
    codec: type[Latent] = LATENTS.load(name)
    return codec(spec, device)
