"""The feature extractor `mean_colour`: three numbers an image, no weights."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from diffusionbench.schema import digest


class MeanColour:
    """Mean of each channel in 0..1; any image size."""

    name = "mean_colour"
    dim = 3
    image_size = None
    # There are no weights: the rule itself is what must not change under this digest.
    digest = digest(["mean over pixels of each channel, divided by 255", 1])

    @classmethod
    def check(cls) -> None:
        """Nothing is needed."""

    def __init__(self, device: str) -> None:
        self.device = device

    def __call__(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        """uint8 [B, H, W, 3] -> {"features": float32 [B, 3]}."""
        return {"features": (images.mean(axis=(1, 2)) / 255).astype(np.float32)}
