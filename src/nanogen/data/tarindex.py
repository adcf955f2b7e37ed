"""The index of one tar shard: where each sample's image and caption stand, so that any sample is one read away.

Made once by walking the headers, saved beside the shard as `NAME.tar.index` (or in the cache folder where the shard's
folder cannot be written), and made again when the shard's size or time of change differs. A sample is all files with
one key, the path up to the first dot of the base name, as in WebDataset.

Source: POSIX.1-2017 (pax and ustar), and the GNU extension for long names.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffusionbench.errors import DataError, RequestError
from diffusionbench.extractors import cache_folder
from diffusionbench.folders import check_gives_way
from diffusionbench.schema import write_atomic
from nanogen.data.captions import decoded, from_json
from nanogen.data.images import MAX_DEFECTS

VERSION = 1
BLOCK = 512
# One read at each header brings short captions along.
READ_AHEAD = 4096
IMAGES = {"jpg", "jpeg", "png", "webp"}

# Positions and lengths in bytes; a position of 0 means that the file is missing.
RECORD = np.dtype(
    [
        ("image", "<u8"),
        ("image_size", "<u8"),
        ("text", "<u8"),
        ("text_size", "<u4"),
        ("is_json", "?"),
        ("key_end", "<u4"),
    ]
)


@dataclass(frozen=True)
class Summary:
    """What is known of a shard without loading its records.

    Attributes:
        shard: the tar file.
        samples: number of keys.
        digest: SHA-256 over records and captions.
        defects: sentences about incomplete samples, at most `MAX_DEFECTS`.
        index: the index file, or None where neither folder could be written.
    """

    shard: Path
    samples: int
    digest: str
    defects: tuple[str, ...]
    index: Path | None


@dataclass(frozen=True)
class Records:
    """Records and keys of one shard."""

    table: np.ndarray
    keys: bytes

    def key(self, row: int) -> str:
        start = int(self.table["key_end"][row - 1]) if row else 0
        return os.fsdecode(self.keys[start : int(self.table["key_end"][row])])


@dataclass
class Sample:
    """The files of one key as (position, length)."""

    image: tuple[int, int] | None = None
    text: tuple[int, int] | None = None
    is_json: bool = False
    problem: str | None = None
    endings: set[str] = field(default_factory=set)


def named(shard: Path, key: str) -> str:
    """What messages call a sample."""
    return f"{shard}: {key}"


def missing(shard: Path, key: str, image: bool) -> str:
    """The sentence about a sample without an image, or without a caption."""
    if image:
        return f"{named(shard, key)} is a caption without an image. Add {key}.jpg, or remove the caption."
    return f"{named(shard, key)} is an image without a caption. Add {key}.txt or {key}.json, or remove the image."


def known_index(shard: Path) -> Summary | None:
    """The summary of a shard from an index file that fits it; None where there is none.

    Raises:
        DataError: if the shard is missing or unreadable.
    """
    try:
        stat = shard.stat()
    except OSError as error:
        raise DataError(_unreadable(shard, error)) from None
    for place in _places(shard):
        header = _header(place, stat)
        if header is not None:
            return Summary(shard, header["samples"], header["digest"], tuple(header["defects"]), place)
    return None


def make_index(shard: Path) -> Summary:
    """The summary of a shard after walking it; its index file is written.

    Raises:
        DataError: if the shard is missing, unreadable, empty, damaged, or names a sample twice.
    """
    try:
        stat = shard.stat()
        header, records = build(shard)
    except OSError as error:
        raise DataError(_unreadable(shard, error)) from None
    header |= {"version": VERSION, "bytes": stat.st_size, "changed": stat.st_mtime_ns}
    saved = next((place for place in _places(shard) if _save(place, header, records)), None)
    return Summary(shard, header["samples"], header["digest"], tuple(header["defects"]), saved)


def _unreadable(shard: Path, error: OSError) -> str:
    return f"cannot read {shard}: {error.strerror}. Correct its path or permissions."


def load(summary: Summary) -> Records:
    """The records behind a summary.

    Raises:
        DataError: if the index file was changed since, or the shard is damaged.
        OSError: if the shard cannot be read.
    """
    if summary.index is None:
        return build(summary.shard)[1]
    try:
        with summary.index.open("rb") as file:
            digest = json.loads(file.readline())["digest"]
            table = np.frombuffer(file.read(summary.samples * RECORD.itemsize), RECORD)
            if digest == summary.digest:
                return Records(table, file.read())
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise DataError(f"the index {summary.index} was changed or removed. Start the same command again.")


def _places(shard: Path) -> list[Path]:
    """Where an index may lie: beside the shard, else in the cache under the shard's full path."""
    place = hashlib.sha256(os.fsencode(shard.resolve())).hexdigest()[:16]
    cached = cache_folder() / "tar-index" / f"{place}-{shard.name}.index"
    return [shard.with_name(f"{shard.name}.index"), cached]


def _header(place: Path, stat: os.stat_result) -> dict[str, Any] | None:
    """The first line of an index file that fits the shard; None where there is none."""
    try:
        with place.open("rb") as file:
            line = file.readline()
        header = json.loads(line)
        size = len(line) + header["samples"] * RECORD.itemsize + header["key_bytes"]
        same = [header[key] for key in ("version", "bytes", "changed")] == [VERSION, stat.st_size, stat.st_mtime_ns]
        return header if same and place.stat().st_size == size else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _save(place: Path, header: dict[str, Any], records: Records) -> bool:
    try:
        # Other programs know files of that name too.
        check_gives_way(place, '"key_bytes": ')
        write_atomic(place, json.dumps(header).encode() + b"\n" + records.table.tobytes() + records.keys)
    except (OSError, RequestError):
        return False
    return True


def build(shard: Path) -> tuple[dict[str, Any], Records]:
    """Walk a shard's headers; gives the facts for the first line of the index and the records.

    Raises:
        DataError: if the shard is empty, damaged, ends early, or names a sample twice.
        OSError: if it cannot be read.
    """
    samples: dict[str, Sample] = {}
    defects: list[str] = []
    sha = hashlib.sha256()
    for name, position, length, content in members(shard):
        # Base names without a stem (hidden files) or an ending belong to no sample; `__` marks notes about the shard.
        match = re.fullmatch(r"((?:.*/)?[^./][^./]*)\.([^/]+)", name, re.DOTALL)
        if not match or os.path.basename(name).startswith("__"):
            continue
        key, ending = match[1], match[2].lower()
        if ending not in IMAGES and ending not in ("txt", "json"):
            continue
        _place(samples.setdefault(key, Sample()), ending, (position, length, content), shard, key)
        sha.update(content)
    if not samples:
        raise DataError(f"{shard} holds no image with a caption (KEY.jpg and KEY.txt or KEY.json). Remove it.")
    for key, sample in samples.items():
        if sample.image is None or sample.text is None:
            defects.append(missing(shard, key, image=sample.image is None))
        elif sample.problem is not None:
            defects.append(sample.problem)
    records = _records(samples)
    sha.update(records.table.tobytes())
    sha.update(records.keys)
    header = {"samples": len(samples), "key_bytes": len(records.keys), "digest": sha.hexdigest()}
    return header | {"defects": defects[:MAX_DEFECTS]}, records


def _place(sample: Sample, ending: str, where: tuple[int, int, bytes], shard: Path, key: str) -> None:
    kind = "image" if ending in IMAGES else ending
    position, length, content = where
    if kind in sample.endings:
        what = "two images" if kind == "image" else f"two files .{kind}"
        raise DataError(f"{named(shard, key)} has {what}: the key is there twice. Give every sample its own key.")
    sample.endings.add(kind)
    if kind == "image":
        sample.image = position, length
    elif kind == "txt" or sample.text is None:
        # Beside a text file a JSON file holds other facts.
        sample.text, sample.is_json, sample.problem = (position, length), kind == "json", None
        try:
            (from_json if sample.is_json else decoded)(content, named(shard, key))
        except DataError as error:
            sample.problem = str(error)


def _records(samples: dict[str, Sample]) -> Records:
    table = np.zeros(len(samples), RECORD)
    keys = [os.fsencode(key) for key in samples]
    for row, sample in enumerate(samples.values()):
        image, text = sample.image or (0, 0), sample.text or (0, 0)
        table[row] = (*image, *text, sample.is_json, 0)
    table["key_end"] = np.cumsum([len(key) for key in keys])
    return Records(table, b"".join(keys))


def members(shard: Path) -> Iterator[tuple[str, int, int, bytes]]:
    """Regular files of a tar as (name, position, length, content); content only of `.txt` and `.json`.

    Raises:
        DataError: if the file is empty, compressed, damaged or ends early.
    """
    handle = os.open(shard, os.O_RDONLY)
    try:
        end = os.fstat(handle).st_size
        position, long_name, long_size = 0, None, None
        while True:
            head = os.pread(handle, READ_AHEAD, position)
            block = head[:BLOCK]
            if len(block) < BLOCK:
                raise DataError(_early(shard, end))
            if not block.strip(b"\0"):
                _check_rest(handle, shard, position)
                return
            length = _checked_length(block, shard, position)
            start, kind = position + BLOCK, block[156:157]
            if kind in b"xL":
                extra = _content(handle, head, start, length)
                if kind == b"L":
                    long_name = extra.rstrip(b"\0")
                else:
                    found = _pax(extra)
                    long_name = found.get(b"path", long_name)
                    long_size = int(found[b"size"]) if b"size" in found else long_size
            else:
                length = length if long_size is None else long_size
                if start + length > end:
                    raise DataError(_early(shard, end))
                if kind in b"0\0007":
                    name = os.fsdecode(long_name if long_name is not None else _name(block))
                    is_text = name.lower().endswith((".txt", ".json"))
                    yield name, start, length, _content(handle, head, start, length) if is_text else b""
                long_name = long_size = None
            position = start + -(-length // BLOCK) * BLOCK
    finally:
        os.close(handle)


def _early(shard: Path, end: int) -> str:
    if not end:
        return f"{shard} is empty (0 bytes). Fetch it again."
    return f"{shard} ends early, at {end:,} bytes: it may be cut short. Fetch it again."


def _content(handle: int, head: bytes, start: int, length: int) -> bytes:
    return head[BLOCK : BLOCK + length] if BLOCK + length <= len(head) else os.pread(handle, length, start)


def _name(block: bytes) -> bytes:
    name, prefix = block[:100].split(b"\0")[0], block[345:500].split(b"\0")[0]
    # GNU archives use the prefix field for other things.
    return prefix + b"/" + name if block[257:263] == b"ustar\0" and prefix else name


def _checked_length(block: bytes, shard: Path, position: int) -> int:
    try:
        # The checksum counts its own field as blanks.
        if sum(block) - sum(block[148:156]) + 8 * 32 != int(block[148:156].strip(b" \0"), 8):
            raise ValueError
        field = block[124:136]
        if field[0] & 0x80:
            return int.from_bytes(field[1:], "big")
        return int(field.strip(b" \0") or b"0", 8)
    except ValueError:
        problem = "is no tar file, or a compressed one" if not position else f"is damaged at byte {position:,}"
        raise DataError(f"{shard} {problem}. Fetch it again, or unpack it to a plain .tar.") from None


def _check_rest(handle: int, shard: Path, position: int) -> None:
    """Nothing but zeros may follow the end mark: the shards of `cat a.tar b.tar` would be half read in silence."""
    while rest := os.pread(handle, 2**20, position):
        if rest.strip(b"\0"):
            raise DataError(f"{shard} goes on after its end mark at byte {position:,}. Join tars with tar -A.")
        position += len(rest)


def _pax(data: bytes) -> dict[bytes, bytes]:
    """Key -> value of an extended header: lines of "LENGTH key=value"."""
    found = {}
    while data:
        number, _, _ = data.partition(b" ")
        if not number.isdigit() or not 0 < int(number) <= len(data):
            break
        key, _, value = data[len(number) + 1 : int(number) - 1].partition(b"=")
        found[key] = value
        data = data[int(number) :]
    return found
