"""The index of one tar shard: where each sample's image and caption stand, so that any sample is one read away.

Made once by walking the members, saved beside the shard as `NAME.tar.index` (or in the cache folder where the shard's
folder cannot be written), and made again when the shard's size or time of change differs or the index is damaged.

A sample is an image and a caption of one name up to the last dot, so names may hold dots. WebDataset ends the key at
the first dot; its fields of several parts, such as `KEY.seg.png` beside `KEY.jpg`, have no caption of their own and
are counted as left out.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import numpy as np
from pydantic import ConfigDict, NonNegativeInt, ValidationError

from diffusionbench.archives import Archive
from diffusionbench.errors import DataError, RequestError
from diffusionbench.files import IMAGE_SUFFIXES, LeftOut, is_hidden
from diffusionbench.schema import Strict
from diffusionbench.shown import printable
from diffusionbench.writing import cache_folder, check_gives_way, write_atomic
from nanogen.data.caption_text import MAX_CAPTION, caption_from_json, decode_caption
from nanogen.data.stored import MAX_DEFECTS

TEXTS = (".txt", ".json")
# The facts of an index are numbers and a few sentences.
MAX_FACTS = 2**20
# Largest header of a tar for the long name and other facts of one member.
MAX_EXTRA = 2**20

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


class IndexFacts(Strict):
    """What is known of a shard without loading its records.

    Attributes:
        bytes, changed: size and time of change (ns) of the shard that was indexed.
        samples: number of keys.
        digest: SHA-256 over records and captions.
        records: SHA-256 over records and keys.
        defects: sentences about incomplete samples, at most `MAX_DEFECTS`.
        left_out: reason -> number of members that are not read, and the first one's name.
    """

    model_config = ConfigDict(strict=True)

    version: Literal[3] = 3
    bytes: NonNegativeInt
    changed: int
    samples: NonNegativeInt
    digest: str
    records: str
    defects: tuple[str, ...]
    left_out: dict[str, tuple[NonNegativeInt, str]]


@dataclass(frozen=True)
class IndexedShard:
    """A shard with an index.

    Attributes:
        path: the tar file.
        facts: what its index states.
        index: the index file, or None where neither folder could be written.
    """

    path: Path
    facts: IndexFacts
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
class KeyFiles:
    """The files of one key: (position, length) of image and caption, and which endings were seen."""

    image: tuple[int, int] | None = None
    text: tuple[int, int] | None = None
    is_json: bool = False
    problem: str | None = None
    kinds: set[str] = field(default_factory=set)

    def add(self, suffix: str, member: tarfile.TarInfo, content: bytes, name: str) -> None:
        """Take a file of the key; DataError if there is one of its kind already."""
        kind = suffix if suffix in TEXTS else "image"
        if kind in self.kinds:
            what = "two images" if kind == "image" else f"two files {kind}"
            raise DataError(f"{name} has {what}: the key is there twice. Give every sample its own key.")
        self.kinds.add(kind)
        if kind == "image":
            self.image = member.offset_data, member.size
        elif kind == ".txt" or self.text is None:
            # Beside a text file a JSON file holds other facts.
            self.text = member.offset_data, min(member.size, MAX_CAPTION + 1)
            self.is_json, self.problem = kind == ".json", None
            try:
                (caption_from_json if self.is_json else decode_caption)(content, name)
            except DataError as error:
                self.problem = str(error)

    def defect(self, shard: Path, key: str) -> str | None:
        """Return the sentence about a sample that cannot be read, or None."""
        if self.image is None or self.text is None:
            return missing(shard, key, image=self.image is None)
        if self.image[1] == 0:
            return f"the image of {named(shard, key)} is empty. Replace it, or remove the sample."
        return self.problem


def named(shard: Path, key: str) -> str:
    """Return what messages call a sample."""
    return printable(f"{shard}: {key}")


def missing(shard: Path, key: str, image: bool) -> str:
    """Return the sentence about a sample without an image, or without a caption."""
    what, key = named(shard, key), printable(key)
    if image:
        return f"{what} is a caption without an image. Add {key}.jpg, or remove the caption."
    return f"{what} is an image without a caption. Add {key}.txt or {key}.json, or remove the image."


# The index file: an .npz with the facts in JSON, the records and the keys.


def known_index(shard: Path) -> IndexedShard | None:
    """Return a shard with an index file that fits it; None where there is none.

    Raises:
        DataError: if the shard is missing or unreadable.
    """
    try:
        stat = shard.stat()
    except OSError as error:
        raise DataError(_unreadable(shard, error)) from None
    for place in _places(shard):
        with suppress(DataError), Archive(place) as index:
            facts = _facts(index)
            if (facts.bytes, facts.changed) == (stat.st_size, stat.st_mtime_ns):
                return IndexedShard(shard, facts, place)
    return None


def make_index(shard: Path) -> IndexedShard:
    """Walk a shard and write its index file.

    Raises:
        DataError: if the shard is missing, unreadable, damaged, or names a sample twice.
    """
    try:
        facts, records = build(shard)
    except OSError as error:
        raise DataError(_unreadable(shard, error)) from None
    content = io.BytesIO()
    stated, keys = (np.frombuffer(text, np.uint8) for text in (facts.model_dump_json().encode(), records.keys))
    np.savez(content, facts=stated, table=records.table, keys=keys)
    for place in _places(shard):
        with suppress(OSError, RequestError):
            # Other programs know files of that name too.
            check_gives_way(place, '"left_out":')
            write_atomic(place, content.getvalue())
            return IndexedShard(shard, facts, place)
    return IndexedShard(shard, facts, None)


def _unreadable(shard: Path, error: OSError) -> str:
    return f"cannot read {shard}: {error.strerror}. Correct its path or permissions."


def load(shard: IndexedShard) -> Records:
    """Return the records of a shard, from the index file if it is whole, else from the shard.

    Raises:
        DataError: if the shard was changed since, or is damaged.
        OSError: if the shard cannot be read.
    """
    records = None if shard.index is None else _saved_records(shard.index, shard.facts.digest)
    if records is None:
        facts, records = build(shard.path)
        if facts.digest != shard.facts.digest:
            raise DataError(f"{shard.path} was changed since it was indexed. Start the same command again.")
    return records


def _saved_records(place: Path, digest: str) -> Records | None:
    try:
        with Archive(place) as index:
            facts, table, keys = _facts(index), index.read("table"), index.read("keys").tobytes()
    except DataError:
        return None
    if facts.digest != digest or hashlib.sha256(table.tobytes() + keys).hexdigest() != facts.records:
        return None
    ends = table["key_end"]
    is_valid = (np.diff(ends, prepend=0) >= 0).all() and (ends <= len(keys)).all()
    is_valid &= all((table[name] <= facts.bytes).all() for name in ("image", "image_size", "text", "text_size"))
    return Records(table, keys) if is_valid else None


def _facts(index: Archive) -> IndexFacts:
    """Return what an index states; DataError where it is not ours."""
    with suppress(ValidationError):
        facts = IndexFacts.model_validate_json(index.read("facts", MAX_FACTS).tobytes())
        _, shape, dtype, _ = index.open("table")
        if (shape, dtype) == ((facts.samples,), RECORD):
            return facts
    raise DataError(f"{index.path} is no index of this version.")


def _places(shard: Path) -> list[Path]:
    """Return where an index may lie: beside the shard, else in the cache under the shard's full path."""
    place = hashlib.sha256(os.fsencode(shard.resolve())).hexdigest()[:16]
    cached = cache_folder() / "tar-index" / f"{place}-{shard.name}.index"
    return [shard.with_name(f"{shard.name}.index"), cached]


# The shard itself.


def build(shard: Path) -> tuple[IndexFacts, Records]:
    """Walk a shard; gives the facts of its index and the records.

    Raises:
        DataError: if the shard is damaged, ends early, or names a sample twice.
        OSError: if it cannot be read.
    """
    left_out = LeftOut()
    with shard.open("rb") as file:
        stat = os.fstat(file.fileno())
        samples, sha = _samples(file, shard, left_out)
    _leave_out_other_facts(samples, left_out)
    table = np.zeros(len(samples), RECORD)
    for row, sample in enumerate(samples.values()):
        table[row] = (*(sample.image or (0, 0)), *(sample.text or (0, 0)), sample.is_json, 0)
    keys = [os.fsencode(key) for key in samples]
    table["key_end"] = np.cumsum([len(key) for key in keys])
    records = Records(table, b"".join(keys))
    rest = table.tobytes() + records.keys
    sha.update(rest)
    defects = filter(None, (sample.defect(shard, key) for key, sample in samples.items()))
    return IndexFacts(
        bytes=stat.st_size,
        changed=stat.st_mtime_ns,
        samples=len(samples),
        digest=sha.hexdigest(),
        records=hashlib.sha256(rest).hexdigest(),
        defects=tuple(islice(defects, MAX_DEFECTS)),
        left_out=left_out.found,
    ), records


def _samples(file: BinaryIO, shard: Path, left_out: LeftOut) -> tuple[dict[str, KeyFiles], Any]:
    """Return the files of each key, and a SHA-256 over the captions."""
    samples: dict[str, KeyFiles] = {}
    sha = hashlib.sha256()
    for member in _members(file, shard):
        parts = [part for part in member.name.split("/") if part not in ("", ".", "..")]
        name = "/".join(parts)
        key, _, ending = name.rpartition(".")
        suffix = f".{ending.lower()}"
        if member.unread is not None:
            left_out.add(member.unread, name)
        elif any(map(is_hidden, parts)):
            left_out.add("hidden members", name)
        elif not key or (suffix not in IMAGE_SUFFIXES and suffix not in TEXTS):
            left_out.add("members that are neither image nor caption", name)
        else:
            content = b""
            if suffix in TEXTS:
                file.seek(member.offset_data)
                content = file.read(min(member.size, MAX_CAPTION + 1))
            samples.setdefault(key, KeyFiles()).add(suffix, member, content, named(shard, key))
            sha.update(content)
    return samples, sha


def _leave_out_other_facts(samples: dict[str, KeyFiles], left_out: LeftOut) -> None:
    """Remove the keys that are no samples of their own: other fields of one, and notes about the shard."""
    for key, sample in list(samples.items()):
        # JSON without a caption may describe another field.
        is_whole = sample.image is not None and sample.text is not None and not (sample.is_json and sample.problem)
        # `KEY.seg` belongs to the image `KEY`.
        shorter = (key[:place] for place in range(key.rfind("/") + 1, len(key)) if key[place] == ".")
        if not is_whole and any(one in samples and samples[one].image is not None for one in shorter):
            left_out.add("further fields of a sample", key)
            del samples[key]
        elif sample.image is None and os.path.basename(key).startswith("__"):
            left_out.add("notes about the shard", key)
            del samples[key]
    for key, sample in samples.items():
        if sample.kinds >= set(TEXTS):
            left_out.add(".json files beside a .txt", f"{key}.json")


class _Header(tarfile.TarInfo):
    """A header whose size is a plain number, small enough where it is read into memory."""

    _OCTAL = re.compile(rb" *[0-7]* *(\0.*)?", re.DOTALL)

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        found = super().frombuf(buf, encoding, errors)
        # A negative size would read the whole file.
        is_number = buf[124] & 0x80 or cls._OCTAL.fullmatch(buf[124:136])
        if not is_number or found.size < 0 or (found.type in b"xXgLK" and found.size > MAX_EXTRA):
            raise tarfile.HeaderError("no size that is allowed")
        return found

    @property
    def unread(self) -> str | None:
        """The kind of the member, in the plural, if it is no file whose content stands there; else None."""
        if self.issparse():
            return "sparse files inside a tar"
        if self.islnk() or self.issym():
            return "links inside a tar"
        if self.isdev():
            return "devices inside a tar"
        return None if self.isreg() else "members of an unknown kind"


def _members(file: BinaryIO, shard: Path) -> Iterator[_Header]:
    """Yield the members of a tar in order, folders apart; the content of each lies within the file.

    Raises:
        DataError: if the file is empty, compressed, damaged or ends early.
    """
    end, start = os.fstat(file.fileno()).st_size, 0
    early = f"{shard} ends early, at {end:,} bytes: it may be cut short. Fetch it again."
    if not end:
        raise DataError(f"{shard} is empty (0 bytes). Fetch it again.")
    try:
        tar = tarfile.TarFile(fileobj=file, tarinfo=_Header)
        while (member := cast(_Header | None, tar.next())) is not None:
            # Otherwise every member stays in memory.
            tar.members.clear()  # type: ignore[attr-defined]
            if member.size < 0 or tar.offset > end:
                raise DataError(early)
            if not member.isdir() and not member.name.endswith("/"):
                yield member
            start = tar.offset
    # A damaged header leads to each of these in the standard library.
    except (tarfile.TarError, ValueError, IndexError, OverflowError, RecursionError) as error:
        if str(error) in ("unexpected end of data", "empty header", "truncated header"):
            raise DataError(early) from None
        raise _damaged(shard, start) from None
    # Where a header is damaged the standard library ends in silence.
    file.seek(start)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise DataError(early)
    if block.strip(b"\0"):
        raise _damaged(shard, start)
    # Of `cat a.tar b.tar` half would be read.
    while rest := file.read(2**20):
        if rest.strip(b"\0"):
            raise DataError(f"{shard} goes on after its end mark at byte {start:,}. Join tars with tar -A.")


def _damaged(shard: Path, position: int) -> DataError:
    problem = "is no tar file, or a compressed one" if not position else f"is damaged at byte {position:,}"
    return DataError(f"{shard} {problem}. Fetch it again, or unpack it to a plain .tar.")
