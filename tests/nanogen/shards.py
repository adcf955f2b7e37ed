"""Small pictures, captions and tar shards for tests."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image


def picture(index: int, size: int = 4) -> np.ndarray:
    """Random pixels uint8 [size, size, 3] that tell images apart."""
    return np.random.default_rng(index).integers(0, 256, (size, size, 3), dtype=np.uint8)


def png(index: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(index)).save(file, "PNG")
    return file.getvalue()


def pair(index: int) -> list[tuple[str, bytes]]:
    """A complete sample: its picture and the caption "picture INDEX"."""
    return [(f"{index:04d}.png", png(index)), (f"{index:04d}.txt", f"picture {index}\n".encode())]


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], kind: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_shards(folder: Path, counts: Iterable[int], first: int = 0) -> Path:
    """Shards `NNNNN.tar` with so many complete samples each, numbered on from `first`."""
    for number, count in enumerate(counts):
        write_tar(folder / f"{number:05d}.tar", [file for index in range(first, first + count) for file in pair(index)])
        first += count
    return folder
