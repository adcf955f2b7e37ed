"""Which columns of a table hold images, labels and captions, and what types they may have.

The names count first; then what the description in the schema (key `huggingface`) calls an Image or a ClassLabel.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusionbench.errors import DataError
from diffusionbench.files import LeftOut
from diffusionbench.registry import require
from diffusionbench.shown import few
from nanogen.data.caption_text import CAPTION_FIELDS

# Names that mean the image whatever else there is, and endings that are names where a tool wrote encoded files.
IMAGE_FIELDS = ("image", "img")
ENCODED_FIELDS = ("jpg", "jpeg", "png", "webp")
LABEL_FIELDS = ("label", "labels")
# Columns that a message lists.
LISTED = 20


@dataclass(frozen=True)
class Columns:
    """Names of the columns that are read; None where there is none."""

    image: str
    label: str | None
    caption: str | None


def choose_columns(schema: Any, path: Path, left_out: LeftOut) -> Columns:
    """Return the columns of a table's schema that are read.

    Args:
        schema: the Arrow schema.
        path: the file, for messages.
        left_out: counts columns that could have been meant too.

    Raises:
        DataError: if there is no column of images, neither labels nor captions, or several and none is called as ours.
    """
    caption = next((name for name in CAPTION_FIELDS if name in schema.names), None)
    described = _described(schema)
    label = "label" if "label" in schema.names else None
    if label is None and caption is None:
        classes = [name for name in schema.names if described.get(name, {}).get("_type") == "ClassLabel"]
        label = _only(classes, "label", path) or next((name for name in LABEL_FIELDS if name in schema.names), None)
        if label is None:
            raise DataError(f"{_without(path, schema, 'label')}; captions are text or caption.")
    return Columns(_image_column(schema, path, left_out), label, caption)


def _image_column(schema: Any, path: Path, left_out: LeftOut) -> str:
    found = image_columns(schema)
    chosen = next((name for name in IMAGE_FIELDS if name in found), None) or _only(found, "image", path)
    if chosen is None and "image" not in schema.names:
        raise DataError(f"{_without(path, schema, 'image')}.")
    for name in found:
        if name != chosen:
            left_out.add("further columns of images", name)
    return chosen or "image"


def image_columns(schema: Any) -> list[str]:
    """Return the columns of a table's schema that hold images, by name, description or type."""
    types = require("pyarrow.types", "data", "Reading tables")
    described = _described(schema)
    found = []
    for field in schema:
        kind = described.get(field.name, {}).get("_type")
        # Sound has the same storage, so that a description counts where there is one.
        is_like_one = kind is None and (types.is_struct(_value_type(field.type)) or field.name in ENCODED_FIELDS)
        if kind == "Image" or (_holds_images(field.type) and (is_like_one or field.name in IMAGE_FIELDS)):
            found.append(field.name)
    return list(dict.fromkeys(found))


def _only(names: list[str], wanted: str, path: Path) -> str | None:
    if len(names) > 1:
        raise DataError(
            f"{path} has several columns for '{wanted}': {few(names, first=LISTED)}. Rename the one to read to "
            f"{wanted}."
        )
    return names[0] if names else None


def _without(path: Path, schema: Any, name: str) -> str:
    return f"{path} has no column '{name}'. Found: {few(schema.names, first=LISTED)}. Rename or add it"


def _described(schema: Any) -> dict[str, Any]:
    """Column -> its feature in the Hugging Face description."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return {}


def class_names(schema: Any, label: str | None) -> tuple[str, ...] | None:
    """Return the names of the classes from the Hugging Face description in the schema, or None where it has none."""
    names = _described(schema).get(label or "", {}).get("names")
    is_list = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
    return tuple(names) if is_list else None


def check_columns(schema: Any, path: Path, columns: Columns) -> None:
    """Check that the chosen columns are there once, with types that can be read.

    Raises:
        DataError: if one is not.
    """
    types = require("pyarrow.types", "data", "Reading tables")
    for name in (columns.image, columns.label, columns.caption):
        if name is not None and schema.names.count(name) != 1:
            twice = f"{path} has two columns '{name}'. Rename or remove one."
            raise DataError(twice if name in schema.names else f"{_without(path, schema, name)}.")
    image = schema.field(columns.image).type
    if not _holds_images(image):
        raise DataError(
            f"{path}: column '{columns.image}' is {image}; a struct of bytes and path, or bytes, is needed. "
            "Keep one image a row."
        )
    label = None if columns.label is None else schema.field(columns.label).type
    if label is not None and not types.is_integer(_value_type(label)):
        raise DataError(
            f"{path}: column '{columns.label}' is {label}; integers are needed. Replace the names by numbers."
        )
    caption = None if columns.caption is None else schema.field(columns.caption).type
    if caption is not None and not _is_text(_value_type(caption)):
        raise DataError(f"{path}: column '{columns.caption}' is {caption}; strings are needed. Keep one caption a row.")


def plain(column: Any) -> Any:
    """Return a column of labels or captions as integers, string or large_string, without dictionaries and views."""
    arrow = require("pyarrow", "data", "Reading tables")
    kind = _value_type(column.type)
    if _is_text(kind) and kind not in (arrow.string(), arrow.large_string()):
        kind = arrow.large_string()
    return column if kind == column.type else column.cast(kind)


def _value_type(kind: Any) -> Any:
    types = require("pyarrow.types", "data", "Reading tables")
    return kind.value_type if types.is_dictionary(kind) else kind


def _is_text(kind: Any) -> bool:
    types = require("pyarrow.types", "data", "Reading tables")
    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _is_bytes(kind: Any) -> bool:
    types = require("pyarrow.types", "data", "Reading tables")
    checks = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    return any(check(kind) for check in checks)


def _holds_images(kind: Any) -> bool:
    types = require("pyarrow.types", "data", "Reading tables")
    kind = _value_type(kind)
    if not types.is_struct(kind):
        return _is_bytes(kind)
    fields = {field.name: _value_type(field.type) for field in kind}
    encoded, path = fields.get("bytes"), fields.get("path")
    return (
        encoded is not None
        and (_is_bytes(encoded) or types.is_null(encoded))
        and (path is None or _is_text(path) or types.is_null(path))
    )
