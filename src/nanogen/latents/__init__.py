"""The table of latent spaces and what one is: a pair of maps between images in [0, 1] and normalised latents.

To add a latent space: one file here and one line in `LATENTS`. A `LatentSpec` says shape and patch without torch;
`create` builds the maps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from diffusionbench.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

LATENTS = Registry(
    "latent space",
    {
        "pixel": "nanogen.latents.pixel:PIXEL",
        "toy-ae": "nanogen.latents.toy:TOY_AE",
        "sd-vae-ema": "nanogen.latents.vae:SD_VAE_EMA",
    },
    group="nanogen.latents",
)


class Latent(Protocol):
    """The two maps, deterministic and without gradient."""

    def encode(self, images: Tensor) -> Tensor:
        """Map float32 [B, 3, H, W] in [0, 1] to float32 [B, C, h, w], about mean 0 and deviation 1."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Map float32 [B, C, h, w] back to float32 [B, 3, H, W]; may leave [0, 1] (callers clamp)."""
        ...


@dataclass(frozen=True, kw_only=True)
class LatentSpec:
    """What a latent space is, readable without any weights.

    Attributes:
        channels: C of the latent.
        stride: image pixels per latent position.
        patch_size: side of a patch on the latent, or None where the config's `model.pixel_patch` decides.
        title: one line for people.
        create: builds the maps on a device.
        unavailable: why it cannot run yet, in one clause, or None.
    """

    channels: int
    stride: int
    patch_size: int | None
    title: str
    create: Callable[[str], Latent] | None
    unavailable: str | None = None
