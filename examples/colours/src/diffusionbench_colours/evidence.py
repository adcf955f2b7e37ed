"""The judge `mean_colour`: three numbers an image, no weights."""

from collections.abc import Mapping, Sequence

import numpy as np

from diffusionbench.judges.judge import Evidence, Judge
from diffusionbench.sample import Item
from diffusionbench.schema import digest
from diffusionbench_colours import JUDGE


class MeanColour(Judge):
    spec = JUDGE
    # Without weights the rule itself is what must not change under this digest.
    digest = digest(["mean over pixels of each channel, divided by 255", 1])

    def __call__(
        self, images: np.ndarray, items: Sequence[Item] = (), given: Mapping[str, Evidence] | None = None
    ) -> Evidence:
        """Map uint8 [B, H, W, 3] to {"features": float32 [B, 3]} in 0..1."""
        return {"features": (images.mean(axis=(1, 2)) / 255).astype(np.float32)}
