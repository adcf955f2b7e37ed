"""Text states on disk: one file of states end to end, and where each caption's begin.

Encoders are frozen and deterministic, so their states may be stored once; training then never opens the encoder. The
index is verified when a cache is opened, and a caption's states when they are first read: a run of terabytes starts at
once, and from its second epoch on pays nothing.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from diffusionbench import bounds
from diffusionbench.archives import Archive
from diffusionbench.errors import DataError
from diffusionbench.schema import file_digest
from diffusionbench.writing import check_replaceable, whole_folder, write_errors
from nanogen.shards import MANIFEST, Dtype, ShardManifest, ShardRecipe, read_manifest, stored_bytes
from nanogen.text.encoder import TextEncoder

# Fields that a cache has of the recipe of its shards.
_SHARED = ("encoder", "encoder_digest", "max_tokens", "dtype", "width", "data_digest")
# Captions of one shard.
CHUNK = 2048
STATES, INDEX = "states.bin", "index.npz"


class CacheManifest(ShardManifest):
    """Contents of `manifest.json`.

    Attributes:
        encoder, encoder_digest: the text encoder, and SHA-256 over its weights and tokenizer.
        max_tokens: longer captions were cut.
        dtype: of the stored states.
        width: of a state.
        data_digest: SHA-256 of the data set whose captions are stored.
        captions, tokens: distinct captions, and states over all of them.
        truncated: captions that were cut.
        index_sha256: of `index.npz`, which holds a hash of each caption's states.
    """

    title = "text cache"
    command = "nanogen prepare text"
    kind: Literal["nanogen text cache"] = "nanogen text cache"
    version: Literal[2] = 2
    encoder: str
    encoder_digest: str
    max_tokens: int = Field(ge=1, le=bounds.TOKENS)
    dtype: Dtype
    width: int = Field(ge=1, le=bounds.WIDTH)
    data_digest: str
    captions: int = Field(ge=0, le=bounds.DURATION)
    tokens: int = Field(ge=0, le=bounds.DURATION)
    truncated: int = Field(ge=0, le=bounds.DURATION)
    index_sha256: str


def check_current(folder: Path, what: str, there: object, asked: object) -> None:
    """Raise DataError if a cache was made from something else than what is asked for."""
    if there != asked:
        raise DataError(
            f"text cache {folder} is stale: {what} is {there} there and {asked} now. "
            "Make it again with `nanogen prepare text`, or set condition.cache=null."
        )


def check_index(keys: np.ndarray, starts: np.ndarray, manifest: CacheManifest) -> None:
    """Check that an index is one of these states: sorted keys uint64 [n, 2], and where each caption's states start.

    Raises:
        ValueError: saying what is wrong with it.
    """
    count = manifest.captions
    if keys.dtype != np.uint64 or keys.shape != (count, 2) or starts.dtype != np.int64 or starts.shape != (count + 1,):
        raise ValueError(f"{INDEX} is not one of {count} captions")
    if starts[0] != 0 or starts[-1] != manifest.tokens or (np.diff(starts) < 0).any():
        raise ValueError(f"{INDEX} does not divide {manifest.tokens} states")
    if (keys[1:, 0] < keys[:-1, 0]).any():
        raise ValueError(f"{INDEX} is not in order")


def check_cache_replaceable(folder: Path) -> None:
    """Raise DataError unless a folder is absent, empty, or a text cache with nothing else in it."""
    files = []
    with suppress(DataError):
        read_manifest(folder, CacheManifest)
        files = [MANIFEST, STATES, INDEX]
    check_replaceable(folder, "text cache", files, DataError)


def _key(caption: str) -> np.ndarray:
    """Return uint64 [2] that stands for a caption: 128 bits of its SHA-256."""
    return np.frombuffer(hashlib.sha256(caption.encode()).digest()[:16], "<u8")


def _hash(states: bytes) -> int:
    """Return 64 bits of the SHA-256 of a caption's states."""
    return int.from_bytes(hashlib.sha256(states).digest()[:8], "little")


class TextCache:
    """An opened cache of this encoder; states are read from a memory map.

    Attributes:
        manifest: its description.

    Raises:
        DataError: if it is missing, damaged, or of another encoder or limit.
    """

    def __init__(self, folder: Path, encoder: TextEncoder) -> None:
        self.folder, self.manifest, self._device = folder, read_manifest(folder, CacheManifest), encoder.device
        check_current(folder, "the encoder's hash", self.manifest.encoder_digest[:12], encoder.digest[:12])
        check_current(folder, "condition.max_tokens", self.manifest.max_tokens, encoder.max_tokens)
        dtype = getattr(torch, self.manifest.dtype)
        total = self.manifest.tokens * self.manifest.width
        try:
            data = (folder / INDEX).read_bytes()
            if hashlib.sha256(data).hexdigest() != self.manifest.index_sha256:
                raise ValueError(f"{INDEX} has other content than was written")
            with Archive(folder / INDEX, data) as index:
                self._keys, self._starts, self._hashes = (index.read(key) for key in ("keys", "starts", "hashes"))
            check_index(self._keys, self._starts, self.manifest)
            if self._hashes.shape != (self.manifest.captions,):
                raise ValueError(f"{INDEX} has {self._hashes.size} hashes, expected {self.manifest.captions}")
            found = os.path.getsize(folder / STATES)
            if found != total * dtype.itemsize:
                raise ValueError(f"{STATES} has {found} bytes, expected {total * dtype.itemsize}")
            # An empty file cannot be mapped.
            path = str(folder / STATES)
            flat = torch.from_file(path, size=total, dtype=dtype) if total else torch.empty(0, dtype=dtype)
        except (OSError, ValueError, DataError) as error:
            raise self._damaged(str(error)) from None
        self._verified = np.zeros(self.manifest.captions, bool)
        self._states = flat.view(-1, self.manifest.width)

    def _damaged(self, reason: str) -> DataError:
        return DataError(f"text cache {self.folder} is damaged: {reason}. Make it again with `nanogen prepare text`.")

    def read(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Return the states float32 [L, width] on the device, of those captions that are stored.

        Raises:
            DataError: if they are not what was written.
        """
        found = {}
        for caption in captions:
            key = _key(caption)
            place = int(np.searchsorted(self._keys[:, 0], key[0]))
            while place < len(self._keys) and self._keys[place, 0] == key[0]:
                if self._keys[place, 1] == key[1]:
                    states = self._states[int(self._starts[place]) : int(self._starts[place + 1])]
                    if (
                        not self._verified[place]
                        and _hash(states.view(torch.uint8).numpy().tobytes()) != self._hashes[place]
                    ):
                        raise self._damaged(f"{STATES} has other content than was written for '{caption}'")
                    self._verified[place] = True
                    found[caption] = states.to(self._device, torch.float32)
                place += 1
        return found


class TextShardRecipe(ShardRecipe):
    """Recipe of the shards of which a text cache is put together: the states of a run of captions, by their keys.

    Attributes:
        encoder, encoder_digest, max_tokens, dtype, width, data_digest: as in `CacheManifest`.
        captions_digest: SHA-256 over the captions.
        count: distinct captions.
    """

    title = "folder of text states"
    command = "nanogen prepare text"
    setting = "condition.cache"
    prefix = "states"
    kind: Literal["nanogen text shards"] = "nanogen text shards"
    version: Literal[1] = 1
    encoder: str
    encoder_digest: str
    max_tokens: int
    dtype: Dtype
    width: int
    data_digest: str
    captions_digest: str


def distinct(captions: Iterable[str]) -> list[str]:
    """Return each caption once, in the order of the index."""
    return sorted(set(captions), key=lambda caption: tuple(_key(caption).tolist()))


def shard_recipe(ordered: Sequence[str], encoder: TextEncoder, data_digest: str, dtype: Dtype) -> TextShardRecipe:
    """Return the recipe of the shards of distinct captions."""
    sha = hashlib.sha256()
    for caption in ordered:
        sha.update(_key(caption).tobytes())
    return TextShardRecipe(
        encoder=encoder.name,
        encoder_digest=encoder.digest,
        max_tokens=encoder.max_tokens,
        dtype=dtype,
        width=encoder.spec.width,
        data_digest=data_digest,
        captions_digest=sha.hexdigest(),
        count=len(ordered),
        shard=CHUNK,
    )


def shard_content(captions: Sequence[str], encoder: TextEncoder, dtype: Dtype) -> bytes:
    """Return the states of captions end to end, then as int64 their lengths and how many captions were cut.

    Raises:
        DataError: if a state does not fit into the type.
    """
    stored, lengths, before = [], [], encoder.truncated
    for caption, states in zip(captions, encoder(captions), strict=True):
        stored.append(stored_bytes(states, dtype, f"a text state of '{caption}'"))
        lengths.append(len(states))
    return b"".join([*stored, np.array([*lengths, encoder.truncated - before], "<i8").tobytes()])


def assemble(folder: Path, ordered: Sequence[str], recipe: TextShardRecipe, contents: Iterable[Any]) -> CacheManifest:
    """Write a cache of the contents of all shards in order; an existing one gives way only to a finished one.

    Args:
        folder: where the cache goes; see `check_cache_replaceable`.
        ordered: the captions, see `distinct`.
        contents: bytes of `shard_content`, in any buffer.

    Raises:
        DataError: if the folder holds something else or cannot be written.
    """
    row = recipe.width * getattr(torch, recipe.dtype).itemsize
    lengths: list[int] = []
    hashes: list[int] = []
    truncated = 0
    with (
        write_errors(f"text cache {folder}", "Choose another folder.", DataError),
        whole_folder(folder, check_cache_replaceable) as made,
    ):
        with (made / STATES).open("wb") as file:
            for number, content in enumerate(contents):
                count = len(recipe.items(number))
                *own, cut = np.frombuffer(content[-8 * (count + 1) :], "<i8").tolist()
                ends = np.cumsum([0, *own]) * row
                hashes += [_hash(bytes(content[a:b])) for a, b in itertools.pairwise(ends.tolist())]
                file.write(content[: -8 * (count + 1)])
                lengths += own
                truncated += cut
        keys = np.array([_key(caption) for caption in ordered], np.uint64).reshape(-1, 2)
        starts = np.cumsum([0, *lengths], dtype=np.int64)
        np.savez(made / INDEX, keys=keys, starts=starts, hashes=np.array(hashes, np.uint64))
        manifest = CacheManifest(
            **{name: getattr(recipe, name) for name in _SHARED},
            captions=len(ordered),
            tokens=sum(lengths),
            truncated=truncated,
            index_sha256=file_digest(made / INDEX),
        )
        (made / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest
