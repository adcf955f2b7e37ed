"""Images in Parquet or Arrow files of the Hugging Face layout: columns `image` and `label`, `text` or both.

Which columns are read is `columns.py`'s. Arrow files (those of `Dataset.save_to_disk` among them) are memory-mapped.
Parquet is read by row group, and the row groups used last are kept up to a limit: a set beyond the limit is better
stored as Arrow, as every image would cost the reading of a row group.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diffusionbench import bounds
from diffusionbench.errors import DataError
from diffusionbench.files import LeftOut
from diffusionbench.registry import require
from diffusionbench.shown import first_line
from nanogen.data.caption_text import check_caption
from nanogen.data.columns import check_columns, choose_columns, class_names, image_columns, plain
from nanogen.data.paths import find_files
from nanogen.data.stored import MAX_DEFECTS, StoredImages

# Bytes of encoded images that one process keeps from Parquet files.
ROW_GROUP_CACHE = 512 * 2**20


class Rows:
    """Where each row of several files stands; the common part of both formats.

    Args:
        files: the files in order.
        counts: rows of each file.

    Attributes:
        image_column: its name, set before the first image is read.
    """

    def __init__(self, files: list[Path], counts: list[int]) -> None:
        self.files = files
        self.image_column = "image"
        self._starts = np.cumsum([0, *counts])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def place(self, index: int) -> tuple[int, int]:
        """File number and row in it."""
        file = int(np.searchsorted(self._starts, index, side="right")) - 1
        return file, index - int(self._starts[file])

    def name(self, index: int) -> str:
        file, row = self.place(index)
        return f"{self.files[file]} row {row}"

    def image(self, cell: Any, index: int) -> bytes:
        """Return the encoded image of one cell, from the cell or from the file it names."""
        try:
            value = cell.as_py()
        except ValueError:
            raise DataError(f"{self.name(index)} names an image, not in UTF-8. Write the file again.") from None
        if isinstance(value, bytes):
            return value
        value = value or {}
        if value.get("bytes") is not None:
            return value["bytes"]
        if value.get("path") is None:
            raise DataError(f"{self.name(index)} has no image: neither bytes nor a path. Fill it or drop the row.")
        path = self.files[self.place(index)[0]].parent / value["path"]
        try:
            # Reading a pipe or a device has no end.
            if path.exists() and not path.is_file():
                raise OSError("it is no file")
            return path.read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{self.name(index)} names the image {path}: {reason}. Restore the file.") from None


class ParquetRows(Rows):
    """Images of Parquet files by row, through a cache of whole row groups."""

    def __init__(self, files: list[Path]) -> None:
        parquet = require("pyarrow.parquet", "data", "Reading Parquet files")
        self._read_file = parquet.ParquetFile
        self._metadata = [_opened(file, partial(parquet.read_metadata, file)) for file in files]
        super().__init__(files, [metadata.num_rows for metadata in self._metadata])
        self._groups = [
            np.cumsum([0] + [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)])
            for metadata in self._metadata
        ]
        self._cache: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._cached = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.files,), {"image_column": self.image_column}

    def column(self, file: int, name: str) -> Any:
        with self._open(file) as opened:
            return opened.read(columns=[name], use_threads=False).column(name)

    def schema(self, file: int) -> Any:
        return self._metadata[file].schema.to_arrow_schema()

    def sizes(self, file: int) -> list[int]:
        """Rows and bytes of each row group: they change when the images do."""
        metadata = self._metadata[file]
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        return [number for group in groups for number in (group.num_rows, group.total_byte_size)]

    def read(self, index: int) -> bytes:
        file, row = self.place(index)
        group = int(np.searchsorted(self._groups[file], row, side="right")) - 1
        return self.image(self._group(file, group)[row - int(self._groups[file][group])], index)

    def _group(self, file: int, group: int) -> Any:
        if (file, group) in self._cache:
            self._cache.move_to_end((file, group))
            return self._cache[file, group]

        def read() -> Any:
            with self._open(file) as opened:
                names = [self.image_column]
                return opened.read_row_group(group, columns=names, use_threads=False).column(self.image_column)

        column = _opened(self.files[file], read)
        self._cached += column.nbytes
        while self._cache and self._cached > ROW_GROUP_CACHE:
            self._cached -= self._cache.popitem(last=False)[1].nbytes
        self._cache[file, group] = column
        return column

    def _open(self, file: int) -> Any:
        return self._read_file(self.files[file], metadata=self._metadata[file], memory_map=True, pre_buffer=False)


class ArrowRows(Rows):
    """Images of memory-mapped Arrow stream or IPC files by row."""

    def __init__(self, files: list[Path]) -> None:
        self._arrow = require("pyarrow", "data", "Reading Arrow files")
        self._tables = [_opened(file, partial(self._map, file)) for file in files]
        super().__init__(files, [table.num_rows for table in self._tables])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.files,), {"image_column": self.image_column}

    def _map(self, file: Path) -> Any:
        mapped = self._arrow.memory_map(str(file))
        is_file_format = mapped.read(6) == b"ARROW1"
        mapped.seek(0)
        return (self._arrow.ipc.open_file if is_file_format else self._arrow.ipc.open_stream)(mapped).read_all()

    def column(self, file: int, name: str) -> Any:
        return self._tables[file].column(name)

    def schema(self, file: int) -> Any:
        return self._tables[file].schema

    def sizes(self, file: int) -> list[int]:
        return [self._tables[file].num_rows, self.files[file].stat().st_size]

    def read(self, index: int) -> bytes:
        file, row = self.place(index)
        return self.image(self._tables[file].column(self.image_column)[row], index)


@dataclass(kw_only=True, eq=False)
class TableImages(StoredImages):
    """Images of Parquet or Arrow files with labels, captions or both.

    Attributes:
        rows: the images by row.
        captions: for each file its chunked array of strings; none without captions.
    """

    rows: ParquetRows | ArrowRows
    captions: list[Any]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> bytes:
        return self.rows.read(index)

    def name(self, index: int) -> str:
        return self.rows.name(index)

    def caption(self, index: int) -> str | None:
        if not self.captions:
            return None
        file, row = self.rows.place(index)
        value = self.captions[file][row].as_py()
        if value is None:
            raise DataError(f"{self.name(index)} has no caption. Fill it or drop the row.")
        return check_caption(value.strip(), self.name(index))

    def find_defects(self) -> tuple[str, ...]:
        """Return sentences about rows whose caption is missing or no text, at most `MAX_DEFECTS`."""
        compute = require("pyarrow.compute", "data", "Reading captions")
        found: list[str] = []
        first = 0
        for column in self.captions:
            lengths = compute.fill_null(compute.utf8_length(compute.utf8_trim_whitespace(column)), 0).to_numpy()
            has_zero_byte = compute.fill_null(compute.match_substring(column, "\0"), False).to_numpy()
            for row in np.flatnonzero((lengths == 0) | has_zero_byte)[: MAX_DEFECTS - len(found)]:
                try:
                    self.caption(first + int(row))
                except DataError as error:
                    found.append(str(error))
            first += len(column)
        return tuple(found)


def open_parquet(path: Path, image_size: int, split: str) -> TableImages:
    """Open images with labels or captions in Parquet: one file, a pattern such as `train-*.parquet`, or a folder.

    In a folder the files with the split in their names are read; where none has a split in its name, all of them
    are the training split. Row numbers in messages count from 0 in each file.

    Args:
        path: file, pattern or folder.
        image_size: side of the cropped images in pixels.
        split: "train" or the name of another split; a single file or a pattern is any split.

    Raises:
        DataError: if nothing is there, a file is corrupt, a column is missing, or a label is missing or outside.
            Missing and empty captions are listed in `defects`.
        MissingPackageError: if pyarrow is not installed.
    """
    left_out = LeftOut()
    return _stored(ParquetRows(find_files(path, split, "parquet", ".parquet", left_out)), path, image_size, left_out)


def open_arrow(path: Path, image_size: int, split: str) -> TableImages:
    """Open the same from Arrow files, such as a folder written by `Dataset.save_to_disk`; see `open_parquet`."""
    left_out = LeftOut()
    return _stored(ArrowRows(find_files(path, split, "arrow", ".arrow", left_out)), path, image_size, left_out)


def has_images(path: Path) -> bool:
    """Return whether a Parquet file has a column of images; one that cannot be read has, so that reading names it."""
    try:
        rows = ParquetRows([path])
        return bool(_opened(path, lambda: image_columns(rows.schema(0))))
    except DataError:
        return True


def _opened(file: Path, read: Callable[[], Any]) -> Any:
    arrow = require("pyarrow", "data", "Reading tables")
    try:
        return read()
    # pyarrow's errors have many parents; a damaged file meets them all.
    except (OSError, ValueError, LookupError, TypeError, OverflowError, MemoryError, arrow.ArrowException) as error:
        reason = first_line(error).rstrip(".")
        raise DataError(f"cannot read {file}: {reason}. It may be cut short or encrypted; fetch it again.") from None


def _stored(rows: ParquetRows | ArrowRows, path: Path, image_size: int, left_out: LeftOut) -> TableImages:
    sha = hashlib.sha256()
    labels: list[np.ndarray] = []
    captions: list[Any] = []
    # Even the names of the columns may be damaged.
    columns = _opened(rows.files[0], partial(choose_columns, rows.schema(0), rows.files[0], left_out))
    classes = class_names(rows.schema(0), columns.label)
    for file, place in enumerate(rows.files):
        schema = rows.schema(file)
        _opened(place, partial(check_columns, schema, place, columns))
        if isinstance(rows, ArrowRows):
            _check_sound(rows.column(file, columns.image), columns.image, place)
        sha.update(json.dumps(rows.sizes(file)).encode())
        if columns.label is not None:
            if class_names(schema, columns.label) != classes:
                raise DataError(f"{place} names other classes than {rows.files[0]}. Put one data set into one folder.")
            labels.append(_labels(_column(rows, file, columns.label), classes, place))
            sha.update(labels[-1].astype("<i8").tobytes())
        if columns.caption is not None:
            captions.append(_column(rows, file, columns.caption))
            sha.update(json.dumps(captions[-1].to_pylist()).encode())
    if not len(rows):
        raise DataError(f"{path} holds no row. Give a data set with images.")
    for file, place in enumerate(rows.files):
        if not rows.sizes(file)[0]:
            left_out.add("files without a row", place.name)
    rows.image_column = columns.image
    merged = np.concatenate(labels) if labels else None
    found = TableImages(
        rows=rows,
        captions=captions,
        captioned=bool(captions),
        labels=merged,
        classes=classes,
        num_classes=None if merged is None else len(classes) if classes else int(merged.max()) + 1,
        image_size=image_size,
        digest=sha.hexdigest(),
        left_out=left_out.sentence(path),
    )
    found.defects = found.find_defects()
    return found


def _column(rows: ParquetRows | ArrowRows, file: int, name: str) -> Any:
    """A column that is sound, without the dictionary that a writer may have put it into."""
    path = rows.files[file]
    column = _opened(path, partial(rows.column, file, name))
    _check_sound(column, name, path)
    return _opened(path, partial(plain, column))


def _check_sound(column: Any, name: str, path: Path) -> None:
    """Reading a column whose offsets lead out of its memory would end the process."""
    try:
        column.validate(full=True)
    except ValueError as error:
        reason = "not UTF-8" if "UTF8" in str(error) else f"damaged ({first_line(error)})"
        raise DataError(f"{path}: column '{name}' is {reason}. Convert it and write the file again.") from None


def _labels(column: Any, classes: tuple[str, ...] | None, path: Path) -> np.ndarray:
    missing = column.is_null().to_numpy()
    if missing.any():
        raise DataError(f"{path} row {int(np.argmax(missing))} has no label. Fill it or drop the row.")
    labels = column.to_numpy()
    count = len(classes) if classes else bounds.CLASSES
    outside = (labels < 0) | (labels >= count)
    if outside.any():
        row = int(np.argmax(outside))
        raise DataError(
            f"{path} row {row} has label {labels[row]}; allowed is 0 to {count - 1:,}. Correct it or drop the row."
        )
    return labels.astype(np.int64)
