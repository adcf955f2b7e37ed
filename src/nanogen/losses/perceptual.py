"""Perceptual losses of PixelGen: distances of the estimated from the true image in frozen networks, where t < 0.7.

Defined for data prediction on pixels, whose estimate is the network's own output. Per image, 0 at the noisy end; the
mean over a batch counts these zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffusionbench.judges import lpips
from nanogen.latents import LATENTS
from nanogen.latents.encoders import Encoder
from nanogen.latents.weights import tensors_digest
from nanogen.losses import DINOV2, PerceptualOptions
from nanogen.losses.loss import ExtraLoss
from nanogen.objectives.objective import Pass

if TYPE_CHECKING:
    from nanogen.build import Components


class LpipsLoss(ExtraLoss):
    """LPIPS between the estimate and the image, both in [-1, 1], the estimate not clamped."""

    def __init__(self, options: PerceptualOptions, components: Components) -> None:
        super().__init__(options, components)
        self.before = options.before
        self.net = lpips.open_lpips(components.device)
        self.digest = tensors_digest(self.net.state_dict())

    def forward(self, p: Pass) -> dict[str, Tensor]:
        return {"lpips": torch.where(p.t < self.before, self.net(p.x_pred, p.x).float(), 0.0)}


class DinoLoss(ExtraLoss):
    """Mean squared difference of the patch tokens of DINOv2, over tokens and channels."""

    def __init__(self, options: PerceptualOptions, components: Components) -> None:
        super().__init__(options, components)
        self.before = options.before
        encoder = Encoder(LATENTS[DINOV2], components.device)
        # A function, so that neither the average nor a checkpoint holds a copy of the frozen network.
        self._tokens, self.digest = lambda x: encoder((x + 1) / 2), encoder.digest

    def forward(self, p: Pass) -> dict[str, Tensor]:
        with torch.no_grad():
            wanted = self._tokens(p.x)
        distance = (self._tokens(p.x_pred) - wanted).float().square().mean((1, 2))
        return {"dino": torch.where(p.t < self.before, distance, 0.0)}
