"""Damaged copies that the shapes readers see instead of the image."""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np

from diffusionbench.benchmarks.simpleeval.pixels import SIDE, box_mean
from diffusionbench.benchmarks.simpleeval.stream import octets

COUNT: Final = 3
#: Which views are mirror images.
MIRRORED: Final[tuple[bool, ...]] = (False, True, False)


def views(image: np.ndarray) -> list[np.ndarray]:
    """Three damaged copies of uint8 [64, 64, 3]; noise and shift follow from the image's own bytes.

    Returns:
        v1: 3 x 3 box mean and noise -12..12; v2: mirrored, 4 bits a channel; v3: shifted by -3..3 px, noise -16..16.
    """
    key = hashlib.sha256(image.tobytes()).hexdigest()
    noise = np.frombuffer(octets(key, "views", 2 * image.size + 2), np.uint8).astype(np.int64)
    first, second = noise[: image.size].reshape(image.shape), noise[image.size : -2].reshape(image.shape)
    dy, dx = noise[-2] % 7, noise[-1] % 7
    smooth = np.rint(box_mean(image)).astype(np.int64) + first % 25 - 12
    padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode="edge").astype(np.int64)
    shifted = padded[dy : dy + SIDE, dx : dx + SIDE] + second % 33 - 16
    return [
        np.clip(smooth, 0, 255).astype(np.uint8),
        image[:, ::-1] // 16 * 16 + 8,
        np.clip(shifted, 0, 255).astype(np.uint8),
    ]
