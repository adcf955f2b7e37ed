"""Folders of class folders of images, in natural order of their names; docs/data.md says what counts."""

from __future__ import annotations

import hashlib
from itertools import islice
from pathlib import Path

import numpy as np

from diffusionbench.errors import DataError
from diffusionbench.files import IMAGE_SUFFIXES, number_classes, open_image_folder
from diffusionbench.shown import printable
from nanogen.data.paths import existing
from nanogen.data.stored import MAX_DEFECTS, ImageFiles, empty_images


def open_folder(path: Path, image_size: int, split: str) -> ImageFiles:
    """Open a folder of class folders of images, or one that holds such a folder per split.

    Raises:
        DataError: if the folder is missing, has no class folders, or a class folder has no image.
    """
    found = open_image_folder(existing(path, "imagefolder", must_be_folder=True), split)
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
    return ImageFiles(
        root=found.root,
        names=list(found.images),
        image_size=image_size,
        digest=sha.hexdigest(),
        labels=np.array([numbers[name.partition("/")[0]] for name in found.images], np.int64),
        classes=tuple(map(printable, numbers)),
        num_classes=len(numbers),
        left_out=found.left_out.sentence(path),
        defects=tuple(islice(empty_images(found.root, found.images).values(), MAX_DEFECTS)),
    )
