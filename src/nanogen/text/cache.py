"""Text states on disk: one file of states end to end, and where each caption's begin.

Encoders are frozen and deterministic, so their states may be stored once; training then never opens the encoder.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffusionbench.archives import Archive
from diffusionbench.errors import DataError
from nanogen.text.encoder import TextEncoder
from nanogen.text.manifest import INDEX, MANIFEST, STATES, Dtype, Manifest, check_index, read_manifest, stale

# Captions encoded between two writes.
CHUNK = 2048

Progress = Callable[[str, int, int], None]


def _key(caption: str) -> np.ndarray:
    """uint64 [2] that stands for a caption: 128 bits of its SHA-256."""
    return np.frombuffer(hashlib.sha256(caption.encode()).digest()[:16], "<u8")


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
            with Archive(folder / INDEX) as index:
                self._keys, self._starts = index.read("keys"), index.read("starts")
            check_index(self._keys, self._starts, manifest)
            found = os.path.getsize(folder / STATES)
            if found != total * dtype.itemsize:
                raise ValueError(f"{STATES} has {found} bytes, expected {total * dtype.itemsize}")
            flat = (
                torch.from_file(str(folder / STATES), size=total, dtype=dtype) if total else torch.empty(0, dtype=dtype)
            )
        except (OSError, ValueError, DataError) as error:
            raise DataError(
                f"text cache {folder} is damaged: {error}. Make it again with `nanogen prepare text`."
            ) from None
        self._states = flat.view(-1, manifest.width)

    @classmethod
    def open(cls, folder: Path, encoder: TextEncoder) -> TextCache:
        """A cache made by this encoder.

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
        """States float32 [L, width] on the device, of those captions that are stored."""
        found = {}
        for caption in captions:
            key = _key(caption)
            place = int(np.searchsorted(self._keys[:, 0], key[0]))
            while place < len(self._keys) and self._keys[place, 0] == key[0]:
                if self._keys[place, 1] == key[1]:
                    states = self._states[int(self._starts[place]) : int(self._starts[place + 1])]
                    found[caption] = states.to(self._device, torch.float32)
                place += 1
        return found


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
        folder: where the cache goes; what stands there must be a text cache or absent.
        captions: of the data, and whatever else will be asked for; repeats cost nothing.
        encoder: of the states.
        data_digest: of the data set, so that a cache of other data is refused.
        dtype: "float16", "bfloat16" or "float32".
        progress: called with what is done, how many distinct captions, and of how many.

    Raises:
        DataError: if the folder holds something else, cannot be written, or a state does not fit into the type.
    """
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists and is no text cache. Choose another folder.")
    distinct = list(dict.fromkeys(captions))
    order = sorted(range(len(distinct)), key=lambda place: tuple(_key(distinct[place]).tolist()))
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    lengths: list[int] = []
    try:
        partial.mkdir(parents=True)
        with (partial / STATES).open("wb") as file:
            for start in range(0, len(order), CHUNK):
                some = [distinct[place] for place in order[start : start + CHUNK]]
                for caption, states in zip(some, encoder(some), strict=True):
                    stored = states.to("cpu", getattr(torch, dtype))
                    if not torch.isfinite(stored).all():
                        raise DataError(
                            f"a text state of '{caption}' does not fit into {dtype}. Choose bfloat16 or float32."
                        )
                    file.write(stored.view(torch.uint8).numpy().tobytes())
                    lengths.append(len(stored))
                if progress is not None:
                    progress("encoded", min(start + CHUNK, len(order)), len(order))
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
        )
        keys = np.array([_key(distinct[place]) for place in order], np.uint64).reshape(-1, 2)
        np.savez(partial / INDEX, keys=keys, starts=np.cumsum([0, *lengths], dtype=np.int64))
        (partial / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
        # The old cache goes only now, when the new one is complete.
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    except OSError as error:
        raise DataError(
            f"text cache {folder} cannot be written: {error.strerror or error}. Choose another folder."
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return manifest
