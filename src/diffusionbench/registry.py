"""Literal tables of names to lazily imported objects, open to other packages through entry points."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any

from diffusionbench.errors import MissingPackageError, UserError
from diffusionbench.shown import LONGEST, few


def nearest(name: str, known: list[str]) -> str:
    """Return a clause naming the closest known name, or the first of them where none is close."""
    # A name of thousands of letters is like no other, and takes minutes to compare.
    close = difflib.get_close_matches(name, known, n=1) if len(name) < LONGEST else []
    return f"Did you mean '{close[0]}'?" if close else f"Known: {few(sorted(known), first=24) or 'none'}."


class Registry(Mapping[str, str]):
    """A table of names to "module:attribute" strings; nothing is imported before `load`.

    Args:
        kind: what one entry is, in words, for messages ("latent space").
        entries: the literal table.
        group: entry-point group by which other packages add names (style 2.5).
    """

    def __init__(self, kind: str, entries: dict[str, str], group: str) -> None:
        self.kind = kind
        self.group = group
        self._own = dict(entries)

    def _table(self) -> dict[str, str]:
        table = dict(self._own)
        for point in entry_points(group=self.group):
            if table.setdefault(point.name, point.value) != point.value:
                raise UserError(
                    f"{self.kind} '{point.name}' is registered twice: {table[point.name]} and {point.value} "
                    f"(entry point group '{self.group}'). Rename one of them."
                )
        return table

    def __getitem__(self, name: str) -> str:
        table = self._table()
        if name not in table:
            raise UserError(f"unknown {self.kind} '{name}'. {nearest(name, list(table))}")
        return table[name]

    def __contains__(self, name: object) -> bool:
        return name in self._table()

    def __iter__(self) -> Iterator[str]:
        return iter(self._table())

    def __len__(self) -> int:
        return len(self._table())

    def load(self, name: str) -> Any:
        """Import and return the object behind a name.

        Raises:
            UserError: if the name is unknown; the nearest known name is suggested.
        """
        module, _, attribute = self[name].partition(":")
        return getattr(importlib.import_module(module), attribute)


def require(package: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional package, or say what it is for and how to install it.

    Raises:
        MissingPackageError: with the exact install command.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != package.split(".")[0]:
            raise
        raise MissingPackageError(
            f"{purpose} needs the package '{package}', which is not installed. "
            f'Run: pip install "diffusionbench[{extra}]"'
        ) from None
