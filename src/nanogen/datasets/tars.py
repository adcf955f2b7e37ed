"""Tar shards in WebDataset form, read by position: `KEY.jpg` (or another image) with `KEY.txt` or `KEY.json`.

WebDataset's own reader is a stream: where a run stands is hidden in its buffers, the order depends on the number of
processes and workers, and shards must outnumber them. Here every shard has an index (`tarindex.py`), so that a sample
is found by its number like a file in a folder. The order is then the one of all other data sets: resuming is exact,
any number of processes and workers sees the same batches, and one shard feeds any number of workers. Reading stays
local all the same, as shards are shuffled in groups (`plan.py`).
"""

from __future__ import annotations

import hashlib
import os
import weakref
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from diffusionbench.errors import DataError
from diffusionbench.files import LeftOut
from nanogen.data import Component, locate
from nanogen.data.caption_text import caption_from_json, decode_caption
from nanogen.data.paths import find_files
from nanogen.data.stored import MAX_DEFECTS, StoredImages
from nanogen.data.tarindex import IndexedShard, Records, known_index, load, make_index, missing, named
from nanogen.log import say

# Shards whose file and records one process keeps open; a group of shards is smaller.
OPEN_SHARDS = 64
# Indexing mostly waits for the disk.
INDEXING_THREADS = 8
# Report indexing when there are at least this many shards.
MANY_SHARDS = 20


class OpenShard:
    """One shard opened for reading."""

    def __init__(self, shard: IndexedShard) -> None:
        self.records: Records = load(shard)
        self.handle = os.open(shard.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.handle)


class TarShards(StoredImages):
    """Images and captions of several shards by number; reading shares no position, so copies in workers are safe.

    Args:
        shards: in order, each with at least one sample.
    """

    def __init__(self, shards: list[IndexedShard], image_size: int, left_out: str | None) -> None:
        sha = hashlib.sha256()
        for shard in shards:
            line = f"{shard.path.name}\0{shard.facts.samples}\0{shard.facts.digest}\n"
            sha.update(line.encode("utf-8", "surrogateescape"))
        super().__init__(
            image_size=image_size,
            digest=sha.hexdigest(),
            captioned=True,
            left_out=left_out,
            defects=tuple(defect for shard in shards for defect in shard.facts.defects)[:MAX_DEFECTS],
        )
        self.shards = shards
        self._starts = np.cumsum([0, *(shard.facts.samples for shard in shards)])
        self._open: OrderedDict[int, OpenShard] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": OrderedDict()}

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def components(self) -> tuple[Component, ...]:
        return (Component(len(self), blocks=tuple(shard.facts.samples for shard in self.shards)),)

    def name(self, index: int) -> str:
        number, row = locate(self._starts, index)
        return named(self.shards[number].path, self._shard(number).records.key(row))

    def read(self, index: int) -> bytes:
        return self._file(index, "image")

    def caption(self, index: int) -> str:
        number, row = locate(self._starts, index)
        is_json = self._shard(number).records.table["is_json"][row]
        return (caption_from_json if is_json else decode_caption)(self._file(index, "text"), self.name(index))

    def _shard(self, number: int) -> OpenShard:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        try:
            opened = OpenShard(self.shards[number])
        except OSError as error:
            raise DataError(f"cannot read {self.shards[number].path}: {error.strerror}. Restore it.") from None
        self._open[number] = opened
        if len(self._open) > OPEN_SHARDS:
            self._open.popitem(last=False)
        return opened

    def _file(self, index: int, kind: str) -> bytes:
        number, row = locate(self._starts, index)
        opened, shard = self._shard(number), self.shards[number].path
        record = opened.records.table[row]
        position, length = int(record[kind]), int(record[f"{kind}_size"])
        if not position:
            raise DataError(missing(shard, opened.records.key(row), image=kind == "image"))
        try:
            data = os.pread(opened.handle, length, position)
        except OSError as error:
            raise DataError(f"cannot read {self.name(index)}: {error.strerror}. Fetch the shard again.") from None
        if len(data) < length:
            raise DataError(f"{shard} has become shorter since it was indexed. Fetch it again.")
        return data


def open_tars(path: Path, image_size: int, split: str) -> TarShards:
    """Open images with captions in tar shards: one file, a pattern such as `shards/train-*.tar`, or a folder.

    The caption is the text of `KEY.txt`, else the field `text` or `caption` of `KEY.json`; what else lies in the
    shards and beside them is counted. Each shard is indexed once. Samples lie in the order of shards and keys;
    the order of an epoch shuffles shards in groups.

    Raises:
        DataError: if there is no shard or no sample, or a shard is unreadable, compressed, damaged, ends early or
            names a sample twice. Images without captions and captions without images are listed in `defects`.
    """
    left_out = LeftOut()
    paths = find_files(path, split, "tars", ".tar", left_out)
    with ThreadPoolExecutor(INDEXING_THREADS) as pool:
        known = dict(zip(paths, pool.map(known_index, paths), strict=True))
        new = [place for place, shard in known.items() if shard is None]
        if len(new) >= MANY_SHARDS:
            say(f"indexing {len(new)} tar shards; this is done once")
        known |= zip(new, pool.map(make_index, new), strict=True)
    found = [shard for shard in known.values() if shard is not None]
    for shard in found:
        for reason, (count, name) in shard.facts.left_out.items():
            left_out.add(reason, f"{shard.path.name}: {name}", count)
    shards = [shard for shard in found if shard.facts.samples]
    if not shards:
        refusal = f"{found[0].path} holds no image with a caption (KEY.jpg and KEY.txt or KEY.json). Remove it."
        raise DataError(f"{refusal} {left_out.sentence(path) or ''}".rstrip())
    for shard in found:
        if not shard.facts.samples:
            left_out.add("shards without a sample", shard.path.name)
    return TarShards(shards, image_size, left_out.sentence(path))
