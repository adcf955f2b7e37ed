"""Pixels as their own latent space: x = 2 image - 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nanogen.latents import LatentSpec

if TYPE_CHECKING:
    from torch import Tensor


class Pixel:
    """Images in [-1, 1]; the same on every device."""

    def __init__(self, device: str) -> None:
        pass

    def encode(self, images: Tensor) -> Tensor:
        return 2 * images - 1

    def decode(self, latents: Tensor) -> Tensor:
        return (latents + 1) / 2


PIXEL = LatentSpec(channels=3, stride=1, patch_size=None, title="pixels in [-1, 1]", create=Pixel)
