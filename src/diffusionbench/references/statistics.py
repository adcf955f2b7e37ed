"""A file of means and covariances as a reference: enough for a Frechet distance, and for nothing else."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from diffusionbench.errors import RequestError
from diffusionbench.metrics.frechet import load_moments
from diffusionbench.schema import file_digest
from diffusionbench.shown import printable

if TYPE_CHECKING:
    import numpy as np

    from diffusionbench.judges import Extractor
    from diffusionbench.source import Source


class Statistics:
    """Moments from an .npz; FID against other statistics is another number, so the record names file and hash.

    Raises:
        DataError: if the file holds no moments.
    """

    image_size: tuple[int, int] | None = None
    num_classes: int | None = None
    offers = frozenset({"moments"})

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = printable(path.name)
        self._moments = load_moments(path)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return file_digest(self.path)

    def labels(self, count: int) -> list[int | None]:
        """No label is known."""
        return [None] * count

    def anchors(self, count: int) -> dict[str, Source]:
        """There are no images to score."""
        return {}

    def moments(self, extractor: Extractor) -> tuple[np.ndarray, np.ndarray]:
        """Return the file's moments.

        Raises:
            RequestError: if their width is not the extractor's.
        """
        if len(self._moments[0]) != extractor.dim:
            raise RequestError(
                f"reference statistics {self.path} have width {len(self._moments[0])}, and feature extractor "
                f"'{extractor.name}' gives {extractor.dim}. Give statistics of the same extractor."
            )
        return self._moments

    def features(self, extractor: Extractor) -> np.ndarray:
        """Never there; `offers` says so.

        Raises:
            RequestError: always.
        """
        raise RequestError(f"reference statistics {self.path} hold no features. Give a folder or .npz of real images.")
