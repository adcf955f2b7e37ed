"""The headers of a tar file: which members it holds, where their content stands, and whether it is whole.

Sizes and counts come from a stranger: none is believed before it is known to lie within the file.

Source: POSIX.1-2017 (pax and ustar), and the GNU extensions for long names and large sizes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from diffusionbench.errors import DataError
from nanogen.data.caption_text import MAX_CAPTION

BLOCK = 512
# One read at each header brings short captions along.
READ_AHEAD = 4096
# Long names and the other facts of one member.
MAX_EXTRA = 2**20

# Kinds without content, whatever size their header names (folders: "5").
_NOT_FILES = {
    b"1": "links inside a tar",
    b"2": "links inside a tar",
    b"3": "devices inside a tar",
    b"4": "devices inside a tar",
    b"6": "devices inside a tar",
}


class Member(NamedTuple):
    """One member of a tar, folders apart.

    Attributes:
        name: as written.
        position: of its content, in bytes.
        length: of its content, in bytes.
        content: of a caption no longer than `MAX_CAPTION` (cut one byte after that); else nothing.
        problem: what it is, in the plural, if it is no file whose content stands there; None otherwise.
    """

    name: str
    position: int
    length: int
    content: bytes
    problem: str | None


def members(shard: Path, texts: tuple[str, ...]) -> Iterator[Member]:
    """Yield the members of a tar in order.

    Args:
        shard: the tar file.
        texts: endings of the members whose content is wanted.

    Raises:
        DataError: if the file is empty, compressed, damaged or ends early.
        OSError: if it cannot be read.
    """
    handle = os.open(shard, os.O_RDONLY)
    try:
        end = os.fstat(handle).st_size
        position, long_name = 0, None
        facts: dict[bytes, bytes] = {}
        while True:
            head = os.pread(handle, READ_AHEAD, position)
            block = head[:BLOCK]
            if len(block) < BLOCK:
                raise DataError(_early(shard, end))
            if not block.strip(b"\0"):
                _check_rest(handle, shard, position)
                return
            start, kind, length = position + BLOCK, block[156:157], _checked_length(block, shard, position)
            if kind in b"xXLKg":
                if length > MAX_EXTRA:
                    raise _damaged(shard, position)
                if start + length > end:
                    raise DataError(_early(shard, end))
                extra = _content(handle, head, start, length)
                if kind == b"L":
                    long_name = extra.rstrip(b"\0")
                elif kind in b"xX":
                    facts = _pax(extra, shard, position)
            else:
                written = facts.get(b"GNU.sparse.name", facts.get(b"path", long_name))
                name = os.fsdecode(_name(block) if written is None else written)
                if b"size" in facts:
                    length = _number(facts[b"size"], 10, shard, position)
                if kind in _NOT_FILES or kind == b"5":
                    length = 0
                if start + length > end:
                    raise DataError(_early(shard, end))
                problem = _problem(kind, facts)
                wanted = min(length, MAX_CAPTION + 1) if problem is None and name.lower().endswith(texts) else 0
                if kind != b"5" and not (kind in b"0\0" and name.endswith("/")):
                    yield Member(name, start, length, _content(handle, head, start, wanted), problem)
                if kind == b"S":
                    start = _after_sparse_maps(handle, block, start, shard)
                long_name, facts = None, {}
            position = start + -(-length // BLOCK) * BLOCK
    finally:
        os.close(handle)


def _problem(kind: bytes, facts: dict[bytes, bytes]) -> str | None:
    if kind == b"S" or any(fact.startswith(b"GNU.sparse") for fact in facts):
        return "sparse files inside a tar"
    return _NOT_FILES.get(kind) if kind in _NOT_FILES or kind in b"0\0007" else "members of an unknown kind"


def _after_sparse_maps(handle: int, block: bytes, start: int, shard: Path) -> int:
    """Where the content of an old GNU sparse file begins: after the blocks that continue its map."""
    is_continued = block[482] != 0
    while is_continued:
        more = os.pread(handle, BLOCK, start)
        if len(more) < BLOCK:
            raise DataError(_early(shard, start))
        start += BLOCK
        is_continued = more[504] != 0
    return start


def _early(shard: Path, end: int) -> str:
    if not end:
        return f"{shard} is empty (0 bytes). Fetch it again."
    return f"{shard} ends early, at {end:,} bytes: it may be cut short. Fetch it again."


def _damaged(shard: Path, position: int) -> DataError:
    problem = "is no tar file, or a compressed one" if not position else f"is damaged at byte {position:,}"
    return DataError(f"{shard} {problem}. Fetch it again, or unpack it to a plain .tar.")


def _content(handle: int, head: bytes, start: int, length: int) -> bytes:
    return head[BLOCK : BLOCK + length] if BLOCK + length <= len(head) else os.pread(handle, length, start)


def _name(block: bytes) -> bytes:
    name, prefix = block[:100].split(b"\0")[0], block[345:500].split(b"\0")[0]
    # GNU archives use the prefix field for other things.
    return prefix + b"/" + name if block[257:263] == b"ustar\0" and prefix else name


def _number(written: bytes, base: int, shard: Path, position: int) -> int:
    """A number of at most 19 digits; without sign, blanks inside, or any other form that `int` would take."""
    if not written.isdigit() or len(written) > 19 or (base == 8 and (b"8" in written or b"9" in written)):
        raise _damaged(shard, position)
    return int(written, base)


def _checked_length(block: bytes, shard: Path, position: int) -> int:
    # The checksum counts its own field as blanks. Some old writers took bytes as signed.
    found = sum(block) - sum(block[148:156]) + 8 * 32
    named = _number(block[148:156].strip(b" \0"), 8, shard, position)
    if named != found and named != found - 256 * sum(byte > 127 for byte in block[:148] + block[156:]):
        raise _damaged(shard, position)
    field = block[124:136]
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    return _number(field.partition(b"\0")[0].strip(b" ") or b"0", 8, shard, position)


def _check_rest(handle: int, shard: Path, position: int) -> None:
    """Nothing but zeros may follow the end mark: the shards of `cat a.tar b.tar` would be half read in silence."""
    while rest := os.pread(handle, 2**20, position):
        if rest.strip(b"\0"):
            raise DataError(f"{shard} goes on after its end mark at byte {position:,}. Join tars with tar -A.")
        position += len(rest)


def _pax(data: bytes, shard: Path, position: int) -> dict[bytes, bytes]:
    """Key -> value of an extended header: lines of "LENGTH key=value"."""
    found = {}
    place, data = 0, data.rstrip(b"\0")
    while place < len(data):
        number, _, _ = data[place : place + 20].partition(b" ")
        last = place + _number(number, 10, shard, position) - 1
        key, mark, value = data[place + len(number) + 1 : last].partition(b"=")
        if not mark or data[last : last + 1] != b"\n":
            raise _damaged(shard, position)
        found[key] = value
        place = last + 1
    return found
