"""Decks deal facts evenly over a set, whatever each block forbids."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from diffusionbench.benchmarks.simpleeval.stream import Stream


class DeadEndError(Exception):
    """No legal fact is left for a slot: the block must be drawn again."""


class Deck:
    """A queue of facts; skipped facts stay in front, so that use evens out over a set.

    Args:
        items: the vocabulary of one slot.
        stream: gives the permutations.
    """

    def __init__(self, items: Sequence[str], stream: Stream) -> None:
        self._items, self._stream = list(items), stream
        self._queue: list[str] = []

    def deal(self, legal: Callable[[str], bool]) -> str:
        """Take the first legal fact, with one fresh permutation appended if there is none.

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
