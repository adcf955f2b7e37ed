"""The table of references: the real images (or their statistics) that generated ones are compared with."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from diffusionbench.errors import RequestError
from diffusionbench.registry import Registry, nearest

if TYPE_CHECKING:
    import numpy as np

    from diffusionbench.judges import Extractor
    from diffusionbench.source import Source

REFERENCES = Registry(
    "reference",
    {
        "digits": "diffusionbench.references.digits:Digits",
    },
    group="diffusionbench.references",
)


class Reference(Protocol):
    """Real data behind a score.

    Attributes:
        name: what records call it.
        digest: SHA-256 over the images or the statistics file.
        image_size: (height, width) that every scored image must have, or None for any.
        num_classes: number of classes, or None where it has no labels.
        classes: their names in the order of their numbers, by which folders of scored images are numbered; None, or
            left out, where they have none.
        notes: what was not read of a user's files, in sentences; left out where nothing can be.
        offers: what metrics can take from it: "moments", "features".
    """

    name: str
    image_size: tuple[int, int] | None
    num_classes: int | None
    offers: frozenset[str]

    @property
    def digest(self) -> str: ...

    def labels(self, count: int) -> list[int | None]:
        """Return the classes to ask a generator for: the first `count` of the evaluation order."""
        ...

    def anchors(self, count: int) -> dict[str, Source]:
        """Image sets that say what a score means, by name ("held_out", "class_means").

        Each source has the same number n = min(count, held-out images) of labelled images, in the order of
        `labels`; where no image is held out there is no such set, and n = count. Empty without images.
        """
        ...

    def moments(self, extractor: Extractor) -> tuple[np.ndarray, np.ndarray]:
        """Mean float64 [d] and covariance float64 [d, d] of the training images' features."""
        ...

    def features(self, extractor: Extractor) -> np.ndarray:
        """Training images' features, float32 [n, d]."""
        ...


@cache
def _named(name: str) -> Reference:
    return REFERENCES.load(name)()


def resolve(reference: str) -> Reference:
    """Return a reference by its name in `REFERENCES` (one object per process) or by path.

    A path is a folder of images, an .npz of images (`arr_0`, perhaps with `mu` and `sigma`), or an .npz of
    statistics alone.

    Raises:
        RequestError: if it is neither a name nor a path.
        DataError: if the file or folder holds no reference.
    """
    if reference in REFERENCES:
        return _named(reference)
    path = Path(reference)
    if not path.exists():
        raise RequestError(
            f"unknown reference '{reference}': it is no name and no file or folder. "
            f"{nearest(reference, list(REFERENCES))}"
        )
    if path.is_file() and path.suffix.lower() == ".npz":
        from diffusionbench.source import STATISTICS_KEYS, archive_keys

        keys = archive_keys(path)
        if "arr_0" not in keys and set(keys) & set(STATISTICS_KEYS):
            from diffusionbench.references.statistics import Statistics

            return Statistics(path)
    from diffusionbench.references.images import Images

    return Images(path)
