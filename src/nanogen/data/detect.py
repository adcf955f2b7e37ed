"""Which opener fits a path that a user gave."""

from __future__ import annotations

import os
import re
from pathlib import Path

from diffusionbench.errors import DataError
from nanogen.data.images import is_image

# File ending -> name in `DATASETS`.
ENDINGS = {".parquet": "parquet", ".arrow": "arrow"}


def detect(path: Path) -> str:
    """The name in `DATASETS` whose opener fits a file, a pattern or a folder; folders per split are looked into.

    Raises:
        DataError: if nothing is there, nothing fits, or more than one kind does.
    """
    known = f"{', '.join(ENDINGS)} files or a folder of class folders of images"
    if path.is_file() or (re.search(r"[*?\[]", path.name) and not path.exists()):
        if path.suffix not in ENDINGS:
            raise DataError(f"{path} is no data set that can be read. Allowed: {known}.")
        return ENDINGS[path.suffix]
    if not path.is_dir():
        raise DataError(f"data {path} does not exist. Give {known}.")
    folders = [folder for folder in (path, path / "train", path / "data") if folder.is_dir()]
    found = {ENDINGS[file.suffix] for folder in folders for file in folder.iterdir() if file.suffix in ENDINGS}
    if not found and any(_has_class_folder(folder) for folder in folders):
        found = {"imagefolder"}
    if len(found) != 1:
        what = f"holds several kinds ({', '.join(sorted(found))})" if found else "holds no data set that can be read"
        raise DataError(f"{path} {what}. Give {known}.")
    return found.pop()


def _has_class_folder(folder: Path) -> bool:
    subfolders = (entry.path for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    return any(is_image(entry) for subfolder in subfolders for entry in os.scandir(subfolder))
