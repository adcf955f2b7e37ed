"""The table of feature extractors and what one extractor is.

One pass of an extractor over the images serves every metric that names it, inside the region of `float32.in_float32`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from diffusionbench.registry import Registry

if TYPE_CHECKING:
    import numpy as np

EXTRACTORS = Registry(
    "feature extractor",
    {
        "digits": "diffusionbench.judges.digits:DigitsJudge",
        "pixels": "diffusionbench.judges.pixels:Pixels",
        "inception": "diffusionbench.judges.inception:Inception",
    },
    group="diffusionbench.judges",
)


def cache_folder() -> Path:
    """Where downloaded weights and computed features lie; `DIFFUSIONBENCH_CACHE` moves it and changes no number."""
    return Path(os.environ.get("DIFFUSIONBENCH_CACHE") or Path.home() / ".cache" / "diffusionbench")


class Extractor(Protocol):
    """Frozen network from 8-bit images to features; constructed with `device`, which loads the weights.

    The first three attributes belong to the class, so that a request is checked without weights. So does
    `num_classes`, where the logits are those of the classes 0..num_classes - 1 that a request may ask for.

    Attributes:
        name: its key in `EXTRACTORS`.
        dim: feature width d.
        image_size: the only (height, width) it accepts, or None for any.
        digest: SHA-256 over weights, preprocessing and precision (`float32.PRECISION`): equal digests mean comparable
            features.
    """

    name: str
    dim: int
    image_size: tuple[int, int] | None
    digest: str

    @classmethod
    def check(cls) -> None:
        """Verify without loading anything that weights and packages are there.

        Raises:
            UserError: saying what is missing and how to get it.
        """
        ...

    def __call__(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
        """Map uint8 [B, H, W, 3] to {"features": float32 [B, d], "logits": float32 [B, c]}."""
        ...


TOLERANCE: Final = 1e-3
"""Largest relative deviation from shipped features at which scores of two machines still compare."""


@runtime_checkable
class SelfTested(Protocol):
    """An extractor that was shipped with the features of some images; records state whether it still gives them."""

    def self_test(self) -> float:
        """Largest deviation from the shipped features, relative to their largest value; passed within `TOLERANCE`."""
        ...
