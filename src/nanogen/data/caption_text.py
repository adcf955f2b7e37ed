"""One caption: from the bytes of a text file, from JSON, or from a row of a table; others are refused by name."""

from __future__ import annotations

import json
import re
import reprlib
from typing import Any

from diffusionbench.errors import DataError

# Names of the column or field with the caption; the first that is there counts.
CAPTION_FIELDS = ("text", "caption")
# Tables with the captions of a whole folder.
METADATA = ("metadata.jsonl", "metadata.csv")
# Largest size of a caption's file in bytes.
MAX_CAPTION = 2**24


def decode_caption(data: bytes, name: str) -> str:
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
    return check_caption(text, name)


def caption_from_json(data: bytes, name: str) -> str:
    """Return a caption from a JSON object with a field `text` or `caption`.

    Raises:
        DataError: if it is not UTF-8, no such object, or the caption is empty; `name` says whose it is.
    """
    try:
        found = json.loads(decode_caption(data, name))
    except (ValueError, RecursionError):
        raise DataError(f"the caption of {name} is not valid JSON. Write it again.") from None
    return caption_from_fields(found, name)


def caption_from_fields(found: Any, name: str) -> str:
    """Return a caption from a mapping with a field `text` or `caption`; raises as `caption_from_json`."""
    field = next((field for field in CAPTION_FIELDS if isinstance(found, dict) and field in found), None)
    if field is None:
        raise DataError(f"{name} has no caption: no field {' or '.join(map(repr, CAPTION_FIELDS))}. Add one.")
    if not isinstance(found[field], str):
        raise DataError(f"the caption of {name} is {reprlib.repr(found[field])}; a string is needed. Replace it.")
    return check_caption(found[field].strip(), name)


def check_caption(text: str, name: str) -> str:
    """Return the caption itself; DataError if it is empty or holds what no text holds."""
    if not text:
        raise DataError(f"the caption of {name} is empty. Write one, or remove the image.")
    # Zero bytes come with UTF-16, halves of a character from JSON.
    if re.search("[\0\ud800-\udfff]", text):
        raise DataError(f"the caption of {name} holds a zero byte or half a character. Write it as UTF-8 text.")
    return text
