"""The UCI handwritten digits: 1,797 real 8x8 images of ten classes, shipped as a file.

Every fifth image (index mod 5 = 4) is held out from generator, judge and reference.
Source: Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", test part, UCI Machine Learning
Repository, doi 10.24432/C50P49, CC BY 4.0; the same images in the same order as scikit-learn's `load_digits`.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Final, Literal

import numpy as np
from safetensors.numpy import load_file

from diffusionbench.judges.float32 import features_of
from diffusionbench.judges.judge import Judge
from diffusionbench.moments import moments
from diffusionbench.references.reference import Reference
from diffusionbench.source import ArraySource, ImageSource

FILE: Final = Path(__file__).with_name("digits.safetensors")
Split = Literal["train", "held_out"]


def read(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return one split in the stored order.

    Returns:
        images: uint8 [n, 8, 8, 3], grey repeated over the channels; 1,438 training or 359 held-out images.
        labels: int64 [n] in 0..9.
    """
    data = _stored()
    # Stored as 0..16.
    grey = np.round(data["images"] * (255 / 16)).astype(np.uint8)
    chosen = (np.arange(len(grey)) % 5 == 4) == (split == "held_out")
    return np.repeat(grey[chosen][..., None], 3, axis=-1), data["labels"][chosen].astype(np.int64)


@cache
def _stored() -> dict[str, np.ndarray]:
    return load_file(FILE)


class DigitsReference(Reference):
    """The digits as a reference: moments and features of the training split, both anchors.

    The evaluation order is that of the held-out labels, repeated: 359 generated images have exactly the held-out
    images' class counts (21 to 52 a class), so the two differ in nothing but who made them.
    """

    name = "digits"
    num_classes = 10
    classes = tuple("0123456789")
    offers = frozenset({"moments", "features"})
    role = "train"

    def __init__(self) -> None:
        self._images, self._labels = read("train")
        self.count = len(self._images)
        self._held_out = read("held_out")
        self._features: dict[str, np.ndarray] = {}

    @property
    def digest(self) -> str:
        """SHA-256 over training and held-out images and labels."""
        arrays = (self._images, self._labels, *self._held_out)
        return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()

    def labels(self, count: int) -> list[int | None]:
        """Return the held-out labels in stored order, from the start again after 359."""
        return np.resize(self._held_out[1], count).tolist()

    def anchors(self, count: int) -> dict[str, ImageSource]:
        """Return at most 359 held-out images, and as many class means of the training images."""
        images, labels = (array[:count] for array in self._held_out)
        means = np.stack([self._images[self._labels == label].mean(axis=0) for label in range(10)])
        means = np.round(means).astype(np.uint8)
        return {
            "held_out": ArraySource(images, labels, "held-out digits"),
            "class_means": ArraySource(means[labels], labels, "class means of the training digits"),
        }

    def features(self, judge: Judge) -> np.ndarray:
        """Return the training images' features, float32 [1438, d]; formed once per judge."""
        if judge.digest not in self._features:
            parts = [features_of(judge, self._images[start : start + 256]) for start in range(0, 1438, 256)]
            self._features[judge.digest] = np.concatenate(parts)
        return self._features[judge.digest]

    def moments(self, judge: Judge) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and covariance of the training images' features."""
        return moments(self.features(judge))
