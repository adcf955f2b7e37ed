"""Samples that cannot be read: the next good one stands in for each, and the run counts and names them.

Which one stands in is a function of the index alone, so the sequence of a run stays one of (seed, step). Too many are
no accident: a run that starts with more than `MAX_SHARE` of them stops.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np

from diffusionbench.errors import DataError
from diffusionbench.writing import write_atomic, write_errors
from nanogen import parallel
from nanogen.data import Batch, Dataset, Item
from nanogen.data.plan import parts_of
from nanogen.log import say

# Samples that are tried in the place of one.
TRIES = 100
# More than this share among the first samples of a process ends the run.
MAX_SHARE, FIRST = 0.05, 1000
# Distinct corrupt samples that a run names and counts; bounds its memory.
MAX_NAMED = 100_000
FILE = "corrupt.txt"
HOPELESS = "Nor can any of the samples after it be read that were tried in its place."


class Skipping:
    """A data set in which the next readable sample of the same block stands in for one that cannot be read.

    Args:
        dataset: the data set; its DataErrors about a sample become `Item.corrupt`.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.parts = parts_of(dataset, len(dataset))
        self.num_classes, self.classes = dataset.num_classes, dataset.classes
        self.captioned, self.digest = dataset.captioned, dataset.digest
        self._starts = np.cumsum([0, *(size for part in self.parts for size in part.blocks or (part.size,))])

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Item:
        problem = None
        for other in self._from(index):
            try:
                item = self.dataset[other]
            except DataError as error:
                problem = problem or str(error)
                continue
            return Item(item.image, item.label, item.caption, problem)
        raise DataError(f"{problem} {HOPELESS}")

    def caption(self, index: int) -> str | None:
        """Return the caption of the sample, or of the next one whose caption can be read; its image is not looked at.

        The captions of all indices are those that training can see.
        """
        problem = None
        for other in self._from(index):
            try:
                return self.dataset.caption(other)
            except DataError as error:
                problem = problem or str(error)
        raise DataError(f"{problem} {HOPELESS}")

    def _from(self, index: int) -> Iterator[int]:
        """The index, then those after it in its block, from the end on to its start; at most `TRIES`."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        block = int(np.searchsorted(self._starts, index, side="right")) - 1
        start, size = int(self._starts[block]), int(self._starts[block + 1] - self._starts[block])
        for step in range(min(size, TRIES)):
            yield start + (index - start + step) % size


class Tally:
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
        with self._written():
            text = self.path.read_bytes().decode("utf-8", "replace") if self.path.exists() else ""
        lines = text.split("\n")[:-1]
        # A line that is cut off or not ours is dropped with the later ones.
        kept = [line for line in lines if re.match(r"[0-9]{1,18}\t", line) and int(line.partition("\t")[0]) <= step]
        self._known = {hash(line.partition("\t")[2]) for line in kept}
        if parallel.is_main() and text != "".join(f"{line}\n" for line in kept):
            with self._written():
                write_atomic(self.path, "".join(f"{line}\n" for line in kept))

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
        for sentence in ours:
            line = " ".join(sentence.split())
            if hash(line) in self._known or len(self._known) >= MAX_NAMED:
                continue
            self._known.add(hash(line))
            if gathered is not None:
                if len(self._known) == 1:
                    say(f"a sample that cannot be read was replaced; this one and all others are named in {self.path}")
                new.append(f"{step}\t{line}\n")
        if new:
            with self._written(), self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(new)
                file.flush()
                os.fsync(file.fileno())
        return len(self._known)

    def _written(self) -> AbstractContextManager[None]:
        return write_errors(self.path, "Correct that and start the same command again.", DataError)
