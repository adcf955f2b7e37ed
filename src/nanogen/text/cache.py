"""Text states on disk: one file of states end to end, and where each caption's begin.

Encoders are frozen and deterministic, so their states may be stored once; training then never opens the encoder. The
index is verified when a cache is opened, and a caption's states when they are first read: a run of terabytes starts at
once, and from its second epoch on pays nothing.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusionbench.archives import Archive
from diffusionbench.errors import DataError
from diffusionbench.folders import strangers, whole_folder
from diffusionbench.schema import file_digest
from diffusionbench.writing import write_errors
from nanogen.text.encoder import TextEncoder
from nanogen.text.manifest import INDEX, MANIFEST, STATES, Dtype, Manifest, check_index, read_manifest, stale

# Captions encoded between two writes.
CHUNK = 2048

Progress = Callable[[str, int, int], None]


def _key(caption: str) -> np.ndarray:
    """uint64 [2] that stands for a caption: 128 bits of its SHA-256."""
    return np.frombuffer(hashlib.sha256(caption.encode()).digest()[:16], "<u8")


def _bytes(states: Tensor) -> bytes:
    return states.view(torch.uint8).numpy().tobytes()


def _hash(states: bytes) -> int:
    """64 bits of the SHA-256 of a caption's states."""
    return int.from_bytes(hashlib.sha256(states).digest()[:8], "little")


class TextCache:
    """An opened cache; states are read from a memory map.

    Attributes:
        manifest: what it is of.
    """

    def __init__(self, folder: Path, manifest: Manifest, device: str) -> None:
        self.folder, self.manifest, self._device = folder, manifest, device
        dtype = getattr(torch, manifest.dtype)
        total = manifest.tokens * manifest.width
        try:
            data = (folder / INDEX).read_bytes()
            if hashlib.sha256(data).hexdigest() != manifest.index_sha256:
                raise ValueError(f"{INDEX} has other content than was written")
            with Archive(folder / INDEX, data) as index:
                self._keys, self._starts, self._hashes = (index.read(key) for key in ("keys", "starts", "hashes"))
            check_index(self._keys, self._starts, manifest)
            if self._hashes.shape != (manifest.captions,):
                raise ValueError(f"{INDEX} has {self._hashes.size} hashes, expected {manifest.captions}")
            found = os.path.getsize(folder / STATES)
            if found != total * dtype.itemsize:
                raise ValueError(f"{STATES} has {found} bytes, expected {total * dtype.itemsize}")
            flat = (
                torch.from_file(str(folder / STATES), size=total, dtype=dtype) if total else torch.empty(0, dtype=dtype)
            )
        except (OSError, ValueError, DataError) as error:
            raise self._damaged(str(error)) from None
        self._verified = np.zeros(manifest.captions, bool)
        self._states = flat.view(-1, manifest.width)

    def _damaged(self, reason: str) -> DataError:
        return DataError(f"text cache {self.folder} is damaged: {reason}. Make it again with `nanogen prepare text`.")

    @classmethod
    def open(cls, folder: Path, encoder: TextEncoder) -> TextCache:
        """Return a cache made by this encoder.

        Raises:
            DataError: if it is missing, damaged, or of another encoder or limit.
        """
        manifest = read_manifest(folder)
        for what, there, asked in (
            ("the encoder's hash", manifest.encoder_digest[:12], encoder.digest[:12]),
            ("condition.max_tokens", manifest.max_tokens, encoder.max_tokens),
        ):
            if there != asked:
                raise stale(folder, what, there, asked)
        return cls(folder, manifest, encoder.device)

    def read(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """States float32 [L, width] on the device, of those captions that are stored.

        Raises:
            DataError: if they are not what was written.
        """
        found = {}
        for caption in captions:
            key = _key(caption)
            place = int(np.searchsorted(self._keys[:, 0], key[0]))
            while place < len(self._keys) and self._keys[place, 0] == key[0]:
                if self._keys[place, 1] == key[1]:
                    found[caption] = self._read(place, caption).to(self._device, torch.float32)
                place += 1
        return found

    def _read(self, place: int, caption: str) -> Tensor:
        states = self._states[int(self._starts[place]) : int(self._starts[place + 1])]
        if not self._verified[place]:
            if _hash(_bytes(states)) != self._hashes[place]:
                raise self._damaged(f"in {STATES} the states of '{caption}' have other content than was written")
            self._verified[place] = True
        return states


def write_cache(
    folder: Path,
    captions: Iterable[str],
    encoder: TextEncoder,
    data_digest: str,
    dtype: Dtype = "float16",
    progress: Progress | None = None,
) -> Manifest:
    """Encode each distinct caption once and store its states; an existing cache gives way only to a finished one.

    Args:
        folder: where the cache goes; see `check_replaceable`.
        captions: of the data, and whatever else will be asked for; repeats cost nothing.
        encoder: of the states.
        data_digest: of the data set, so that a cache of other data is refused.
        dtype: "float16", "bfloat16" or "float32".
        progress: called with what is done, how many distinct captions, and of how many.

    Raises:
        DataError: if the folder holds something else, cannot be written, or a state does not fit into the type.
    """
    distinct = list(dict.fromkeys(captions))
    order = sorted(range(len(distinct)), key=lambda place: tuple(_key(distinct[place]).tolist()))
    lengths: list[int] = []
    hashes: list[int] = []
    with (
        write_errors(f"text cache {folder}", "Choose another folder.", DataError),
        whole_folder(folder, check_replaceable) as made,
    ):
        with (made / STATES).open("wb") as file:
            for start in range(0, len(order), CHUNK):
                some = [distinct[place] for place in order[start : start + CHUNK]]
                for caption, states in zip(some, encoder(some), strict=True):
                    stored = _bytes(_fitting(states, dtype, caption))
                    file.write(stored)
                    lengths.append(len(states))
                    hashes.append(_hash(stored))
                if progress is not None:
                    progress("encoded", min(start + CHUNK, len(order)), len(order))
        keys = np.array([_key(distinct[place]) for place in order], np.uint64).reshape(-1, 2)
        starts = np.cumsum([0, *lengths], dtype=np.int64)
        np.savez(made / INDEX, keys=keys, starts=starts, hashes=np.array(hashes, np.uint64))
        manifest = Manifest(
            encoder=encoder.name,
            encoder_digest=encoder.digest,
            max_tokens=encoder.max_tokens,
            dtype=dtype,
            width=encoder.spec.width,
            data_digest=data_digest,
            captions=len(order),
            tokens=sum(lengths),
            truncated=encoder.truncated,
            index_sha256=file_digest(made / INDEX),
        )
        (made / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return manifest


def _fitting(states: Tensor, dtype: Dtype, caption: str) -> Tensor:
    stored = states.to("cpu", getattr(torch, dtype))
    if not torch.isfinite(stored).all():
        raise DataError(f"a text state of '{caption}' does not fit into {dtype}. Choose bfloat16 or float32.")
    return stored


def check_replaceable(folder: Path) -> None:
    """Check that a folder is absent, empty, or a text cache with nothing else in it.

    Raises:
        DataError: naming what would be lost.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file. Choose a folder that is new, empty or a text cache.")
    others = strangers(folder, ())
    if not others:
        return
    try:
        read_manifest(folder)
    except DataError:
        raise DataError(
            f"{folder} exists and is no text cache: what it holds ({others[0]}, ...) would be lost. Choose another "
            "folder, or remove it."
        ) from None
    others = strangers(folder, (MANIFEST, STATES, INDEX))
    if others:
        raise DataError(
            f"{folder} holds a text cache and {len(others)} other file(s), the first: {others[0]}. They would be lost: "
            "move them away, or choose another folder."
        )
