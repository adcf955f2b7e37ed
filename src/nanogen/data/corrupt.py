"""Samples that cannot be read: the next good one stands in for each, and the run counts and names them.

Which one stands in is a function of the index alone, so the sequence of a run stays one of (seed, step). A run that
starts with more than `MAX_SHARE` of them stops.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from diffusionbench.errors import DataError
from diffusionbench.writing import write_atomic, write_errors
from nanogen import parallel
from nanogen.data import Batch, Dataset, Example, Wrapped, locate
from nanogen.log import say

# Samples that are tried in the place of one.
TRIES = 100
# More than this share among the first samples of a process ends the run.
MAX_SHARE, FIRST = 0.05, 1000
# Distinct corrupt samples that a run names and counts; bounds its memory.
MAX_NAMED = 100_000
FILE = "corrupt.txt"

ReadT = TypeVar("ReadT")


class Skipping(Wrapped):
    """A data set in which the next readable sample of the same block stands in for one that cannot be read.

    Args:
        dataset: the data set; its DataErrors about a sample become `Example.corrupt`.
    """

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset)
        sizes = [size for component in self.components for size in component.blocks or (component.size,)]
        self._starts = np.cumsum([0, *sizes])

    def __getitem__(self, index: int) -> Example:
        example, problem = self._read(self.dataset.__getitem__, index)
        return replace(example, corrupt=problem)

    def caption(self, index: int) -> str | None:
        """Return the caption of the sample, or of the next one whose caption can be read; its image is not looked at.

        The captions of all indices are those that training can see.
        """
        return self._read(self.dataset.caption, index)[0]

    def _read(self, read: Callable[[int], ReadT], index: int) -> tuple[ReadT, str | None]:
        """Read a sample, else the next one of its block that can be read; after the last one comes the first.

        Returns:
            The caption or example, and the sentence about the sample itself where that could not be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        block, inside = locate(self._starts, index)
        start, size = index - inside, int(self._starts[block + 1] - self._starts[block])
        others = min(size - 1, TRIES)
        problem = None
        for step in range(1 + others):
            try:
                return read(start + (inside + step) % size), problem
            except DataError as error:
                problem = problem or str(error)
        rest = f" The next {others} samples could not be read either." if others else ""
        raise DataError(f"{problem}{rest}")


class CorruptLog:
    """Counts the corrupt samples that batches bring, and names each once in `corrupt.txt`.

    A line is the step after which the sample was known, a tab, and the sentence about it. A run that continues drops
    the lines after its step: those samples will come again.

    Args:
        run_dir: the run's folder.
        step: optimizer updates already made.
    """

    def __init__(self, run_dir: Path, step: int) -> None:
        self.path = run_dir / FILE
        self._new: dict[str, None] = {}
        self._seen = self._replaced = 0
        with self._write_errors():
            text = self.path.read_bytes().decode("utf-8", "replace") if self.path.exists() else ""
        # A line that is cut off or not ours is dropped with the later ones.
        matches = (re.fullmatch(r"([0-9]{1,18})\t(.*)", line) for line in text.split("\n")[:-1])
        kept = [match for match in matches if match is not None and int(match[1]) <= step]
        self._known = {hash(match[2]) for match in kept}
        wanted = "".join(f"{match[0]}\n" for match in kept)
        if parallel.is_main() and text != wanted:
            with self._write_errors():
                write_atomic(self.path, wanted)

    def watch(self, loader: Iterator[Batch]) -> Iterator[Batch]:
        """Give the same batches, counted.

        Raises:
            DataError: if more than 5 % of the first 1,000 samples of this process are corrupt.
        """
        for batch in loader:
            if self._seen < FIRST:
                self._seen += len(batch.positions)
                self._replaced += len(batch.corrupt)
                if self._replaced > MAX_SHARE * FIRST:
                    raise DataError(
                        f"{self._replaced} of the first {self._seen} samples cannot be read; {MAX_SHARE:.0%} of the "
                        f"first {FIRST:,} are allowed. The last one: {batch.corrupt[-1]}"
                    )
            self._new |= dict.fromkeys(batch.corrupt)
            yield batch

    def collect(self, step: int) -> int:
        """Write down what is new in all processes after `step` updates, and give the number of distinct samples.

        Every process calls it; in all but the main process the number counts this process's own.
        """
        gathered = parallel.gather({parallel.rank(): [*self._new]})
        ours = [*self._new] if gathered is None else [one for rank in sorted(gathered) for one in gathered[rank]]
        self._new = {}
        new = []
        for line in (" ".join(sentence.split()) for sentence in ours):
            if hash(line) in self._known or len(self._known) >= MAX_NAMED:
                continue
            self._known.add(hash(line))
            new.append(f"{step}\t{line}\n")
            if len(self._known) == 1 and gathered is not None:
                say(f"a sample that cannot be read was replaced; this one and all others are named in {self.path}")
        if new and gathered is not None:
            with self._write_errors(), self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(new)
                file.flush()
                os.fsync(file.fileno())
        return len(self._known)

    def _write_errors(self) -> AbstractContextManager[None]:
        return write_errors(self.path, "Correct that and start the same command again.", DataError)
