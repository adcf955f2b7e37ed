"""The random stream behind prompt sets, scenes and views: SHA-256 in counter mode, integers only.

NumPy does not promise the same stream across versions (NEP 19), and a prompt set must never change; nothing outside
SimpleEval uses this.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

from diffusionbench.simpleeval import VERSION

T = TypeVar("T")

SEPARATOR = "\x1f"


def joined(*parts: str) -> bytes:
    """UTF-8 bytes of version and parts, separated by byte 0x1F: what every hash of SimpleEval is taken over."""
    return SEPARATOR.join((VERSION, *parts)).encode()


class Stream:
    """Unsigned 64-bit numbers that depend on (version, seed, path) alone."""

    def __init__(self, seed: str, path: str) -> None:
        self._seed, self._path = seed, path
        self._block = 0
        self._ready: list[int] = []

    def u64(self) -> int:
        """Next number in 0..2^64-1."""
        if not self._ready:
            data = hashlib.sha256(joined(self._seed, self._path, str(self._block))).digest()
            self._ready = [int.from_bytes(data[i : i + 8], "big") for i in (24, 16, 8, 0)]
            self._block += 1
        return self._ready.pop()

    def below(self, n: int) -> int:
        """Uniform integer in 0..n-1, without modulo bias.

        Raises:
            ValueError: if n is not in 1..2^64.
        """
        if not 1 <= n <= 2**64:
            raise ValueError(f"below(n) needs n in 1..2^64, got {n}")
        limit = 2**64 // n * n
        while (number := self.u64()) >= limit:
            pass
        return number % n

    def between(self, low: int, high: int) -> int:
        """Uniform integer in low..high, both ends included."""
        return low + self.below(high - low + 1)

    def choice(self, items: Sequence[T]) -> T:
        """One item, all equally likely."""
        return items[self.below(len(items))]

    def shuffle(self, items: Sequence[T]) -> list[T]:
        """A shuffled copy (Fisher-Yates from the end)."""
        out = list(items)
        for i in range(len(out) - 1, 0, -1):
            j = self.below(i + 1)
            out[i], out[j] = out[j], out[i]
        return out


def octets(seed: str, path: str, n: int) -> bytes:
    """The first n bytes of SHAKE-256 over (version, seed, path): bulk noise."""
    return hashlib.shake_256(joined(seed, path)).digest(n)
