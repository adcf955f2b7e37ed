"""The terms of the first stage: pixels, perception and the discriminator's opinion of what is decoded.

A network that was trained for minutes makes large errors, and a code that survives noise survives them; faint detail
is blurred away where nothing but the mean error counts.

Sources: Yang et al. 2025 (arXiv 2507.15856) and Zheng et al. 2025 (arXiv 2510.11690); Esser et al. 2020
(arXiv 2012.09841) for the balance of the adversarial term.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusionbench.judges.lpips import LPIPS
from nanogen.data import Batch
from nanogen.rng import PositionalNoise
from nanogen.tokenizer.discriminator import Discriminator, adaptive_weight, augmented, hinge, quantised
from nanogen.tokenizer.nets import Tokenizer
from nanogen.tokenizer.settings import LossConfig


@dataclass
class ReconstructionLoss:
    """The loss of a step of the network, and that of the discriminator on the same images.

    Attributes:
        weights: of the terms; those whose networks are absent are 0.
        net: the trained network itself, for its last layer and for what the discriminator is shown.
        lpips, critic: networks on the device, or None.
        adversarial_start: first step with the adversarial term.
        mirror: probability that an image is mirrored.
        cast: gives the region in which networks run.
    """

    weights: LossConfig
    net: Tokenizer
    lpips: LPIPS | None
    critic: Discriminator | None
    adversarial_start: int
    mirror: float
    cast: Callable[[], Any]

    def __call__(self, net: Callable[..., Any], batch: Batch, noise: PositionalNoise) -> dict[str, Tensor]:
        """Return the weighted terms, float32 [B], of a micro-batch; `net` is the network as it is to be called."""
        images = self.images(batch, noise)
        with self.cast():
            decoded, terms = net(images, noise, batch.caption)
            decoded = decoded.float()
            found = pixel_terms(decoded, images, self.weights)
            if self.lpips is not None:
                found["lpips"] = self.weights.lpips * self.lpips(2 * images - 1, 2 * decoded - 1).float()
            terms = found | terms
            if self.critic is not None and noise.step >= self.adversarial_start:
                self.critic.eval()
                opinion = -self.critic(augmented(2 * decoded - 1, noise, "decoded")).float().mean(1)
                whole = torch.stack([term.mean() for term in found.values()]).sum()
                balance = adaptive_weight(whole, opinion.mean(), self.net.last.get_parameter("weight"))
                terms["adversarial"] = self.weights.adversarial * balance * opinion
        return terms

    def images(self, batch: Batch, noise: PositionalNoise) -> Tensor:
        """Return the images of a batch, float32 in [0, 1] on the noise's device."""
        assert batch.image is not None
        images = batch.image.to(noise.device, non_blocking=True).float() / 255
        if not self.mirror:
            return images
        return torch.where(noise.uniform("mirror", (1, 1, 1)) < self.mirror, images.flip(3), images)

    def of_critic(self, critic: Callable[..., Any], batch: Batch, noise: PositionalNoise) -> dict[str, Tensor]:
        """Return the discriminator's own loss [B] on the images of the step that the network has just made."""
        assert self.critic is not None
        self.critic.train()
        images = self.images(batch, noise)
        with self.cast():
            with torch.no_grad():
                self.net.eval()
                made = quantised(2 * self.net.decode(self.net.encode(images)).float() - 1)
                self.net.train()
            shown = torch.cat([augmented(2 * images - 1, noise, "real"), augmented(made, noise, "made")])
            real, fake = critic(shown).float().chunk(2)
        return {"critic": hinge(real, fake)}


def pixel_terms(decoded: Tensor, images: Tensor, weights: LossConfig) -> dict[str, Tensor]:
    """Return weighted L1 and L2 of pixels and L1 of the detail [B], of float32 [B, 3, H, W] in [0, 1]; none of 0."""
    error = decoded - images
    coloured = (images.amax(1, keepdim=True) - images.amin(1, keepdim=True)) > 0.2
    weight = 1 + (weights.coloured - 1) * coloured
    found = {
        "l1": (weights.l1, error.abs() * weight),
        "l2": (weights.l2, error.square() * weight),
        "detail": (weights.detail, detail(error).abs()),
    }
    return {name: factor * values.flatten(1).mean(1) for name, (factor, values) in found.items() if factor}


def detail(images: Tensor) -> Tensor:
    """Return what is left of [B, 3, H, W] when the mean of 5x5 pixels is taken off."""
    return images - F.avg_pool2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), 5, 1)
