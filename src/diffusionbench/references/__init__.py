"""The table of references: the real images (or their statistics) that generated ones are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from diffusionbench.registry import Registry

if TYPE_CHECKING:
    import numpy as np

    from diffusionbench.extractors import Extractor

REFERENCES = Registry(
    "reference",
    {
        "digits": "diffusionbench.references.digits:Digits",
    },
    group="diffusionbench.references",
)


class Reference(Protocol):
    """Real data behind a score.

    Attributes:
        name: what records call it.
        digest: SHA-256 over the images or the statistics file.
        image_size: (height, width) that every scored image must have, or None where unknown.
        num_classes: number of classes, or None where it has no labels.
    """

    name: str
    digest: str
    image_size: tuple[int, int] | None
    num_classes: int | None

    def labels(self, count: int) -> list[int | None]:
        """The classes to ask a generator for: the first `count` of the evaluation order."""
        ...

    def anchors(self, count: int) -> dict[str, tuple[np.ndarray, list[int]]]:
        """Image sets that say what a score means, by name ("held_out", "class_means").

        Each is (uint8 [n, H, W, 3], labels) with n = min(count, held-out images), in the order of `labels`.
        Empty where the reference has no images.
        """
        ...

    def moments(self, extractor: Extractor) -> tuple[np.ndarray, np.ndarray]:
        """Mean float64 [d] and covariance float64 [d, d] of the training images' features."""
        ...

    def features(self, extractor: Extractor) -> np.ndarray:
        """Training images' features, float32 [n, d]."""
        ...
