"""Image files: decoding and cropping for every stored data set, and folders of class folders.

Images are cropped as the ImageNet references were and never flipped: a flip would train on images that the
reference statistics do not hold.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from diffusionbench.errors import DataError
from diffusionbench.files import IMAGE_SUFFIXES, number_classes, open_image_folder
from diffusionbench.images import center_crop, decode_rgb
from diffusionbench.shown import printable
from nanogen.data import Item
from nanogen.data.files import existing, say_left_out
from nanogen.data.plan import Part

# Sentences about incomplete samples that a data set keeps; one is enough to refuse it.
MAX_DEFECTS = 20


class Source(Protocol):
    """Encoded images by index, wherever they are stored."""

    def read(self, index: int) -> bytes:
        """Return the bytes of one image file; DataError if there are none."""
        ...

    def name(self, index: int) -> str:
        """Return what messages call the image."""
        ...


class Texts(Protocol):
    """Captions by index, wherever they are stored."""

    def text(self, index: int) -> str:
        """Return one caption, not empty; DataError if there is none."""
        ...


@dataclass(frozen=True)
class StoredImages:
    """A data set of encoded images with classes, captions or both, decoded when asked for.

    Attributes:
        source: the encoded images.
        labels: int64 [n] in [0, num_classes), or None.
        classes: names of the classes in the order of their labels, or None where unknown.
        num_classes: number of classes, or None without labels.
        image_size: side of the square images in pixels.
        digest: SHA-256 that changes when the list of images does.
        texts: the captions, or None.
        parts: how the images lie (`plan.py`).
        defects: sentences about samples known to be incomplete, at most `MAX_DEFECTS`; reading one raises DataError.
    """

    source: Source
    labels: np.ndarray | None
    classes: tuple[str, ...] | None
    num_classes: int | None
    image_size: int
    digest: str
    texts: Texts | None
    parts: tuple[Part, ...]
    defects: tuple[str, ...] = ()

    def __len__(self) -> int:
        return sum(part.size for part in self.parts)

    def __getitem__(self, index: int) -> Item:
        if not 0 <= index < len(self):
            raise IndexError(index)
        caption = self.caption(index)
        image = decode_rgb(self.source.read(index), self.source.name(index))
        label = None if self.labels is None else int(self.labels[index])
        return Item(np.asarray(center_crop(image, self.image_size)), label, caption)

    @property
    def captioned(self) -> bool:
        return self.texts is not None

    def caption(self, index: int) -> str | None:
        return None if self.texts is None else self.texts.text(index)


class ImageFiles:
    """Image files below one folder, by relative name; names are kept as bytes, as a million strings would be heavy."""

    def __init__(self, root: Path, names: list[str]) -> None:
        self.root = root
        self._names = np.array([os.fsencode(name) for name in names])

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
    """Name each image without content below a folder, with a sentence about it: empty files and links to nothing."""
    found = {}
    for name in (name for name, size in sizes.items() if not size):
        fault = "empty" if os.path.exists(root / name) else "a link to nothing"
        found[name] = f"image {printable(str(root / name))} is {fault}. Replace or remove it."
    return found


def open_folder(path: Path | None, image_size: int, split: str) -> StoredImages:
    """Open a folder of class folders of images, in natural order of their names; what counts is in docs/data.md.

    Args:
        path: the folder, or one that holds a folder per split.
        image_size: side of the cropped images in pixels.
        split: "train" or the name of a subfolder.

    Raises:
        DataError: if the folder is missing, has no class folders, or a class folder has no image.
    """
    folder = existing(path, "imagefolder")
    if not folder.is_dir():
        raise DataError(f"data set 'imagefolder': {folder} is a file. Give the folder that holds the class folders.")
    found = open_image_folder(folder, split)
    where = printable(str(found.root))
    if found.classes is None:
        raise DataError(
            f"{where} holds no class folders. Put the images into one folder per class "
            "(CLASS/NAME.png), or write a caption beside each (NAME.txt beside NAME.png)."
        )
    if found.empty:
        raise DataError(
            f"class folder {where}/{printable(found.empty[0])} holds no image ({', '.join(IMAGE_SUFFIXES)}). "
            "Fill it or remove it."
        )
    numbers, _ = number_classes(found.classes)
    sha = hashlib.sha256()
    for name, size in found.images.items():
        sha.update(f"{name}\0{size}\n".encode("utf-8", "surrogateescape"))
    say_left_out(found.left_out, path)
    return StoredImages(
        source=ImageFiles(found.root, list(found.images)),
        labels=np.array([numbers[name.partition("/")[0]] for name in found.images], np.int64),
        classes=tuple(map(printable, numbers)),
        num_classes=len(numbers),
        image_size=image_size,
        digest=sha.hexdigest(),
        texts=None,
        parts=(Part(len(found.images)),),
        defects=tuple(islice(empty_images(found.root, found.images).values(), MAX_DEFECTS)),
    )
