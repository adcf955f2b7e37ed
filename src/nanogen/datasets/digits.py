"""The embedded data set: handwritten digits of 8x8 pixels, resized where another size is asked for."""

from __future__ import annotations

from typing import get_args

import numpy as np
from PIL import Image

from diffusionbench.errors import DataError
from diffusionbench.references import digits
from nanogen.data.memory import ArrayDataset, array_digest


def open_digits(path: None, image_size: int, split: str) -> ArrayDataset:
    """Return the training or held-out digits as RGB images of ten classes.

    Args:
        path: None; the images come with the package.
        image_size: side in pixels; multiples of 8 repeat pixels, so that their mean is the digit again, others are
            bicubic.
        split: "train" (1,438 images) or "held_out" (359).

    Raises:
        DataError: if an unknown split is given.
    """
    if split not in get_args(digits.Split):
        raise DataError(f"data set 'digits' has no split '{split}'. Allowed: {', '.join(get_args(digits.Split))}.")
    images, labels = digits.read("train" if split == "train" else "held_out")
    times, rest = divmod(image_size, images.shape[1])
    if not rest:
        images = images.repeat(times, axis=1).repeat(times, axis=2)
    else:
        resized = [
            Image.fromarray(image).resize((image_size, image_size), Image.Resampling.BICUBIC) for image in images
        ]
        images = np.stack([np.asarray(image) for image in resized])
    return ArrayDataset(
        images=images, labels=labels, classes=tuple("0123456789"), num_classes=10, digest=array_digest(images, labels)
    )
