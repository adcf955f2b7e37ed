"""Pixels as their own latent space: x = 2 image - 1."""

from __future__ import annotations

from torch import Tensor

from nanogen.latents import Latent


class Pixel(Latent):
    """Images in [-1, 1]; the same on every device."""

    def encode(self, images: Tensor) -> Tensor:
        return 2 * images - 1

    def decode(self, latents: Tensor) -> Tensor:
        return (latents + 1) / 2
