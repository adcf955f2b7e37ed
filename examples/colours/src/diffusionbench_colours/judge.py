"""The judge `mean_colour`: three numbers an image, no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from diffusionbench.judges.judge import Evidence, Judge
from diffusionbench.sample import Item
from diffusionbench.schema import digest
from diffusionbench_colours import JUDGE


class MeanColour(Judge):
    """Mean of each channel in 0..1; any image size."""

    spec = JUDGE
    # There are no weights: the rule itself is what must not change under this digest.
    digest = digest(["mean over pixels of each channel, divided by 255", 1])

    def __call__(
        self, images: np.ndarray, items: Sequence[Item] = (), given: Mapping[str, Evidence] | None = None
    ) -> Mapping[str, np.ndarray]:
        """Map uint8 [B, H, W, 3] to {"features": float32 [B, 3]}."""
        return {"features": (images.mean(axis=(1, 2)) / 255).astype(np.float32)}
