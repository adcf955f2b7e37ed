"""Choose the columns of a table that hold images, labels and captions, and check their types.

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
# Columns that a message lists.
LISTED = 20


@dataclass(frozen=True)
class Columns:
    """Names of the columns that are read; None where there is none."""

    image: str
    label: str | None
    caption: str | None


class TableSchema:
    """The Arrow schema of one file; `path` is for messages."""

    def __init__(self, schema: Any, path: Path) -> None:
        self.schema, self.path = schema, path
        self._types = require("pyarrow.types", "data", "Reading tables")
        # Column -> its feature in the Hugging Face description.
        self._described: dict[str, Any] = {}
        try:
            features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
            self._described = {name: feature for name, feature in features.items() if isinstance(feature, dict)}
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
            pass

    def choose(self, left_out: LeftOut) -> Columns:
        """Return the columns that are read.

        Args:
            left_out: counts columns that could have been meant too.

        Raises:
            DataError: if there is no column of images, neither labels nor captions, or it is not clear which of
                several is meant.
        """
        names = self.schema.names
        caption = next((name for name in CAPTION_FIELDS if name in names), None)
        label = "label" if "label" in names else None
        if label is None and caption is None:
            label = self._single([name for name in names if self._kind(name) == "ClassLabel"], "label")
            label = label or ("labels" if "labels" in names else None)
            if label is None:
                raise DataError(f"{self._without('label')}; captions are text or caption.")
        images = self.image_columns()
        image = next((name for name in IMAGE_FIELDS if name in images), None) or self._single(images, "image")
        if image is None and "image" not in names:
            raise DataError(f"{self._without('image')}.")
        for name in images:
            if name != image:
                left_out.add("further columns of images", name)
        return Columns(image or "image", label, caption)

    def image_columns(self) -> list[str]:
        """Return the columns that hold images, by name, description or type."""
        found = []
        for field in self.schema:
            kind = self._kind(field.name)
            # Sound has the same storage, so that a description counts where there is one.
            is_image = field.name in IMAGE_FIELDS or (
                kind is None and (self._types.is_struct(self._value_type(field.type)) or field.name in ENCODED_FIELDS)
            )
            if kind == "Image" or (is_image and self._holds_images(field.type)):
                found.append(field.name)
        return list(dict.fromkeys(found))

    def class_names(self, label: str | None) -> tuple[str, ...] | None:
        """Return the names of the classes from the description, or None where it has none."""
        names = self._described.get(label or "", {}).get("names")
        is_list = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
        return tuple(names) if is_list else None

    def check(self, columns: Columns) -> None:
        """Raise DataError unless each chosen column is there once, with a type that can be read."""
        readers = {
            columns.image: (self._holds_images, "a struct of bytes and path, or bytes, is", "Keep one image a row"),
            columns.label: (self._is_integer, "integers are", "Replace the names by numbers"),
            columns.caption: (self._is_text, "strings are", "Keep one caption a row"),
        }
        for name in readers:
            if name is not None and self.schema.names.count(name) != 1:
                twice = f"{self.path} has two columns '{name}'. Rename or remove one."
                raise DataError(twice if name in self.schema.names else f"{self._without(name)}.")
        for name, (can_read, needed, remedy) in readers.items():
            if name is not None and not can_read(kind := self.schema.field(name).type):
                raise DataError(f"{self.path}: column '{name}' is {kind}; {needed} needed. {remedy}.")

    def plain(self, column: Any) -> Any:
        """Return a column of labels or captions as integers, string or large_string, without dictionaries and views."""
        arrow = require("pyarrow", "data", "Reading tables")
        kind = self._value_type(column.type)
        if self._is_text(kind) and kind not in (arrow.string(), arrow.large_string()):
            kind = arrow.large_string()
        return column if kind == column.type else column.cast(kind)

    def _kind(self, name: str) -> Any:
        return self._described.get(name, {}).get("_type")

    def _single(self, names: list[str], wanted: str) -> str | None:
        if len(names) > 1:
            found = f"{self.path} has several columns for '{wanted}': {few(names, first=LISTED)}"
            raise DataError(f"{found}. Rename the one to read to {wanted}.")
        return names[0] if names else None

    def _without(self, name: str) -> str:
        found = few(self.schema.names, first=LISTED)
        return f"{self.path} has no column '{name}'. Found: {found}. Rename or add it"

    def _value_type(self, kind: Any) -> Any:
        return kind.value_type if self._types.is_dictionary(kind) else kind

    def _is_integer(self, kind: Any) -> bool:
        return self._types.is_integer(self._value_type(kind))

    def _is_text(self, kind: Any) -> bool:
        kind, types = self._value_type(kind), self._types
        return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)

    def _is_bytes(self, kind: Any) -> bool:
        types = self._types
        checks = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
        return any(check(self._value_type(kind)) for check in checks)

    def _holds_images(self, kind: Any) -> bool:
        kind = self._value_type(kind)
        if not self._types.is_struct(kind):
            return self._is_bytes(kind)
        fields = {field.name: field.type for field in kind}
        encoded, path = fields.get("bytes"), fields.get("path")
        return (
            encoded is not None
            and (self._is_bytes(encoded) or self._types.is_null(encoded))
            and (path is None or self._is_text(path) or self._types.is_null(path))
        )
