"""Opens references by name or path."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from diffusionbench.errors import RequestError
from diffusionbench.references import REFERENCES
from diffusionbench.references.image_reference import ImageReference
from diffusionbench.references.reference import Reference
from diffusionbench.references.statistics_reference import StatisticsReference
from diffusionbench.registry import nearest
from diffusionbench.source import STATISTICS_KEYS, archive_keys


@cache
def _named(name: str) -> Reference:
    found: Reference = REFERENCES.load(name)()
    return found


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
        keys = archive_keys(path)
        if "arr_0" not in keys and set(keys) & set(STATISTICS_KEYS):
            return StatisticsReference(path)
    return ImageReference(path)
