"""Which opener fits a path that a user gave."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from diffusionbench.errors import DataError
from diffusionbench.files import LeftOut, is_image, walk_files
from nanogen.data.captions import METADATA
from nanogen.data.files import entries, is_pattern

# File ending -> name in `DATASETS`.
ENDINGS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "tars"}
# Pictures of a folder that are looked at for a text file beside them.
LOOKED_AT = 100


def detect(path: Path) -> str:
    """The name in `DATASETS` whose opener fits a file, a pattern or a folder; folders per split are looked into.

    Raises:
        DataError: if nothing is there, nothing fits, or more than one kind does.
    """
    known = f"{', '.join(ENDINGS)} files, a folder of class folders of images, or images with NAME.txt beside NAME.png"
    if path.is_file() or is_pattern(path):
        if path.suffix not in ENDINGS:
            raise DataError(f"{path} is no data set that can be read. Allowed: {known}.")
        return ENDINGS[path.suffix]
    if not path.is_dir():
        raise DataError(f"data {path} does not exist. Give {known}.")
    folders = [folder for folder in (path, path / "train", path / "data") if folder.is_dir()]
    endings = {Path(entry.name).suffix for folder in folders for entry in entries(folder)}
    found = {ENDINGS[ending] for ending in endings & set(ENDINGS)}
    if not found and any(_has_captions(folder) for folder in folders):
        found = {"captionfolder"}
    if not found and any(_has_class_folder(folder) for folder in folders):
        found = {"imagefolder"}
    if len(found) != 1:
        what = f"holds several kinds ({', '.join(sorted(found))})" if found else "holds no data set that can be read"
        raise DataError(f"{path} {what}. Give {known}.")
    return found.pop()


def _has_captions(folder: Path) -> bool:
    if any((folder / name).is_file() for name in METADATA):
        return True
    pictures = islice(_pictures(folder), LOOKED_AT)
    return any((folder / name).with_suffix(".txt").is_file() for name in pictures)


def _has_class_folder(folder: Path) -> bool:
    return any("/" in name for name in _pictures(folder))


def _pictures(folder: Path) -> Iterator[str]:
    return (name for name, _ in walk_files(folder, LeftOut()) if is_image(name))
