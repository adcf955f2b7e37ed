"""Layouts of images made for prompts: one function says where a sample lies, for every layout."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final, NamedTuple

from diffusionbench.errors import DataError, RequestError
from diffusionbench.sample import Sample
from diffusionbench.shown import clipped, few, printable

LAYOUTS: Final = {
    "flat": "image i of the set is the file of number i, from 0",
    "folder": "image k of an item is KEY/k",
    "geneval": "image k of item number n is NNNNN/samples/KKKK",
    "grid:RxC": "one file holds the images of an item in R rows of C, row by row: KEY, or the item's number",
    "npz": "row i of an array is image i",
    "tar": "a .tar with names of any of these",
}
_GRID: Final = re.compile(r"grid:([1-9][0-9]?)x([1-9][0-9]?)", re.ASCII)


class Layout(NamedTuple):
    """A layout by name, and rows and columns of a grid."""

    name: str
    grid: tuple[int, int] | None = None

    def __str__(self) -> str:
        return self.name if self.grid is None else f"grid:{self.grid[0]}x{self.grid[1]}"


FOLDER: Final = Layout("folder")
FLAT: Final = Layout("flat")
# Those that names tell apart.
_BY_NAME: Final = (FOLDER, Layout("geneval"), FLAT)


def parse_layout(text: str) -> Layout:
    """Return the layout of a name such as "geneval" or "grid:2x2"; a RequestError says that there is none."""
    if grid := _GRID.fullmatch(text):
        return Layout("grid", (int(grid[1]), int(grid[2])))
    if text not in LAYOUTS or ":" in text:
        raise RequestError(f"unknown layout '{clipped(text, 40)}'. Known: {', '.join(LAYOUTS)} (R and C from 1 to 99).")
    return Layout(text)


def locate(layout: Layout, sample: Sample, per_item: int) -> tuple[tuple[str, ...], int | None]:
    """Return where a sample lies: the names that its file may have below the root, without suffix; row or tile in it.

    A name that is a number stands for all its forms, such as 7, 07 and 00007.

    Args:
        per_item: images of each item; sample `item * per_item + k` is image k of an item.
    """
    item, k = sample.id // per_item, sample.k
    if layout.name == "npz":
        return ("",), sample.id
    if layout.name == "flat":
        return (str(sample.id),), None
    if layout.name == "geneval":
        return (f"{item:05d}/samples/{k:04d}",), None
    if layout.grid is not None:
        return (sample.item.key, str(item)), k
    return (sample.file,), None


class Names:
    """Image files by their names without suffix.

    Attributes:
        files: name with suffix by name without; numbers at the top without leading zeros.
        twice: pairs of files of one name, as 1.png and 1.jpg or 1.png and 01.png.
    """

    def __init__(self, names: Collection[str]) -> None:
        self.files: dict[str, str] = {}
        self.twice: list[tuple[str, str]] = []
        for name in names:
            folder, slash, base = name.rpartition("/")
            stem = base.rpartition(".")[0]
            first = self.files.setdefault(f"{folder}/{stem}" if slash else _plain(stem), name)
            if first != name:
                self.twice.append((first, name))

    def find(self, stems: Sequence[str]) -> str | None:
        """Return the file of the first of some names that has one."""
        return next((self.files[_plain(stem)] for stem in stems if _plain(stem) in self.files), None)


def _plain(stem: str) -> str:
    return (stem.lstrip("0") or "0") if stem.isascii() and stem.isdigit() else stem


def choose_layout(where: str, names: Names, samples: Sequence[Sample], per_item: int) -> Layout:
    """Return the one layout by whose names some of the samples' files are there.

    Raises:
        DataError: if there is none or more than one.
    """
    found = {layout: _number(layout, names, samples, per_item) for layout in _BY_NAME}
    fitting = [layout for layout, number in found.items() if number]
    if fitting == [FLAT] and per_item > 1 and not _number(FLAT, names, samples[len(samples) // per_item :], per_item):
        raise DataError(
            f"{where} has files called by the numbers of prompts and none by a higher one, so each may be an image or "
            f"hold the {per_item} of a prompt. Say which with --layout flat or --layout grid:ROWSxCOLUMNS."
        )
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        counts = ", ".join(f"{layout} ({found[layout]:,})" for layout in fitting)
        raise DataError(
            f"{where} has names of several layouts: {counts} of {len(samples):,} images. Name one with --layout."
        )
    shown = ", ".join(f"{locate(layout, samples[0], per_item)[0][0]}.png ({layout})" for layout in _BY_NAME)
    raise DataError(
        f"{where} has no image of this set; found {few([printable(name) for name in names.files.values()], first=3)}. "
        f"The first would be {shown}; files that hold several images need --layout grid:ROWSxCOLUMNS."
    )


def _number(layout: Layout, names: Names, samples: Sequence[Sample], per_item: int) -> int:
    return sum(names.find(locate(layout, sample, per_item)[0]) is not None for sample in samples)
