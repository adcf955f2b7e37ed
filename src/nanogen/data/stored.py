"""Data sets of encoded images: decoded and cropped when asked for, and named in messages.

Images are cropped as the ImageNet references were and never flipped: a flip would train on images that the
reference statistics do not hold.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from pathlib import Path

import numpy as np

from diffusionbench.errors import DataError
from diffusionbench.images import center_crop, decode_rgb
from diffusionbench.shown import printable
from nanogen.data import Dataset, Example

# Sentences about incomplete samples that a data set keeps; one is enough to refuse it.
MAX_DEFECTS = 20


@dataclass(kw_only=True, eq=False)
class StoredImages(Dataset):
    """Base of data sets of encoded images with classes, captions or both.

    Attributes:
        image_size: side of the square images in pixels.
        labels: int64 [n] in [0, num_classes), or None.
    """

    image_size: int
    labels: np.ndarray | None = None

    @abstractmethod
    def read(self, index: int) -> bytes:
        """Return the bytes of one image file; DataError if there are none."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Return what messages call the image."""

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        caption = self.caption(index)
        image = decode_rgb(self.read(index), self.name(index))
        return Example(np.asarray(center_crop(image, self.image_size)), self.label(index), caption)

    def label(self, index: int) -> int | None:
        return None if self.labels is None else int(self.labels[index])


@dataclass(kw_only=True, eq=False)
class ImageFiles(StoredImages):
    """Image files below one folder.

    Args:
        names: paths below `root`, kept as bytes, as a million strings would be heavy.
    """

    root: Path
    names: InitVar[Sequence[str]]

    def __post_init__(self, names: Sequence[str]) -> None:
        self._names = np.array([os.fsencode(name) for name in names])

    def __len__(self) -> int:
        return len(self._names)

    def _path(self, index: int) -> Path:
        return self.root / os.fsdecode(self._names[index])

    def name(self, index: int) -> str:
        return printable(str(self._path(index)))

    def read(self, index: int) -> bytes:
        try:
            return self._path(index).read_bytes()
        except OSError as error:
            raise DataError(f"cannot read image {self.name(index)}: {error.strerror}. Replace or remove it.") from None


def empty_images(root: Path, sizes: Mapping[str, int]) -> dict[str, str]:
    """Return a sentence about each image without content below a folder: empty files and links to nothing."""
    found = {}
    for name in (name for name, size in sizes.items() if not size):
        fault = "empty" if os.path.exists(root / name) else "a link to nothing"
        found[name] = f"image {printable(str(root / name))} is {fault}. Replace or remove it."
    return found
