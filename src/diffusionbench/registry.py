"""Literal tables of rows, open to other packages through entry points; the code of a row is imported when needed."""

from __future__ import annotations

import difflib
import importlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

from diffusionbench.errors import MissingPackageError, UserError
from diffusionbench.shown import LONGEST, few, first_line


def nearest(name: str, known: list[str]) -> str:
    """Return a clause naming the closest known name, or the first of them where none is close."""
    # A name of thousands of letters is like no other, and takes minutes to compare.
    close = difflib.get_close_matches(name, known, n=1) if len(name) < LONGEST else []
    return f"Did you mean '{close[0]}'?" if close else f"Known: {few(sorted(known), first=24) or 'none'}."


class HasCode(Protocol):
    """The one field that every row of a `Table` has: "module:name" of its code, or None where there is none."""

    @property
    def load(self) -> str | None: ...


RowT = TypeVar("RowT", bound=HasCode)


class Table(Mapping[str, RowT]):
    """Frozen rows by name, which import nothing heavy; the code of one is imported by `load`.

    Args:
        kind: what one row is, in words, for messages ("latent space").
        rows: the literal table, also as the attribute `own`.
        group: entry-point group by which other packages add rows; read once per process, at the first look-up.
        derived: gives further rows, which follow from rows that other packages added elsewhere.
    """

    def __init__(
        self,
        kind: str,
        rows: Mapping[str, RowT],
        group: str,
        derived: Callable[[], Mapping[str, RowT]] = dict,
    ) -> None:
        self.kind = kind
        self.group = group
        self.own = dict(rows)
        self._derived = derived

    @cached_property
    def _rows(self) -> dict[str, RowT]:
        rows = {**self._derived(), **self.own}
        kinds: Any = tuple({type(row) for row in self.own.values()}) or (object,)
        for point in entry_points(group=self.group):
            where = f"{point.value} (entry point group '{self.group}')"
            try:
                row = point.load()
            except Exception as error:
                # The module of another package raises whatever Python does.
                raise UserError(
                    f"{self.kind} '{point.name}' cannot be imported from {where}: {type(error).__name__}: "
                    f"{first_line(error)}. Correct or uninstall the package that names it."
                ) from error
            if not hasattr(row, "load") or not isinstance(row, kinds):
                raise UserError(
                    f"{self.kind} '{point.name}' is no row of this version: {where} must name one. See "
                    "examples/colours for how rows are written."
                )
            if (own := getattr(row, "name", None) or getattr(row, "key", None) or point.name) != point.name:
                raise UserError(
                    f"{self.kind} '{point.name}' is a row of another name: {where} names '{own}'. Write the same name "
                    "in both places."
                )
            if rows.setdefault(point.name, row) != row:
                raise UserError(f"{self.kind} '{point.name}' is registered twice, once by {where}. Rename one of them.")
        return rows

    @property
    def with_code(self) -> list[str]:
        """Names of the rows that can be loaded."""
        return [name for name, row in self._rows.items() if row.load is not None]

    def __getitem__(self, name: str) -> RowT:
        if name not in self._rows:
            raise UserError(f"unknown {self.kind} '{name}'. {nearest(name, self.with_code)}")
        return self._rows[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return a row, or the default where the name is unknown."""
        return self._rows.get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def load(self, name: str) -> Any:
        """Import and return the code of a row.

        Raises:
            UserError: if the name is unknown (the nearest known name is suggested), its row has no code, or the row of
                another package names code that is not there.
        """
        where = self[name].load
        if where is None:
            raise UserError(f"{self.kind} '{name}' is known by its published figures only: nothing here computes it.")
        module, _, attribute = where.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            if name in self.own:
                raise
            raise UserError(
                f"{self.kind} '{name}' cannot be loaded: its row names '{where}' ({first_line(error)}). Correct "
                "the row, or uninstall the package that brings it."
            ) from error


def install_command(extra: str, anywhere: bool = False) -> str:
    """Return the command that installs an extra beside this copy of the package, however it was installed.

    A clone is installed from its folder, a wheel's extra by what its metadata name, and one from an index by name.

    Args:
        extra: a key of `optional-dependencies` in pyproject.toml.
        anywhere: say the same on every machine, as for a copy from an index.
    """
    by_name = f'pip install "diffusionbench[{extra}]"'
    if anywhere:
        return by_name
    python = shlex.quote(_shown_path(Path(sys.executable)))
    clone = Path(__file__).parents[2]
    if (clone / "pyproject.toml").is_file():
        folder = _shown_path(clone)
        constraints = shlex.quote(str(Path(folder, "constraints.txt")))
        return f"{python} -m pip install -c {constraints} -e {shlex.quote(f'{folder}[{extra}]')}"
    try:
        found = distribution("diffusionbench")
    except PackageNotFoundError:
        return by_name
    if found.read_text("direct_url.json") is None:
        return f"{python} -m {by_name}"
    mark = re.compile(rf"(.*?)\s*;.*extra == ['\"]{re.escape(extra)}['\"]")
    named = [match[1] for line in found.requires or () if (match := mark.match(line))]
    return f"{python} -m pip install {shlex.join(named)}"


def _shown_path(path: Path) -> str:
    """Return a path as it is called from the current folder, where it lies below that."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


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
            f"{purpose} needs the package '{package}', which is not installed. Run: {install_command(extra)}"
        ) from None
