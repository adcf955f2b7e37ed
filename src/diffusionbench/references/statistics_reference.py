"""A file of means and covariances as a reference: enough for a Frechet distance, and for nothing else."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from diffusionbench.errors import RequestError
from diffusionbench.judges.judge import Judge
from diffusionbench.moments import load_moments
from diffusionbench.references.reference import Reference
from diffusionbench.schema import file_digest
from diffusionbench.shown import printable


class StatisticsReference(Reference):
    """Moments from an .npz; FID against other statistics is another number, so the record names file and hash.

    Raises:
        DataError: if the file holds no moments.
    """

    offers = frozenset({"moments"})

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = printable(path.name)
        self._moments = load_moments(path)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return file_digest(self.path)

    def moments(self, judge: Judge) -> tuple[np.ndarray, np.ndarray]:
        """Return the file's moments.

        Raises:
            RequestError: if their width is not the judge's.
        """
        if len(self._moments[0]) != judge.spec.dim:
            raise RequestError(
                f"reference statistics {self.path} have width {len(self._moments[0])}, and judge '{judge.name}' gives "
                f"{judge.spec.dim}. Give statistics of the same judge."
            )
        return self._moments
