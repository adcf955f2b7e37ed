"""Makes untrusted text safe to show: nothing acts on a terminal or a spreadsheet, and every list ends."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

FIRST: Final = 8
LONGEST: Final = 2_000
_ITEM: Final = 300
# The no-break and the ideographic space, and the joiners of Persian, Indian scripts and emoji.
_WRITTEN: Final = "\u00a0\u3000\u200c\u200d"
_SHA256: Final = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def printable(text: str) -> str:
    """Return the text on one line and as valid Unicode, whatever a file or a file system put into it.

    Control characters, direction marks and lone surrogates are made visible, as in "\\x1b[2J"; a byte of a name that is
    no UTF-8 as "\\xe9". Spaces and joiners that words are written with stay.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _WRITTEN else _visible(c) for c in text)


def _visible(character: str) -> str:
    # Python keeps the byte E9 of a name that is no UTF-8 as U+DCE9.
    code = ord(character) - 0xDC00
    return f"\\x{code:02x}" if 0x80 <= code <= 0xFF else repr(character)[1:-1]


def lines(text: str) -> str:
    """Apply `printable` to each line of a text."""
    return "\n".join(map(printable, text.split("\n")))


def message(text: str) -> str:
    """Apply `printable` and `clipped` to each line of a text."""
    return "\n".join(clipped(printable(line)) for line in text.split("\n"))


def clipped(text: str, most: int = LONGEST) -> str:
    """Return a text of at most `most` characters, or so many of it and how many more there are."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text) - most:,} characters more)"


def short_hashes(text: str) -> str:
    """Return a text in which each SHA-256 is cut to its first twelve digits."""
    return _SHA256.sub(r"\1...", text)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def few(names: Sequence[object], separator: str = ", ", first: int = FIRST) -> str:
    """Return the first names of a list, and how many more there are; a single one more is named as well."""
    shown = names if len(names) <= first + 1 else names[:first]
    more = [f"and {len(names) - len(shown):,} more"] if len(shown) < len(names) else []
    return separator.join([*(clipped(str(name), _ITEM) for name in shown), *more])


def cell(text: str) -> str:
    """Return a cell of a CSV file; one that starts like a formula, which a spreadsheet would run, gets a quote."""
    return f"'{text}" if text.startswith(_FORMULA) else text
