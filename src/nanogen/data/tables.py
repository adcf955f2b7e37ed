"""Images in Parquet or Arrow files of the Hugging Face layout: columns `image` and `label`, `text` or both.

`image` is a struct of `bytes` and `path`, or plain bytes; names of classes come from the schema. Captions are a column
`text` or `caption`. Arrow files
(those of `Dataset.save_to_disk` among them) are memory-mapped. Parquet is read by row group, and the row groups
used last are kept up to a limit: a set beyond the limit is better stored as Arrow, as every image would cost
the reading of a row group.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diffusionbench.errors import DataError
from diffusionbench.registry import require
from diffusionbench.shown import few
from nanogen.data.captions import CAPTION_FIELDS, filled
from nanogen.data.files import find_files
from nanogen.data.images import MAX_DEFECTS, Source, StoredImages
from nanogen.data.plan import Part

# Bytes of encoded images that one process keeps from Parquet files.
ROW_GROUP_CACHE = 512 * 2**20


class Rows:
    """Where each row of several files stands; the common part of both formats.

    Args:
        files: the files in order.
        counts: rows of each file.
    """

    def __init__(self, files: list[Path], counts: list[int]) -> None:
        self.files = files
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

    def image(self, value: Any, index: int) -> bytes:
        """The encoded image of one cell, from the cell or from the file it names."""
        if isinstance(value, bytes):
            return value
        value = value or {}
        if value.get("bytes") is not None:
            return value["bytes"]
        if value.get("path") is None:
            raise DataError(f"{self.name(index)} has no image: neither bytes nor a path. Fill it or drop the row.")
        path = self.files[self.place(index)[0]].parent / value["path"]
        try:
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{self.name(index)} names the image {path}: {error.strerror}. Restore the file.") from None


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

    def __reduce__(self) -> tuple[type[ParquetRows], tuple[list[Path]]]:
        return type(self), (self.files,)

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
        return self.image(self._group(file, group)[row - int(self._groups[file][group])].as_py(), index)

    def _group(self, file: int, group: int) -> Any:
        if (file, group) in self._cache:
            self._cache.move_to_end((file, group))
            return self._cache[file, group]
        try:
            with self._open(file) as opened:
                column = opened.read_row_group(group, columns=["image"], use_threads=False).column("image")
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read row group {group} of {self.files[file]}: {error}. Fetch it again.") from None
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

    def __reduce__(self) -> tuple[type[ArrowRows], tuple[list[Path]]]:
        return type(self), (self.files,)

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
        return self.image(self._tables[file].column("image")[row].as_py(), index)


class Captions:
    """A column of strings over several files.

    Args:
        rows: where each row stands.
        columns: for each file its chunked array.
    """

    def __init__(self, rows: ParquetRows | ArrowRows, columns: list[Any]) -> None:
        self.rows, self.columns = rows, columns

    def text(self, index: int) -> str:
        file, row = self.rows.place(index)
        value = self.columns[file][row].as_py()
        if value is None:
            raise DataError(f"{self.rows.name(index)} has no caption. Fill it or drop the row.")
        return filled(value.strip(), self.rows.name(index))

    def defects(self) -> tuple[str, ...]:
        """Sentences about rows without a caption, at most `MAX_DEFECTS`."""
        compute = require("pyarrow.compute", "data", "Reading captions")
        found: list[str] = []
        first = 0
        for column in self.columns:
            lengths = compute.fill_null(compute.utf8_length(compute.utf8_trim_whitespace(column)), 0).to_numpy()
            for row in np.flatnonzero(lengths == 0)[: MAX_DEFECTS - len(found)]:
                try:
                    self.text(first + int(row))
                except DataError as error:
                    found.append(str(error))
            first += len(column)
        return tuple(found)


def open_parquet(path: Path | None, image_size: int, split: str) -> StoredImages:
    """Images with labels or captions from Parquet: one file, a pattern such as `shards/train-*.parquet`, or a folder.

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
    return _stored(ParquetRows(find_files(path, split, "parquet", ".parquet")), image_size)


def open_arrow(path: Path | None, image_size: int, split: str) -> StoredImages:
    """The same from Arrow files, such as a folder written by `Dataset.save_to_disk`; see `open_parquet`."""
    return _stored(ArrowRows(find_files(path, split, "arrow", ".arrow")), image_size)


def _opened(file: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"cannot read {file}: {reason}. It may be cut short; fetch it again.") from None


def _stored(rows: ParquetRows | ArrowRows, image_size: int) -> StoredImages:
    sha = hashlib.sha256()
    labels: list[np.ndarray] = []
    captions: list[Any] = []
    names = rows.schema(0).names
    field = next((name for name in CAPTION_FIELDS if name in names), None)
    has_labels = "label" in names or field is None
    classes = class_names(rows.schema(0)) if has_labels else None
    for file, path in enumerate(rows.files):
        schema = rows.schema(file)
        _check_columns(schema, path, has_labels, field)
        sha.update(json.dumps(rows.sizes(file)).encode())
        if has_labels:
            if class_names(schema) != classes:
                raise DataError(f"{path} names other classes than {rows.files[0]}. Put one data set into one folder.")
            labels.append(_labels(_opened(path, partial(rows.column, file, "label")), classes, path))
            sha.update(labels[-1].astype("<i8").tobytes())
        if field is not None:
            captions.append(_captions(_opened(path, partial(rows.column, file, field)), path))
            sha.update(json.dumps(captions[-1].to_pylist()).encode())
    if not len(rows):
        raise DataError(f"{rows.files[0].parent} holds no row. Give a data set with images.")
    source: Source = rows
    merged = np.concatenate(labels) if has_labels else None
    texts = Captions(rows, captions) if field is not None else None
    return StoredImages(
        source=source,
        labels=merged,
        classes=classes,
        num_classes=None if merged is None else len(classes) if classes else int(merged.max()) + 1,
        image_size=image_size,
        digest=sha.hexdigest(),
        texts=texts,
        parts=(Part(len(rows)),),
        defects=texts.defects() if texts is not None else (),
    )


def _captions(column: Any, path: Path) -> Any:
    try:
        column.validate(full=True)
    except ValueError:
        raise DataError(f"{path}: the column of captions is not UTF-8. Convert it and write the file again.") from None
    return column


def class_names(schema: Any) -> tuple[str, ...] | None:
    """Names of the classes from the Hugging Face description in the schema, or None where it has none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(features["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return None


def _check_columns(schema: Any, path: Path, labels: bool, captions: str | None) -> None:
    types = require("pyarrow.types", "data", "Reading tables")
    for name in ["image", *(["label"] if labels else []), *([captions] if captions else [])]:
        if name not in schema.names:
            raise DataError(
                f"{path} has no column '{name}'. Found: {few(schema.names)}. Rename or add it"
                f"{'; captions are text or caption' if name == 'label' else ''}."
            )
    image = schema.field("image").type
    binary = types.is_binary(image) or types.is_large_binary(image)
    if not (binary or (types.is_struct(image) and image.get_field_index("bytes") >= 0)):
        raise DataError(f"{path}: column 'image' is {image}; a struct of bytes and path, or bytes, is needed.")
    label = schema.field("label").type if labels else None
    if label is not None and not types.is_integer(label):
        raise DataError(f"{path}: column 'label' is {label}; integers are needed. Replace the names by numbers.")
    text = schema.field(captions).type if captions else None
    if text is not None and not (types.is_string(text) or types.is_large_string(text)):
        raise DataError(f"{path}: column '{captions}' is {text}; strings are needed. Keep one caption a row.")


def _labels(column: Any, classes: tuple[str, ...] | None, path: Path) -> np.ndarray:
    missing = column.is_null().to_numpy()
    if missing.any():
        raise DataError(f"{path} row {int(np.argmax(missing))} has no label. Fill it or drop the row.")
    labels = column.to_numpy().astype(np.int64)
    outside = (labels < 0) | (labels >= (len(classes) if classes else np.iinfo(np.int64).max))
    if outside.any():
        row = int(np.argmax(outside))
        allowed = f"0 to {len(classes) - 1}" if classes else "0 and above"
        raise DataError(f"{path} row {row} has label {labels[row]}; allowed is {allowed}. Correct it or drop the row.")
    return labels
