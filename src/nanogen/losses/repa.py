"""Alignment of an early layer of the network with features of a frozen encoder.

Sources: Yu et al. 2024 (arXiv 2410.06940) for the idea; `Repa` is the released form of it, one linear map and the
squared error in place of a small network and the cosine. `IRepa`: Singh et al. 2025 (arXiv 2512.10794).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogen.losses import AlignmentOptions, SpatialAlignmentOptions
from nanogen.losses.loss import ExtraLoss
from nanogen.losses.targets import open_features
from nanogen.objectives.objective import Pass

if TYPE_CHECKING:
    from nanogen.build import Components

# The published network is read after 8 of its 28 encoder blocks.
_SHARE = 8 / 28


class Alignment(ExtraLoss):
    """Base class: reads one layer, and the features of the images behind it."""

    def __init__(self, options: AlignmentOptions, components: Components) -> None:
        super().__init__(options, components)
        shape = components.derived.shape
        auto = max(1, round(_SHARE * shape.encoder_depth))
        self.taps = (f"encoder.{auto if options.depth == 'auto' else options.depth}",)
        self.grid, self.hidden_size = shape.grid, shape.encoder_hidden_size
        # Its functions are shared with the average, so that this holds no copy of the frozen network.
        self.features = open_features(options.target, shape.grid, components.device)
        self.digest = self.features.digest

    @torch.no_grad()
    def target(self, p: Pass, class_token: bool = False) -> Tensor:
        """Return the features of the images behind a forward pass, float32 [B, N, width], a class token before them."""
        images = p.batch.image.to(p.t.device, non_blocking=True).float() / 255
        with torch.autocast(p.t.device.type, enabled=False):
            tokens = self.features.tokens(images)
            if class_token and self.features.class_token is not None:
                tokens = torch.cat([self.features.class_token(images)[:, None], tokens], dim=1)
        return tokens


class Repa(Alignment):
    """Mean squared error of a linear map of the image tokens, and of that of a vector that is diffused along."""

    def __init__(self, options: AlignmentOptions, components: Components) -> None:
        super().__init__(options, components)
        self.map = nn.Linear(self.hidden_size, self.features.width)
        if components.derived.shape.vector_width is not None and self.features.class_token is not None:
            self.taps = (self.taps[0].replace("encoder", "vector"), *self.taps)

    def forward(self, p: Pass) -> dict[str, Tensor]:
        mapped = self.map(torch.cat([p.features[tap] for tap in self.taps], dim=1)).float()
        return {"repa": (mapped - self.target(p, class_token=len(self.taps) > 1)).square().mean((1, 2))}


class IRepa(Alignment):
    """Mean negative cosine of a 3x3 convolution over the grid and the target, which is normalised over positions."""

    def __init__(self, options: SpatialAlignmentOptions, components: Components) -> None:
        super().__init__(options, components)
        self.gamma = options.gamma
        self.map = nn.Conv2d(self.hidden_size, self.features.width, 3, padding=1)

    def forward(self, p: Pass) -> dict[str, Tensor]:
        mapped = self.map(p.features[self.taps[0]].mT.unflatten(2, self.grid)).flatten(2).mT.float()
        return {"irepa": -F.cosine_similarity(mapped, spread_out(self.target(p), self.gamma), dim=2).mean(1)}


def spread_out(tokens: Tensor, gamma: float) -> Tensor:
    """Return (z - gamma mean) / (std + 1e-6) of tokens [B, N, C], over positions; the deviation is unbiased."""
    return (tokens - gamma * tokens.mean(1, keepdim=True)) / (tokens.std(1, keepdim=True) + 1e-6)
