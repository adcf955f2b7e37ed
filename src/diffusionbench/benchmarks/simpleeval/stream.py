"""The random numbers behind prompt sets, scenes and views: SHA-256 in counter mode, integers only.

NumPy does not promise the same stream across versions (NEP 19), and a prompt set must never change; nothing outside
SimpleEval uses this.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeVar

from diffusionbench.benchmarks.simpleeval import VERSION

T = TypeVar("T")

_FOUR: Final = struct.Struct(">4Q")


def joined(*parts: str) -> bytes:
    """Return version and parts as UTF-8, separated by byte 0x1F: every hash of SimpleEval is taken over such bytes."""
    return "\x1f".join((VERSION, *parts)).encode()


def octets(seed: str, path: str, n: int) -> bytes:
    """Return the first n bytes of SHAKE-256 over (version, seed, path): bulk noise."""
    return hashlib.shake_256(joined(seed, path)).digest(n)


class HashStream:
    """Unsigned 64-bit numbers that depend on (version, seed, path) alone."""

    def __init__(self, seed: str, path: str) -> None:
        prefix = hashlib.sha256(joined(seed, path, ""))

        def numbers() -> Iterator[int]:
            for block in itertools.count():
                hasher = prefix.copy()
                hasher.update(b"%d" % block)
                yield from _FOUR.unpack(hasher.digest())

        #: Next number in 0..2^64-1. The bare iterator, because renderers draw hundreds of numbers a picture.
        self.u64: Final[Callable[[], int]] = numbers().__next__

    def below(self, n: int) -> int:
        """Return a uniform integer in 0..n-1, without modulo bias.

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
        """Return a uniform integer in low..high, both ends included."""
        return low + self.below(high - low + 1)

    def choice(self, items: Sequence[T]) -> T:
        """Return one item, all equally likely."""
        return items[self.below(len(items))]

    def shuffle(self, items: Sequence[T]) -> list[T]:
        """Return a shuffled copy (Fisher-Yates from the end)."""
        out = list(items)
        for i in range(len(out) - 1, 0, -1):
            j = self.below(i + 1)
            out[i], out[j] = out[j], out[i]
        return out


class DeadEndError(Exception):
    """No legal fact is left for a slot: the block must be drawn again."""


class BalancedSampler:
    """A queue of facts; skipped facts stay in front, so that all facts of a slot are used about equally often.

    Args:
        items: the vocabulary of one slot.
        stream: gives the permutations.
    """

    def __init__(self, items: Sequence[str], stream: HashStream) -> None:
        self._items, self._stream = list(items), stream
        self._queue: list[str] = []

    def next(self, legal: Callable[[str], bool]) -> str:
        """Take the first legal fact, after appending a fresh permutation if there is none.

        Raises:
            DeadEndError: if no fact of the vocabulary is legal.
        """
        for attempt in range(2):
            for place, item in enumerate(self._queue):
                if legal(item):
                    return self._queue.pop(place)
            if attempt == 0:
                self._queue += self._stream.shuffle(self._items)
        raise DeadEndError
