"""Folders of images with a text file beside each, or with one table of captions for all.

    pictures/one.png  pictures/one.txt              flat, or nested in any way
    pictures/metadata.jsonl                         lines such as {"file_name": "one.png", "text": "a red ball"}

An image without a caption, and the reverse, is a defect that is named; nothing is left out in silence.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import posixpath
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from diffusionbench.errors import DataError
from diffusionbench.files import IMAGE_SUFFIXES, LeftOut, is_image, is_split, list_images, natural_key, no_split
from diffusionbench.shown import few, printable
from nanogen.data.caption_text import CAPTION_FIELDS, MAX_CAPTION, METADATA, caption_from_fields, decode_caption
from nanogen.data.paths import existing
from nanogen.data.stored import MAX_DEFECTS, ImageFiles, empty_images

# Name of each image, or of what there is of an incomplete sample -> its caption, or what is wrong with it.
Found = dict[str, str | DataError]


@dataclass(kw_only=True, eq=False)
class CaptionedFiles(ImageFiles):
    """Image files with captions.

    Attributes:
        captions: n strings; "" where `problems` has the sample.
        problems: index -> what is wrong with an incomplete sample; reading it says so.
    """

    captions: list[str]
    problems: dict[int, str]
    captioned: bool = True

    def read(self, index: int) -> bytes:
        # Without a caption the sample is not read.
        self.caption(index)
        return super().read(index)

    def caption(self, index: int) -> str:
        if index in self.problems:
            raise DataError(self.problems[index])
        return self.captions[index]


def open_captioned(path: Path, image_size: int, split: str) -> CaptionedFiles:
    """Open a folder of images with captions: `NAME.txt` beside `NAME.png`, or a `metadata.jsonl` or `metadata.csv`.

    It may hold a folder per split; subfolders are read too, hidden entries are not.

    Raises:
        DataError: if the folder is missing or unreadable, holds no image, or its table of captions is damaged.
            Images without captions and captions without images are listed in `defects`.
    """
    folder = existing(path, "captionfolder", must_be_folder=True)
    left_out = LeftOut()
    root, sizes = _split_root(folder, list_images(folder, left_out, also=(".txt", *METADATA)), split, left_out)
    tables = [name for name in METADATA if name in sizes]
    if len(tables) > 1:
        raise DataError(f"{root} holds both {' and '.join(tables)}. Keep one of them.")
    images = {name for name in sizes if is_image(name)}
    if not images:
        raise DataError(f"{root} holds no image ({', '.join(IMAGE_SUFFIXES)}). Give a folder that does.")
    texts = [name for name in sizes if name.lower().endswith(".txt") and name not in images]
    found = _from_table(root, tables[0], images) if tables else _from_texts(root, texts, images)
    found |= {name: DataError(fault) for name, fault in empty_images(root, sizes).items() if name in images}
    reason = f"files beside {tables[0]}" if tables else "tables of captions in subfolders"
    read = images.union(tables or texts)
    for name in sizes:
        if name not in read:
            left_out.add(reason, name)
    names = sorted(found, key=natural_key)
    sha = hashlib.sha256()
    for name in names:
        sha.update(f"{name}\0{sizes.get(name)}\0{found[name]}\n".encode("utf-8", "surrogateescape"))
    problems = {index: str(found[name]) for index, name in enumerate(names) if isinstance(found[name], DataError)}
    return CaptionedFiles(
        root=root,
        names=names,
        captions=["" if index in problems else str(found[name]) for index, name in enumerate(names)],
        problems=problems,
        image_size=image_size,
        digest=sha.hexdigest(),
        left_out=left_out.sentence(path),
        defects=tuple(islice(problems.values(), MAX_DEFECTS)),
    )


def _split_root(folder: Path, sizes: dict[str, int], split: str, left_out: LeftOut) -> tuple[Path, dict[str, int]]:
    """Return the split's subfolder and what lies in it; for the training split the folder itself where it has none.

    A folder `train` is a split where all else beside it are splits; else it is one of the subfolders.

    Raises:
        DataError: if another split has no subfolder.
    """
    beside = {name.partition("/")[0] for name in sizes}
    if split != "train" and split not in beside:
        raise no_split(folder, split)
    if split not in beside or (split == "train" and not all(map(is_split, beside))):
        return folder, sizes
    inside = {name.removeprefix(f"{split}/"): size for name, size in sizes.items() if name.startswith(f"{split}/")}
    for name in sizes:
        if not name.startswith(f"{split}/"):
            left_out.add(f"files outside {split}", name)
    return folder / split, inside


def _from_texts(root: Path, files: list[str], images: set[str]) -> Found:
    texts: dict[str, str] = {}
    for name in files:
        if texts.setdefault(os.path.splitext(name)[0], name) != name:
            where, other = printable(str(root / name)), printable(texts[os.path.splitext(name)[0]])
            raise DataError(f"{where} and {other} are captions of one image. Keep one of them.")
    found: Found = {}
    for name in images:
        stem = os.path.splitext(name)[0]
        if stem in texts:
            where = printable(str(root / texts[stem]))
            try:
                with (root / texts[stem]).open("rb") as file:
                    found[name] = decode_caption(file.read(MAX_CAPTION + 1), where)
            except OSError as error:
                found[name] = DataError(f"cannot read caption {where}: {error.strerror}. Replace or remove it.")
            except DataError as error:
                found[name] = error
        else:
            missing = f"image {printable(str(root / name))} has no caption."
            remedy = f"Write one into {printable(os.path.basename(stem))}.txt, or remove the image."
            found[name] = DataError(f"{missing} {remedy}")
    for stem in texts.keys() - {os.path.splitext(name)[0] for name in images}:
        where = printable(str(root / texts[stem]))
        found[texts[stem]] = DataError(f"caption {where} has no image beside it. Add the image or remove the caption.")
    return found


def _from_table(root: Path, table: str, images: set[str]) -> Found:
    """Read a `metadata.jsonl` or `metadata.csv` of the Hugging Face layout."""
    path = root / table
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}. Correct its permissions.") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}). Convert it, for example with iconv.") from None
    found: Found = {}
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
            found[name] = caption_from_fields(row, f"{name} ({path} line {line})")
        except DataError as error:
            found[name] = error
    for name in found.keys() - images:
        found[name] = DataError(f"{path} names {name}, which is not there. Add the image, or remove the line.")
    for name in images - found.keys():
        where = printable(str(root / name))
        found[name] = DataError(f"image {where} has no line in {table}. Add one, or remove the image.")
    return found


def _rows(path: Path, text: str) -> list[tuple[int, Any]]:
    """Return the line on which each row begins, and its value; of CSV the cells by the names in the first row."""
    rows: list[tuple[int, Any]] = []
    line = 1
    if path.suffix == ".jsonl":
        try:
            for line, words in enumerate(text.split("\n"), 1):
                if words.strip():
                    rows.append((line, json.loads(words)))
        except (ValueError, RecursionError):
            raise DataError(f"{path} line {line} is not valid JSON. Correct or remove it.") from None
        return rows
    # The limit belongs to the process; no cell is longer than the text.
    limit = csv.field_size_limit(max(len(text), 1))
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    head: list[str] = []
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
