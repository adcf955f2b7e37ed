"""Find the files that a path means: one file, a pattern, or the files of one split in a folder."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Collection, Container
from pathlib import Path, PurePath

from diffusionbench.errors import DataError
from diffusionbench.files import LeftOut, is_split, list_files, natural_key

# Names that one pattern may stand for; the largest sets have some ten thousand shards.
MAX_NAMES = 100_000
# Files that belong to what is read and hold no sample.
COMPANIONS = {"state.json", "dataset_info.json", "dataset_dict.json"}
_MAGIC = re.compile(r"[*?\[]")
# The innermost `{a,b}` or `{1..9}` or `{1..9..2}`; other braces are letters like any other.
_BRACES = re.compile(
    r"\{(?:([^{},]*(?:,[^{},]*)+)|(-?[0-9]{1,18}|[A-Za-z])\.\.(-?[0-9]{1,18}|[A-Za-z])(?:\.\.(-?[0-9]{1,18}))?)\}"
)


def existing(path: Path, name: str, must_be_folder: bool = False) -> Path:
    """Return the path of a data set; DataError if nothing is there, or a file where only a folder can be read."""
    check_local(path)
    if not path.exists():
        raise DataError(f"data set '{name}': {path} does not exist. Give the path of a file or folder that does.")
    if must_be_folder and not path.is_dir():
        raise DataError(f"data set '{name}': {path} is a file. Give the folder that holds the pictures.")
    return path


def check_local(path: Path) -> None:
    """Refuse an address (of a web page, a bucket or the hub) and a command with a DataError."""
    # A path joins the two slashes of an address to one.
    if re.match(r"(pipe|hf):|[A-Za-z][A-Za-z0-9+.-]+:/", str(path)) and not os.path.lexists(path):
        raise DataError(f"data {path} is not on this machine. Fetch it, and give the path of the file or folder.")


def is_pattern(path: Path) -> bool:
    """Return whether a path is a pattern such as `train-*.tar` or `{0..99}.tar`, and no file has that very name."""
    return bool(_MAGIC.search(str(path)) or _BRACES.search(str(path))) and not path.exists()


def expand_braces(pattern: str) -> list[str]:
    """Return the names that a pattern with braces stands for, as a shell does, each once and in natural order.

    `{00000..00127}` keeps the zeros; lists `{a,b}`, steps `{0..8..2}`, letters, several braces and nested ones work.

    Raises:
        DataError: if they are more than `MAX_NAMES`.
    """
    names = [pattern]
    while any(map(_BRACES.search, names)):
        longer: dict[str, None] = {}
        for name in names:
            found = _BRACES.search(name)
            for piece in [""] if found is None else _pieces(found, pattern):
                longer[name if found is None else name[: found.start()] + piece + name[found.end() :]] = None
            if len(longer) > MAX_NAMES:
                raise _too_many(pattern)
        names = list(longer)
    return sorted(names, key=natural_key)


def _pieces(found: re.Match[str], pattern: str) -> list[str]:
    listed, first, last, step = found.groups()
    if listed is not None:
        return listed.split(",")
    are_letters = first.isalpha() and last.isalpha()
    if not are_letters and (first.isalpha() or last.isalpha()):
        raise DataError(f"{pattern} counts from {first} to {last}. Give two numbers or two letters.")
    start, end = (ord(first), ord(last)) if are_letters else (int(first), int(last))
    by = abs(int(step or 1)) or 1
    numbers = range(start, end + 1, by) if start <= end else range(start, end - 1, -by)
    if len(numbers) > MAX_NAMES:
        raise _too_many(pattern)
    is_padded = any(re.match(r"-?0[0-9]", number) for number in (first, last))
    width = max(len(first), len(last)) if is_padded else 0
    return [chr(number) if are_letters else f"{number:0{width}d}" for number in numbers]


def _too_many(pattern: str) -> DataError:
    return DataError(f"{pattern} stands for more than {MAX_NAMES:,} names. Give a smaller range.")


def find_files(path: Path, split: str, name: str, ending: str, left_out: LeftOut) -> list[Path]:
    """Return the files of one split, in natural order of their names.

    Args:
        path: a file, a pattern, or a folder; a subfolder with the split's name or `data` is looked into.
        split: "train" or another; a single file or a pattern is any split.
        name: of the data set, for messages.
        ending: of the files, such as ".parquet", in small letters.
        left_out: counts what lies in or below the folder, or matches the pattern, and is not returned.

    Raises:
        DataError: if there are none, a name of a pattern is missing, or it is not clear which files are the split.
    """
    if is_pattern(path):
        return _matching(path, name, ending, left_out)
    path = existing(path, name)
    if not path.is_dir():
        return [path]
    names = list_files(path, left_out)
    inside = next((folder for folder in (split, "", "data") if _listed(path, folder, names, ending)), "")
    files = _listed(path, inside, names, ending)
    chosen = dict.fromkeys(files)
    if inside != split:
        words = {file: set(re.split(r"[^a-z0-9]+", PurePath(file).stem.lower())) for file in files}
        named = [file for file in files if split in words[file]]
        has_splits = any(is_split(word) and not word.startswith("train") for file in files for word in words[file])
        if files and not named and (split != "train" or has_splits):
            found = f"{os.path.basename(files[0])}{', ...' * (len(files) > 1)}"
            raise DataError(
                f"{path} holds no file of split '{split}'. Found: {found}. Give the path of the file itself."
            )
        chosen = dict.fromkeys(named or files)
    if not chosen:
        below = [file for file in names if file.lower().endswith(ending)]
        remedy = f"Below it there are (first: {below[0]}): give --data '{path}/**/*{ending}'." if below else None
        raise DataError(f"{path} holds no {ending} file. {remedy or 'Give a folder that does, or the file itself.'}")
    others = set(files) - chosen.keys()
    for file in names:
        if file in others:
            left_out.add(f"files without '{split}' in their names", file)
        elif file not in chosen and not _is_companion(file, names):
            reason = "files that state.json does not list" if file.lower().endswith(ending) else "files of other kinds"
            left_out.add(reason if os.path.dirname(file) == inside else "files in other folders", file)
    return [path / file for file in chosen]


def _is_companion(file: str, names: Container[str]) -> bool:
    return os.path.basename(file) in COMPANIONS or (file.endswith(".tar.index") and file[: -len(".index")] in names)


def _listed(path: Path, inside: str, names: Collection[str], ending: str) -> list[str]:
    """Return the files of one folder; `save_to_disk` lists its Arrow files, as others may lie beside them."""
    state = path / inside / "state.json"
    if ending == ".arrow" and state.is_file():
        try:
            found = json.loads(state.read_bytes())["_data_files"]
            listed = [os.path.join(inside, entry["filename"]) for entry in found]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            raise DataError(f"{state} does not list the data files. Save the data set again.") from None
        absent = [file for file in listed if file not in names]
        if absent:
            raise DataError(f"{state} lists {absent[0]}, which is not there. Save the data set again.")
        return listed
    return [file for file in names if os.path.dirname(file) == inside and file.lower().endswith(ending)]


def _matching(pattern: Path, name: str, ending: str, left_out: LeftOut) -> list[Path]:
    """Return the files that match a pattern, each once and in natural order."""
    check_local(pattern)
    expanded = expand_braces(str(pattern))
    matches = {one: _globbed(one, left_out) for one in expanded}
    missing = [one for one, found in matches.items() if not found]
    if missing and len(expanded) > 1:
        raise DataError(
            f"data set '{name}': {len(missing):,} of the {len(expanded):,} names of {pattern} are not there "
            f"(first: {missing[0]}). Fetch them, or correct the pattern."
        )
    found = sorted({one for several in matches.values() for one in several}, key=natural_key)
    if not any(os.path.isfile(one) or os.path.islink(one) for one in found):
        raise DataError(f"data set '{name}': no file matches {pattern}. Give a file, a folder or another pattern.")
    has_ending = any(one.lower().endswith(ending) for one in found)
    files, names = [], set(found)
    for one in found:
        if not os.path.isfile(one) and os.path.exists(one):
            left_out.add("entries that are no files", one)
        elif has_ending and not one.lower().endswith(ending):
            if not _is_companion(one, names):
                left_out.add("files of other kinds", one)
        else:
            files.append(Path(one))
    return files


def _globbed(pattern: str, left_out: LeftOut) -> list[str]:
    if os.path.lexists(pattern):
        return [pattern]
    before, _, after = pattern.partition("**/")
    if "**" not in PurePath(pattern).parts:
        return glob.glob(pattern)
    if "**" in PurePath(after).parts or not after:
        raise DataError(f"{pattern}: one ** is read, with the names of files after it. Give a simpler pattern.")
    # Links may lead in circles, which `glob` follows.
    return [
        os.path.join(folder, file)
        for folder in (glob.glob(before) if _MAGIC.search(before) else [before or "."])
        if os.path.isdir(folder)
        for file in list_files(Path(folder), left_out)
        if PurePath(file).match(after)
    ]
