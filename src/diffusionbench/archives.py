"""Arrays in untrusted .npz files: a header is believed only as far as the bytes that follow it.

Arrays are never pickled, and folded by numpy's own two ways only: a few bytes of any other unfold to gigabytes.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections import Counter
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from diffusionbench.errors import DataError
from diffusionbench.files import is_hidden
from diffusionbench.shown import clipped, few

# Of one array that is read whole; a covariance of width 16,384 takes as much.
MOST_BYTES: Final = 2 * 2**30
MOST_ARRAYS: Final = 10_000
# What `zipfile` raises on damaged and on made-up files.
FAULTS: Final = (
    OSError, EOFError, ValueError, RuntimeError, TypeError, LookupError, OverflowError,
    zipfile.BadZipFile, zlib.error, struct.error,
)  # fmt: skip


class Archive:
    """An .npz file, opened for reading; also a context that closes it.

    Attributes:
        keys: names of the arrays.
        others: names of members that are no arrays, or hidden.
    """

    def __init__(self, path: Path, content: bytes | None = None) -> None:
        """Open the file, or its content where that was read already.

        Raises:
            DataError: if it is no .npz, or holds two arrays of one name.
        """
        self.path = path
        try:
            if content is None and not path.is_file():
                raise OSError("no such file" if not path.exists() else "no regular file")
            self._zip = zipfile.ZipFile(path if content is None else io.BytesIO(content))
        except FAULTS as error:
            raise DataError(
                f"{path} cannot be read as .npz ({_reason(error)}): it is not an .npz archive, or damaged. Write it "
                "again with numpy.savez."
            ) from None
        names = self._zip.namelist()
        if len(names) > MOST_ARRAYS:
            raise DataError(f"{path} holds {len(names):,} arrays; at most {MOST_ARRAYS:,} are read.")
        self.keys = [name.removesuffix(".npy") for name in names if name.endswith(".npy") and not _is_hidden(name)]
        self.others = [name for name in names if not name.endswith((".npy", "/")) or _is_hidden(name)]
        if twice := [key for key, times in Counter(self.keys).items() if times > 1]:
            raise DataError(f"{path} holds '{twice[0]}' twice. Write it again with one array of this name.")

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def open(self, key: str) -> tuple[IO[bytes], tuple[int, ...], np.dtype[Any], bool]:
        """Return an array to be read as it stands: its file after the header, shape, type, whether in Fortran order.

        Raises:
            DataError: if there is no such array, or its header does not fit the bytes that follow.
        """
        try:
            info = self._zip.getinfo(f"{key}.npy")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError("it is folded in another way than numpy's")
            file = self._zip.open(info)
            shape, fortran, dtype = _header(file)
            claimed, left = math.prod(shape) * dtype.itemsize, info.file_size - file.tell()
            if claimed != left:
                raise ValueError(f"its header claims {dtype} {few(shape)}, {claimed:,} bytes, and {left:,} follow")
        except FAULTS as error:
            raise self._damaged(key, error) from None
        return file, shape, dtype, fortran

    def read(self, key: str, most: int = MOST_BYTES) -> np.ndarray:
        """Return a whole array of at most `most` bytes.

        Raises:
            DataError: if it is larger, or cannot be read.
        """
        file, shape, dtype, fortran = self.open(key)
        try:
            size = math.prod(shape) * dtype.itemsize
            if size > most:
                raise ValueError(f"it unfolds to {size:,} bytes, and {most:,} are read at most")
            return np.ndarray(shape, dtype, bytearray(file.read()), order="F" if fortran else "C")
        except FAULTS as error:
            raise self._damaged(key, error) from None

    def _damaged(self, key: str, error: Exception) -> DataError:
        return DataError(f"{self.path}: '{key}' cannot be read ({_reason(error)}). Write the file again.")


def _is_hidden(name: str) -> bool:
    return any(map(is_hidden, name.split("/")))


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, order and type from the start of a .npy stream.

    Raises:
        ValueError: if there is none, or it claims what no array has.
    """
    try:
        major, _ = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except Exception as error:
        # It is a Python literal to be evaluated, and ends in whatever Python's parser raises.
        raise ValueError(_reason(error)) from None
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not loaded")
    if len(shape) > 32 or any(side < 0 for side in shape):
        raise ValueError(f"its header claims the shape [{few(shape)}]")
    return shape, fortran, dtype


def _reason(error: Exception) -> str:
    return clipped(str(error).partition("\n")[0] or type(error).__name__, 200)
