"""Which files a path means: one file, a pattern, or the files of one split in a folder."""

from __future__ import annotations

import glob
import json
import os
import re
from pathlib import Path

from diffusionbench.errors import DataError
from diffusionbench.files import LeftOut
from nanogen.log import say

OTHER_SPLITS = {"test", "val", "valid", "validation", "dev"}


def existing(path: Path | None, name: str) -> Path:
    """The path of a data set that needs one.

    Raises:
        DataError: if none was given or nothing is there.
    """
    if path is None:
        raise DataError(f"data set '{name}' needs a path, and none was given. Set data.path or use --data PATH.")
    if not path.exists():
        raise DataError(f"data set '{name}': {path} does not exist. Give the path of a file or folder that does.")
    return path


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder, in the order of the names, without hidden entries.

    Raises:
        DataError: if it cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot read folder {folder}: {error.strerror}. Correct its permissions.") from None


def is_pattern(path: Path) -> bool:
    """Whether a path is a pattern such as `shards/train-*.tar` and no file of that very name."""
    return bool(re.search(r"[*?\[]", str(path))) and not path.exists()


def find_files(path: Path | None, split: str, name: str, ending: str) -> list[Path]:
    """The files of one split, in the order of their names.

    Args:
        path: a file, a pattern, or a folder; a subfolder with the split's name or `data` is looked into.
        split: "train" or another; a single file or a pattern is any split.
        name: of the data set, for messages.
        ending: of the files, such as ".parquet".

    Raises:
        DataError: if there are none, or it is not clear which files are the split.
    """
    if path is not None and is_pattern(path):
        files = sorted(map(Path, glob.glob(str(path), recursive=True)))
        if not files:
            raise DataError(f"data set '{name}': no file matches {path}. Give a file, a folder or another pattern.")
        return files
    path = existing(path, name)
    if path.is_file():
        return [path]
    if (path / split).is_dir():
        files = _listed(path / split, ending)
    else:
        inside = path / "data"
        files = _of_split(_listed(path, ending) or (_listed(inside, ending) if inside.is_dir() else []), path, split)
    if not files:
        raise DataError(f"{path} holds no {ending} file. Give a folder that does, or the file itself.")
    return files


def _of_split(files: list[Path], path: Path, split: str) -> list[Path]:
    words = {file: set(re.split(r"[^a-z0-9]+", file.stem.lower())) for file in files}
    named = [file for file in files if split in words[file]]
    others = any(words[file] & OTHER_SPLITS for file in files)
    if files and not named and (split != "train" or others):
        raise DataError(
            f"{path} holds no file of split '{split}'. Found: {files[0].name}{', ...' * (len(files) > 1)}. "
            "Give the path of the file itself."
        )
    return named or files


def _listed(folder: Path, ending: str) -> list[Path]:
    """Files of one folder; `save_to_disk` lists its Arrow files, as others may lie beside them."""
    state = folder / "state.json"
    if ending == ".arrow" and state.is_file():
        try:
            return [folder / entry["filename"] for entry in json.loads(state.read_bytes())["_data_files"]]
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{state} does not list the data files. Save the data set again.") from None
    return [Path(entry.path) for entry in entries(folder) if entry.name.endswith(ending)]


def say_left_out(left_out: LeftOut, path: Path | None) -> None:
    """Say once, in the main process, what a data set did not read."""
    from nanogen import distributed

    sentence = left_out.sentence(path or "data")
    if sentence is not None and distributed.is_main():
        say(sentence)
