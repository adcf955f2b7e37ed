"""The evidence of a pass as metrics share it: one matrix, ordered by the ids of the samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffusionbench.sample import Sample


class SharedRows:
    """Rows of one array of one judge, held once for all metrics of a pass.

    Rows are copied on arrival, into memory that grows by moving, so that a set never lies there twice.
    """

    def __init__(self) -> None:
        self._places: dict[int, int] = {}
        self._rows = np.empty((0, 0))
        self._ordered: np.ndarray | None = None

    def add(self, rows: np.ndarray, samples: Sequence[Sample]) -> None:
        """Take the rows [b, width] of samples; those that another metric has given already stay as they are.

        Raises:
            ValueError: if the width differs from the rows before.
        """
        new = [place for place, sample in enumerate(samples) if sample.id not in self._places]
        if not new:
            return
        count = len(self._places)
        if not count:
            self._rows = np.empty((len(new), rows.shape[1]), rows.dtype)
        elif count + len(new) > len(self._rows):
            # No other array refers to this memory before `by_id` has been asked.
            room = max(count + len(new), len(self._rows) * 9 // 8)
            self._rows.resize((room, self._rows.shape[1]), refcheck=False)
        self._rows[count : count + len(new)] = rows if len(new) == len(rows) else rows[new]
        self._places.update((samples[place].id, count + index) for index, place in enumerate(new))

    def by_id(self, samples: Sequence[Sample]) -> np.ndarray:
        """Return the rows [n, width] of these samples by rising id; read-only, one array for all who ask for all."""
        if self._ordered is None:
            count = len(self._places)
            self._rows.resize((count, self._rows.shape[1]), refcheck=False)
            ids = sorted(self._places)
            places = [self._places[index] for index in ids]
            if places != list(range(count)):
                self._rows = self._rows[places]
                self._places = {index: place for place, index in enumerate(ids)}
            self._ordered = self._rows
            self._ordered.flags.writeable = False
        if len(samples) == len(self._ordered):
            return self._ordered
        return self._ordered[[self._places[index] for index in sorted(sample.id for sample in samples)]]
