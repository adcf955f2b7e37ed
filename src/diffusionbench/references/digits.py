"""scikit-learn's bundled handwritten digits: 1,797 real 8x8 images of ten classes, no download.

Every fifth image (index mod 5 = 4) is held out from generator, judge and reference.
Source: Alpaydin and Kaynak 1998, UCI "Optical Recognition of Handwritten Digits", test part.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from diffusionbench.registry import require

Split = Literal["train", "held_out"]


def read(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """One split in the stored order.

    Returns:
        images: uint8 [n, 8, 8, 3], grey repeated over the channels; 1,438 training or 359 held-out images.
        labels: int64 [n] in 0..9.

    Raises:
        MissingPackageError: if scikit-learn is not installed.
    """
    data = require("sklearn.datasets", "demo", "The digits data set").load_digits()
    # Stored as 0..16.
    grey = np.round(data.images * (255 / 16)).astype(np.uint8)
    chosen = (np.arange(len(grey)) % 5 == 4) == (split == "held_out")
    return np.repeat(grey[chosen][..., None], 3, axis=-1), data.target[chosen].astype(np.int64)
