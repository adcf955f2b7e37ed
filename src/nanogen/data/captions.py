"""Captions, and folders of pictures with a text file beside each or one table of captions for all.

    pictures/one.png  pictures/one.txt              flat, or nested in any way
    pictures/metadata.jsonl                         lines such as {"file_name": "one.png", "text": "a red ball"}

A picture without a caption, and the reverse, is a defect that is named; nothing is left out in silence.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import posixpath
import re
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from diffusionbench.errors import DataError
from diffusionbench.files import (
    IMAGE_SUFFIXES,
    LeftOut,
    is_image,
    is_split,
    list_images,
    natural_key,
    no_split,
)
from diffusionbench.shown import few, printable
from nanogen.data.files import existing, say_left_out
from nanogen.data.images import MAX_DEFECTS, ImageFiles, StoredImages, empty_images
from nanogen.data.plan import Part

# Names of the column or field with the caption, the first that is there counts.
CAPTION_FIELDS = ("text", "caption")
METADATA = ("metadata.jsonl", "metadata.csv")
# Bytes of one caption's file; what is larger is none.
MAX_CAPTION = 2**24


def decoded(data: bytes, name: str) -> str:
    """Return a caption from the bytes of a text file, without blanks around it.

    Raises:
        DataError: if it is too long, not UTF-8 or empty; `name` says whose it is.
    """
    if len(data) > MAX_CAPTION:
        raise DataError(f"the caption of {name} has more than {MAX_CAPTION:,} bytes. Shorten it, or remove the image.")
    try:
        text = data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(
            f"the caption of {name} is not UTF-8 (byte {error.start}). Convert it, for example with iconv."
        ) from None
    return filled(text, name)


def from_json(data: bytes, name: str) -> str:
    """Return a caption from a JSON object with a field `text` or `caption`.

    Raises:
        DataError: if it is not UTF-8, no such object, or the caption is empty; `name` says whose it is.
    """
    try:
        found = json.loads(decoded(data, name))
    except (ValueError, RecursionError):
        raise DataError(f"the caption of {name} is not valid JSON. Write it again.") from None
    return from_fields(found, name)


def from_fields(found: Any, name: str) -> str:
    """Return a caption from a mapping with a field `text` or `caption`; raises as `from_json`."""
    field = next((field for field in CAPTION_FIELDS if isinstance(found, dict) and field in found), None)
    if field is None:
        raise DataError(f"{name} has no caption: no field {' or '.join(map(repr, CAPTION_FIELDS))}. Add one.")
    if not isinstance(found[field], str):
        raise DataError(f"the caption of {name} is {reprlib.repr(found[field])}; a string is needed. Replace it.")
    return filled(found[field].strip(), name)


def filled(text: str, name: str) -> str:
    """Return the caption itself; DataError if it is empty or holds what no text holds."""
    if not text:
        raise DataError(f"the caption of {name} is empty. Write one, or remove the image.")
    # Zero bytes come with UTF-16, halves of a character from JSON.
    if re.search("[\0\ud800-\udfff]", text):
        raise DataError(f"the caption of {name} holds a zero byte or half a character. Write it as UTF-8 text.")
    return text


@dataclass(frozen=True)
class Pictures:
    """Pictures with captions below one folder.

    Attributes:
        files: the picture, or what there is of an incomplete sample.
        captions: n strings; "" where `problems` has the sample.
        problems: index -> what is wrong with an incomplete sample; reading it says so.
    """

    files: ImageFiles
    captions: list[str]
    problems: dict[int, str]

    def name(self, index: int) -> str:
        return self.files.name(index)

    def read(self, index: int) -> bytes:
        self._complete(index)
        return self.files.read(index)

    def text(self, index: int) -> str:
        self._complete(index)
        return self.captions[index]

    def _complete(self, index: int) -> None:
        if index in self.problems:
            raise DataError(self.problems[index])


def open_captioned(path: Path | None, image_size: int, split: str) -> StoredImages:
    """Open a folder of pictures with captions: `NAME.txt` beside `NAME.png`, or a `metadata.jsonl` or `metadata.csv`.

    Args:
        path: the folder, or one that holds a folder per split; subfolders are read too, hidden entries are not.
        image_size: side of the cropped images in pixels.
        split: "train" or the name of a subfolder.

    Raises:
        DataError: if the folder is missing or unreadable, holds no picture, or its table of captions is damaged.
            Pictures without captions and captions without pictures are listed in `defects`.
    """
    folder = existing(path, "captionfolder")
    if not folder.is_dir():
        raise DataError(f"data set 'captionfolder': {folder} is a file. Give the folder that holds the pictures.")
    left_out = LeftOut()
    root, sizes = _split_root(folder, list_images(folder, left_out, also=(".txt", *METADATA)), split, left_out)
    tables = [name for name in METADATA if name in sizes]
    if len(tables) > 1:
        raise DataError(f"{root} holds both {' and '.join(tables)}. Keep one of them.")
    images = {name for name in sizes if is_image(name)}
    if not images:
        raise DataError(f"{root} holds no image ({', '.join(IMAGE_SUFFIXES)}). Give a folder that does.")
    found = _from_table(root, tables[0], images) if tables else _from_texts(root, sizes, images)
    found |= {name: DataError(fault) for name, fault in empty_images(root, sizes).items() if name in images}
    reason = f"files beside {tables[0]}" if tables else "tables of captions in subfolders"
    for name in sizes:
        if name not in images and (name != tables[0] if tables else not name.lower().endswith(".txt")):
            left_out.add(reason, name)
    say_left_out(left_out, path)
    names = sorted(found, key=natural_key)
    sha = hashlib.sha256()
    for name in names:
        sha.update(f"{name}\0{sizes.get(name)}\0{found[name]}\n".encode("utf-8", "surrogateescape"))
    problems = {index: str(found[name]) for index, name in enumerate(names) if isinstance(found[name], DataError)}
    captions = ["" if index in problems else str(found[name]) for index, name in enumerate(names)]
    pictures = Pictures(ImageFiles(root, names), captions, problems)
    return StoredImages(
        source=pictures,
        labels=None,
        classes=None,
        num_classes=None,
        image_size=image_size,
        digest=sha.hexdigest(),
        texts=pictures,
        parts=(Part(len(names)),),
        defects=tuple(islice(problems.values(), MAX_DEFECTS)),
    )


def _split_root(folder: Path, sizes: dict[str, int], split: str, left_out: LeftOut) -> tuple[Path, dict[str, int]]:
    """Return the split's subfolder and what lies in it; for the training split the folder itself where it has none.

    A folder `train` is a split where all else beside it are splits; else it is one of the subfolders.

    Raises:
        DataError: if another split has no subfolder.
    """
    beside = {name.partition("/")[0] for name in sizes}
    if split not in beside:
        if split != "train":
            raise no_split(folder, split)
        return folder, sizes
    if split == "train" and not all(map(is_split, beside)):
        return folder, sizes
    inside = {name.removeprefix(f"{split}/"): size for name, size in sizes.items() if name.startswith(f"{split}/")}
    for name in sizes:
        if not name.startswith(f"{split}/"):
            left_out.add(f"files outside {split}", name)
    return folder / split, inside


def _from_texts(root: Path, files: Iterable[str], images: set[str]) -> dict[str, str | DataError]:
    """Name of each picture -> its caption or what is wrong with it; text files without a picture among them."""
    found: dict[str, str | DataError] = {}
    texts: dict[str, str] = {}
    for name in files:
        if name.lower().endswith(".txt") and texts.setdefault(os.path.splitext(name)[0], name) != name:
            where, other = printable(str(root / name)), printable(texts[os.path.splitext(name)[0]])
            raise DataError(f"{where} and {other} are captions of one image. Keep one of them.")
    captions = {stem: _read_text(root, name) for stem, name in texts.items()}
    for name in images:
        stem = os.path.splitext(name)[0]
        missing = f"image {printable(str(root / name))} has no caption."
        remedy = f"Write one into {printable(os.path.basename(stem))}.txt, or remove the image."
        found[name] = captions.get(stem, DataError(f"{missing} {remedy}"))
    for stem in texts.keys() - {os.path.splitext(name)[0] for name in images}:
        name = texts[stem]
        where = printable(str(root / name))
        found[name] = DataError(f"caption {where} has no image beside it. Add the image, or remove the caption.")
    return found


def _read_text(root: Path, name: str) -> str | DataError:
    where = printable(str(root / name))
    try:
        with (root / name).open("rb") as file:
            return decoded(file.read(MAX_CAPTION + 1), where)
    except OSError as error:
        return DataError(f"cannot read caption {where}: {error.strerror}. Replace or remove it.")
    except DataError as error:
        return error


def _from_table(root: Path, table: str, images: set[str]) -> dict[str, str | DataError]:
    """Name of each picture -> its caption or what is wrong with it; lines without a picture among them."""
    found = _table(root / table)
    for name in found.keys() - images:
        found[name] = DataError(f"{root / table} names {name}, which is not there. Add the image, or remove the line.")
    for name in images - found.keys():
        found[name] = DataError(
            f"image {printable(str(root / name))} has no line in {table}. Add one, or remove the image."
        )
    return found


def _table(path: Path) -> dict[str, str | DataError]:
    """File name -> caption from a `metadata.jsonl` or `metadata.csv` of the Hugging Face layout."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}. Correct its permissions.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}). Convert it, for example with iconv.") from None
    found: dict[str, str | DataError] = {}
    for line, row in _rows(path, text):
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
            raise DataError(f"{path} line {line} has no field 'file_name'. Add it, or remove the line.")
        name = posixpath.normpath(row["file_name"])
        try:
            os.fsencode(name)
        except UnicodeEncodeError:
            raise DataError(f"{path} line {line} names a file with half a character. Correct the name.") from None
        if name in found:
            raise DataError(f"{path} line {line} names {name} a second time. Remove one of the lines.")
        try:
            found[name] = from_fields(row, f"{name} ({path} line {line})")
        except DataError as error:
            found[name] = error
    return found


def _rows(path: Path, text: str) -> list[tuple[int, Any]]:
    if path.suffix == ".csv":
        return _csv_rows(path, text)
    rows = []
    for line, words in enumerate(text.split("\n"), 1):
        if words.strip():
            try:
                rows.append((line, json.loads(words)))
            except (ValueError, RecursionError):
                raise DataError(f"{path} line {line} is not valid JSON. Correct or remove it.") from None
    return rows


def _csv_rows(path: Path, text: str) -> list[tuple[int, Any]]:
    """Line on which a row begins, and its cells by the names in the first row."""
    # The limit belongs to the process; no cell is longer than the text.
    limit = csv.field_size_limit(max(len(text), 1))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    head: list[str] = []
    rows: list[tuple[int, Any]] = []
    line = 1
    try:
        for cells in reader:
            if not head:
                head = cells
                if "file_name" not in head or not set(head) & set(CAPTION_FIELDS):
                    raise DataError(
                        f"{path} has no columns file_name and {' or '.join(CAPTION_FIELDS)}. Found in its first line: "
                        f"{few(list(map(printable, head)))}. Write the names there, with a comma between."
                    )
            elif cells:
                if any(cells[len(head) :]):
                    raise DataError(
                        f"{path} line {line} has {len(cells)} cells, and the first line {len(head)}. "
                        "Put quotes around a cell with commas."
                    )
                rows.append((line, dict(zip(head, cells, strict=False))))
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}: the row that begins on line {line} cannot be read: {error}. Close its quotes, and double those "
            "inside a cell."
        ) from None
    finally:
        csv.field_size_limit(limit)
    twice = next((name for name in head if head.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path} has two columns {twice!r}. Rename or remove one.")
    return rows
