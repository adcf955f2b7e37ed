"""The loss of an autoencoder whose decoder sees latents under noise: pixels, colours and fine detail.

A network that was trained for minutes makes large errors, and a code that survives noise survives them.

Sources: Yang et al. 2025 (arXiv 2507.15856) and Zheng et al. 2025 (arXiv 2510.11690).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from nanogen.rng import PositionalNoise


@dataclass(frozen=True)
class Reconstruction:
    """L1 plus L2 of pixels, plus the L1 distance of the detail, without which faint patterns are blurred away.

    Attributes:
        noise: of the latents in training: its deviation is drawn from [0, noise] for each image.
        coloured: weight of pixels whose chroma is above 0.4 of 2, where others have 1.
        detail: weight of the detail.
    """

    noise: float
    coloured: float
    detail: float

    def __call__(
        self, net: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor], images: Tensor, noise: PositionalNoise
    ) -> dict[str, Tensor]:
        """Return the weighted terms, float32 [B].

        Args:
            net: decodes what its second argument makes of the latents of its first, see `Autoencoder.forward`.
            images: float32 [B, 3, H, W] in [-1, 1].
        """

        def disturbed(latents: Tensor) -> Tensor:
            level = self.noise * noise.uniform("level", (1,) * (latents.ndim - 1))
            return latents + level * noise.normal("latent", tuple(latents.shape[1:]))

        return self.terms(net(images, disturbed), images)

    def terms(self, decoded: Tensor, images: Tensor) -> dict[str, Tensor]:
        """Compare float32 [B, 3, H, W] with the images they should be."""
        chroma = images.amax(1, keepdim=True) - images.amin(1, keepdim=True)
        weight = 1 + (self.coloured - 1) * (chroma > 0.4)
        error = decoded - images
        pixels = (error.abs() + error.square()) * weight
        fine = (detail(decoded) - detail(images)).abs()
        return {"pixels": pixels.flatten(1).mean(1), "detail": self.detail * fine.flatten(1).mean(1)}


def detail(images: Tensor) -> Tensor:
    """Return what is left of [B, 3, H, W] when the mean of 5x5 pixels is taken off."""
    return images - F.avg_pool2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), 5, 1)
