"""Image files: decoding and cropping for every stored data set, and folders of class folders.

Images are cropped as the ImageNet references were and never flipped: a flip would train on images that the
reference statistics do not hold.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from diffusionbench.errors import DataError
from diffusionbench.images import center_crop, decode_rgb
from nanogen.data import Item
from nanogen.data.files import entries, existing, split_folder
from nanogen.data.plan import Part

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

# Sentences about incomplete samples that a data set keeps; one is enough to refuse it.
MAX_DEFECTS = 20


class Source(Protocol):
    """Encoded images by index, wherever they are stored."""

    def read(self, index: int) -> bytes:
        """The bytes of one image file; DataError if there are none."""
        ...

    def name(self, index: int) -> str:
        """What messages call the image."""
        ...


class Texts(Protocol):
    """Captions by index, wherever they are stored."""

    def text(self, index: int) -> str:
        """One caption, not empty; DataError if there is none."""
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

    def name(self, index: int) -> str:
        return str(self.root / os.fsdecode(self._names[index]))

    def read(self, index: int) -> bytes:
        try:
            return Path(self.name(index)).read_bytes()
        except OSError as error:
            raise DataError(f"cannot read image {self.name(index)}: {error.strerror}. Replace or remove it.") from None


def open_folder(path: Path | None, image_size: int, split: str) -> StoredImages:
    """A folder of class folders of images: `class/name.png`, classes and images in the order of their names.

    Files with other endings than png, jpg, jpeg, webp and bmp, and hidden ones, are no images.

    Args:
        path: the folder, or one that holds a folder per split.
        image_size: side of the cropped images in pixels.
        split: "train" or the name of a subfolder.

    Raises:
        DataError: if the folder is missing, has no class folders, or a class folder has no image.
    """
    root = split_folder(existing(path, "imagefolder"), split)
    if not root.is_dir():
        raise DataError(f"data set 'imagefolder': {root} is a file. Give the folder that holds the class folders.")
    classes = [entry.name for entry in entries(root) if entry.is_dir()]
    if not classes:
        raise DataError(f"{root} holds no class folders. Put the images into one folder per class: CLASS/NAME.png.")
    names: list[str] = []
    labels: list[int] = []
    sha = hashlib.sha256()
    for label, name in enumerate(classes):
        files = [(entry.name, entry.stat().st_size) for entry in entries(root / name) if is_image(entry)]
        if not files:
            raise DataError(
                f"class folder {root / name} holds no image ({', '.join(IMAGE_ENDINGS)}). Fill it or remove it."
            )
        for file, size in files:
            sha.update(f"{name}/{file}\0{size}\n".encode("utf-8", "surrogateescape"))
        names += [f"{name}/{file}" for file, _ in files]
        labels += [label] * len(files)
    return StoredImages(
        source=ImageFiles(root, names),
        labels=np.array(labels, np.int64),
        classes=tuple(classes),
        num_classes=len(classes),
        image_size=image_size,
        digest=sha.hexdigest(),
        texts=None,
        parts=(Part(len(labels)),),
    )


def is_image(entry: os.DirEntry[str]) -> bool:
    """Whether a folder entry counts as an image, by its name."""
    return entry.name.lower().endswith(IMAGE_ENDINGS) and not entry.name.startswith(".") and entry.is_file()
