"""Hands the images themselves to metrics that judge pictures rather than feature vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from diffusionbench.schema import digest

if TYPE_CHECKING:
    import torch


class Pixels:
    """The identity on 8-bit images; what a judge does with them is part of the judge."""

    name = "pixels"
    dim = 0
    image_size: tuple[int, int] | None = None

    def __init__(self, device: str | torch.device = "cpu") -> None:
        """Remember where judges run."""
        self.device = str(device)
        self.digest = digest("pixels")

    @classmethod
    def check(cls) -> None:
        """Nothing is needed."""

    def __call__(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        """uint8 [B, H, W, 3] as {"images": the same}."""
        return {"images": images}
