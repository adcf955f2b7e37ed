"""Find the data set that fits a path that a user gave."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePath

from diffusionbench.errors import DataError, MissingPackageError
from diffusionbench.files import LeftOut, is_image, walk_files
from nanogen.data.caption_text import METADATA
from nanogen.data.paths import check_local, expand_braces, is_pattern
from nanogen.datasets import DATASETS
from nanogen.datasets.tables import has_images

# Pictures of a folder that are looked at for a text file beside them, and Parquet files for images.
LOOKED_AT = 100


def detect(path: Path) -> str:
    """Return the name in `DATASETS` that fits a file, a pattern or a folder; folders per split are looked into.

    Raises:
        DataError: if nothing is there, nothing fits, or more than one kind does.
    """
    endings = {row.ending: name for name, row in DATASETS.items() if row.ending is not None}
    known = (
        f"{', '.join(endings)} files, a folder of class folders of images, or images with NAME.txt beside NAME.png; "
        "unpack .tar.gz and .zip first"
    )
    check_local(path)
    if path.is_file() or is_pattern(path):
        names = [str(path)] if path.is_file() else expand_braces(str(path))
        kinds = {endings.get(Path(name).suffix.lower(), "") for name in names}
        if len(kinds) > 1 or "" in kinds:
            raise DataError(f"{path} is no data set that can be read. Allowed: {known}.")
        return kinds.pop()
    if not path.is_dir():
        raise DataError(f"data {path} does not exist. Give {known}.")
    folders = [folder for folder in (path, path / "train", path / "data") if folder.is_dir()]
    files: list[Path] = []
    for folder in folders:
        try:
            with os.scandir(folder) as entries:
                files += sorted(Path(one.path) for one in entries if not one.name.startswith(".") and not one.is_dir())
        except OSError as error:
            raise DataError(f"cannot read folder {folder}: {error.strerror}. Correct its permissions.") from None
    tables = {endings[file.suffix.lower()]: file for file in reversed(files) if file.suffix.lower() in endings}
    found = set(tables) - ({"parquet"} if _holds_facts_only(files) else set())
    if not found and any(_has_captions(folder) for folder in folders):
        found = {"captionfolder"}
    if not found and any(_pictures(path)):
        found = {"imagefolder"}
    if not found and tables:
        found = set(tables)
    if not found:
        # Tables and shards further down; their opener says how to name them.
        below = (PurePath(name).suffix.lower() for name, _ in walk_files(path, LeftOut()))
        found = set(islice((endings[ending] for ending in below if ending in endings), 1))
    if len(found) > 1:
        ways = " or ".join(f"--data '{tables[kind].parent}/*{tables[kind].suffix}'" for kind in sorted(found))
        raise DataError(f"{path} holds several kinds ({', '.join(sorted(found))}). Give one of them: {ways}.")
    if not found:
        raise DataError(f"{path} holds no data set that can be read. Give {known}.")
    return found.pop()


def _holds_facts_only(files: list[Path]) -> bool:
    """Return whether no Parquet file has images, as where a tool that fetches pictures lists them beside its shards."""
    tables = [file for file in files if file.suffix.lower() == ".parquet"]
    try:
        return bool(tables) and not any(has_images(file) for file in tables[:LOOKED_AT])
    except MissingPackageError:
        return False


def _has_captions(folder: Path) -> bool:
    if any((folder / name).is_file() for name in METADATA):
        return True
    pictures = islice(_pictures(folder), LOOKED_AT)
    return any((folder / name).with_suffix(".txt").is_file() for name in pictures)


def _pictures(folder: Path) -> Iterator[str]:
    return (name for name, _ in walk_files(folder, LeftOut()) if is_image(name))
