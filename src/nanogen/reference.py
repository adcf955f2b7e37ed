"""Training data as the real images that generated ones are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from diffusionbench.references.opening import ImageReference
from diffusionbench.sample import Sample
from diffusionbench.schema import digest
from nanogen.config import Config
from nanogen.data import Dataset
from nanogen.data.opening import open_dataset

MOST: Final = 10_000
"""Images that are compared with: more change these distances little, and every one has to be judged once."""


class TrainingImages:
    """A random part of a data set, cropped as in training; in its order the first images are often of one class."""

    preferred_batch = 50
    image_format: str | None = None
    notes: tuple[str, ...] = ()

    def __init__(self, data: Dataset, image_size: int, description: str) -> None:
        self._data = data
        self._chosen = np.random.default_rng(0).permutation(len(data))[:MOST].tolist()
        self.description = description
        self.labels: Sequence[int | None] = [data.label(index) for index in self._chosen]
        self.classes = data.classes
        self.image_size: tuple[int, int] | None = (image_size, image_size)
        self.digest = digest(["training images", data.digest, image_size, len(self._chosen)])

    def images(self, samples: Sequence[Sample]) -> np.ndarray:
        """Return uint8 [B, H, W, 3]; DataError if an image cannot be read; it is named."""
        return np.stack([self._data[self._chosen[sample.id]].image for sample in samples])


def training_reference(config: Config) -> ImageReference:
    """Return the images that a config trains on, at most `MOST` of them, as a reference.

    Raises:
        UserError: see `nanogen.data.opening.open_dataset`.
    """
    settings = config.data
    data = open_dataset(
        settings.name, settings.path, image_size=settings.image_size, weights=settings.weights, corrupt=settings.corrupt
    )
    paths = [settings.path or settings.name] if not isinstance(settings.path, tuple) else settings.path
    name = f"training images of {', '.join(Path(path).name for path in paths)}"
    return ImageReference(Path(paths[0]), role="train", source=TrainingImages(data, settings.image_size, name))
