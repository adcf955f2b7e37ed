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
from pathlib import Path
from typing import Any

import numpy as np

from diffusionbench import bounds
from diffusionbench.errors import DataError
from diffusionbench.files import LeftOut
from diffusionbench.registry import require
from diffusionbench.shown import first_line
from nanogen.data import locate
from nanogen.data.caption_text import check_caption
from nanogen.data.columns import TableSchema
from nanogen.data.paths import find_files
from nanogen.data.stored import MAX_DEFECTS, StoredImages

# Bytes of encoded images that one process keeps from Parquet files.
ROW_GROUP_CACHE = 512 * 2**20


class Rows:
    """Base of the rows of several files in order; `counts` are the rows of each."""

    def __init__(self, files: list[Path], counts: list[int]) -> None:
        self.files = files
        self._starts = np.cumsum([0, *counts])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.files,)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def place(self, index: int) -> tuple[int, int]:
        """Return file number and row in it."""
        return locate(self._starts, index)

    def name(self, index: int) -> str:
        file, row = self.place(index)
        return f"{self.files[file]} row {row}"


class ParquetRows(Rows):
    """Rows of Parquet files, through a cache of whole row groups."""

    def __init__(self, files: list[Path]) -> None:
        self._parquet = require("pyarrow.parquet", "data", "Reading Parquet files")
        self._metadata = [_read(file, self._parquet.read_metadata, file) for file in files]
        super().__init__(files, [metadata.num_rows for metadata in self._metadata])
        self._groups = [
            [metadata.row_group(place) for place in range(metadata.num_row_groups)] for metadata in self._metadata
        ]
        self._firsts = [np.cumsum([0, *(group.num_rows for group in groups)]) for groups in self._groups]
        self._cache: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._cached = 0

    def schema(self, file: int) -> Any:
        return self._metadata[file].schema.to_arrow_schema()

    def sizes(self, file: int) -> list[int]:
        return [number for group in self._groups[file] for number in (group.num_rows, group.total_byte_size)]

    def column(self, file: int, name: str, group: int | None = None) -> Any:
        """Return a column of a file, or of one of its row groups."""
        groups = range(len(self._groups[file])) if group is None else [group]
        path, metadata = self.files[file], self._metadata[file]
        with self._parquet.ParquetFile(path, metadata=metadata, memory_map=True, pre_buffer=False) as opened:
            return opened.read_row_groups(groups, columns=[name], use_threads=False).column(name)

    def cell(self, file: int, row: int, name: str) -> Any:
        group = int(np.searchsorted(self._firsts[file], row, side="right")) - 1
        column = self._cache.get((file, group))
        if column is None:
            column = _read(self.files[file], self.column, file, name, group)
            self._cached += column.nbytes
            while self._cache and self._cached > ROW_GROUP_CACHE:
                self._cached -= self._cache.popitem(last=False)[1].nbytes
            self._cache[file, group] = column
        self._cache.move_to_end((file, group))
        return column[row - int(self._firsts[file][group])]


class ArrowRows(Rows):
    """Rows of memory-mapped Arrow stream or IPC files."""

    def __init__(self, files: list[Path]) -> None:
        self._tables = [_read(file, _map_arrow, file) for file in files]
        super().__init__(files, [table.num_rows for table in self._tables])

    def schema(self, file: int) -> Any:
        return self._tables[file].schema

    def sizes(self, file: int) -> list[int]:
        return [self._tables[file].num_rows, self.files[file].stat().st_size]

    def column(self, file: int, name: str) -> Any:
        return self._tables[file].column(name)

    def cell(self, file: int, row: int, name: str) -> Any:
        return self._tables[file].column(name)[row]


def _map_arrow(file: Path) -> Any:
    arrow = require("pyarrow", "data", "Reading Arrow files")
    mapped = arrow.memory_map(str(file))
    is_file_format = mapped.read(6) == b"ARROW1"
    mapped.seek(0)
    return (arrow.ipc.open_file if is_file_format else arrow.ipc.open_stream)(mapped).read_all()


def _read(file: Path, read: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a reader of pyarrow gives; DataError with the file's name if it cannot."""
    arrow = require("pyarrow", "data", "Reading tables")
    try:
        return read(*arguments)
    # pyarrow's errors have many parents; a damaged file meets them all.
    except (OSError, ValueError, LookupError, TypeError, OverflowError, MemoryError, arrow.ArrowException) as error:
        reason = first_line(error).rstrip(".")
        raise DataError(f"cannot read {file}: {reason}. It may be cut short or encrypted; fetch it again.") from None


@dataclass(kw_only=True, eq=False)
class TableImages(StoredImages):
    """Images of Parquet or Arrow files with labels, captions or both.

    Attributes:
        rows: of all files.
        image_column: name of the column of images.
        captions: for each file its chunked array of strings; none without captions.
    """

    rows: ParquetRows | ArrowRows
    image_column: str
    captions: list[Any]

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        return self.rows.name(index)

    def read(self, index: int) -> bytes:
        file, row = self.rows.place(index)
        cell = self.rows.cell(file, row, self.image_column)
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
        path = self.rows.files[file].parent / value["path"]
        try:
            # Reading a pipe or a device has no end.
            if path.exists() and not path.is_file():
                raise OSError("it is no file")
            return path.read_bytes()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"{self.name(index)} names the image {path}: {reason}. Restore the file.") from None

    def caption(self, index: int) -> str | None:
        if not self.captions:
            return None
        file, row = self.rows.place(index)
        value = self.captions[file][row].as_py()
        if value is None:
            raise DataError(f"{self.name(index)} has no caption. Fill it or drop the row.")
        return check_caption(value.strip(), self.name(index))


def open_parquet(path: Path, image_size: int, split: str) -> TableImages:
    """Open images with labels or captions in Parquet: one file, a pattern such as `train-*.parquet`, or a folder.

    In a folder the files with the split in their names are read; where none has a split in its name, all of them
    are the training split. Row numbers in messages count from 0 in each file.

    Raises:
        DataError: if nothing is there, a file is corrupt, a column is missing, or a label is missing or outside.
            Missing and empty captions are listed in `defects`.
        MissingPackageError: if pyarrow is not installed.
    """
    left_out = LeftOut()
    return _open(ParquetRows(find_files(path, split, "parquet", ".parquet", left_out)), path, image_size, left_out)


def open_arrow(path: Path, image_size: int, split: str) -> TableImages:
    """Open the same from Arrow files, such as a folder written by `Dataset.save_to_disk`; see `open_parquet`."""
    left_out = LeftOut()
    return _open(ArrowRows(find_files(path, split, "arrow", ".arrow", left_out)), path, image_size, left_out)


def has_images(path: Path) -> bool:
    """Return whether a Parquet file has a column of images; one that cannot be read has, so that reading names it."""
    try:
        rows = ParquetRows([path])
        return bool(_read(path, _schema(rows, 0).image_columns))
    except DataError:
        return True


def _open(rows: ParquetRows | ArrowRows, path: Path, image_size: int, left_out: LeftOut) -> TableImages:
    sha = hashlib.sha256()
    labels: list[np.ndarray] = []
    captions: list[Any] = []
    first = _schema(rows, 0)
    columns = _read(rows.files[0], first.choose, left_out)
    classes = first.class_names(columns.label)
    for file, place in enumerate(rows.files):
        schema = _schema(rows, file)
        _read(place, schema.check, columns)
        if isinstance(rows, ArrowRows):
            _check_sound(rows.column(file, columns.image), columns.image, place)
        sha.update(json.dumps(rows.sizes(file)).encode())
        if columns.label is not None:
            if schema.class_names(columns.label) != classes:
                raise DataError(f"{place} names other classes than {rows.files[0]}. Put one data set into one folder.")
            labels.append(_check_labels(_read_column(rows, file, columns.label, schema), classes, place))
            sha.update(labels[-1].astype("<i8").tobytes())
        if columns.caption is not None:
            captions.append(_read_column(rows, file, columns.caption, schema))
            sha.update(json.dumps(captions[-1].to_pylist()).encode())
        if not rows.sizes(file)[0]:
            left_out.add("files without a row", place.name)
    if not len(rows):
        raise DataError(f"{path} holds no row. Give a data set with images.")
    merged = np.concatenate(labels) if labels else None
    found = TableImages(
        rows=rows,
        image_column=columns.image,
        captions=captions,
        captioned=bool(captions),
        labels=merged,
        classes=classes,
        num_classes=None if merged is None else len(classes) if classes else int(merged.max()) + 1,
        image_size=image_size,
        digest=sha.hexdigest(),
        left_out=left_out.sentence(path),
    )
    found.defects = _caption_defects(found)
    return found


def _schema(rows: ParquetRows | ArrowRows, file: int) -> TableSchema:
    # Even the names of the columns may be damaged.
    return TableSchema(_read(rows.files[file], rows.schema, file), rows.files[file])


def _read_column(rows: ParquetRows | ArrowRows, file: int, name: str, schema: TableSchema) -> Any:
    """Return a column that is sound, without the dictionary that a writer may have put it into."""
    path = rows.files[file]
    column = _read(path, rows.column, file, name)
    _check_sound(column, name, path)
    return _read(path, schema.plain, column)


def _check_sound(column: Any, name: str, path: Path) -> None:
    """Check a column whose offsets may lead out of its memory, as reading those would end the process."""
    try:
        column.validate(full=True)
    except ValueError as error:
        reason = "not UTF-8" if "UTF8" in str(error) else f"damaged ({first_line(error)})"
        raise DataError(f"{path}: column '{name}' is {reason}. Convert it and write the file again.") from None


def _check_labels(column: Any, classes: tuple[str, ...] | None, path: Path) -> np.ndarray:
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


def _caption_defects(data: TableImages) -> tuple[str, ...]:
    """Return sentences about rows whose caption is missing or no text, at most `MAX_DEFECTS`."""
    found: list[str] = []
    first = 0
    for column in data.captions:
        compute = require("pyarrow.compute", "data", "Reading captions")
        lengths = compute.fill_null(compute.utf8_length(compute.utf8_trim_whitespace(column)), 0).to_numpy()
        has_zero_byte = compute.fill_null(compute.match_substring(column, "\0"), False).to_numpy()
        for row in np.flatnonzero((lengths == 0) | has_zero_byte)[: MAX_DEFECTS - len(found)]:
            try:
                data.caption(first + int(row))
            except DataError as error:
                found.append(str(error))
        first += len(column)
    return tuple(found)
