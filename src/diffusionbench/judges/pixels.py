"""Hands the images themselves to metrics that judge pictures rather than feature vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from diffusionbench.judges import PIXELS
from diffusionbench.judges.judge import Evidence, Judge
from diffusionbench.sample import Item
from diffusionbench.schema import digest


class Pixels(Judge):
    """The identity on 8-bit images; what is made of them is the business of who uses it."""

    spec = PIXELS
    digest = digest("pixels")

    def __call__(
        self, images: np.ndarray, items: Sequence[Item] = (), given: Mapping[str, Evidence] | None = None
    ) -> Mapping[str, np.ndarray]:
        """Return uint8 [B, H, W, 3] as {"images": the same}."""
        return {"images": images}
