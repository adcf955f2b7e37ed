"""The table of references by name: the real images that generated ones are compared with (`references.opening`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from diffusionbench.errors import RequestError
from diffusionbench.judges import JUDGES
from diffusionbench.registry import Table

Role = Literal["train", "val", "test"]
"""Which split of its data set a reference is."""


def check_role(role: str | None) -> str | None:
    """Return the role of a reference; the callback of an option.

    Raises:
        RequestError: if it is none.
    """
    if role is not None and role not in get_args(Role):
        raise RequestError(f"'{role}' is no role of a reference. Choose {', '.join(get_args(Role))}.")
    return role


@dataclass(frozen=True, kw_only=True)
class ReferenceSpec:
    """One row of `REFERENCES`.

    Attributes:
        name: its key in the table, and what records call it.
        title: what the images are, in a few words.
        licence: of the images.
        load: "module:Class" of its `Reference`, made without arguments.
    """

    name: str
    title: str
    licence: str
    load: str


DIGITS: Final = ReferenceSpec(
    name="digits",
    title="1,797 handwritten digits of 8x8 (UCI), every fifth held out",
    licence="CC BY 4.0",
    load="diffusionbench.references.digits:DigitsReference",
)

REFERENCES: Final = Table("reference", {DIGITS.name: DIGITS}, group="diffusionbench.references")


HALVES: Final = {"even": 0, "odd": 1}
"""Halves of a reference by their word in NAME:even, and the index of their first image."""


def split_name(reference: str) -> tuple[str, str | None]:
    """Return the name or path of a reference, and the half that NAME:even or NAME:odd asks for; None for all of it."""
    name, colon, half = reference.rpartition(":")
    return (name, half) if colon and half in HALVES and not Path(reference).exists() else (reference, None)


def references_by_judge(given: Sequence[str]) -> dict[str, Any]:
    """Return the fields `reference` and `references` of a request from "REF" or "JUDGE=REF" of each.

    A path may hold "=": only the name of a judge before the first one counts.

    Raises:
        RequestError: if two are given for one judge, or two for all.
    """
    found: dict[str, str] = {}
    for one in given:
        judge, equals, name = one.partition("=")
        if not (equals and judge in JUDGES):
            judge, name = "", one
        if not name:
            raise RequestError(f"--reference '{one}' names no real images. Give a name or a path, or leave it out.")
        if judge in found:
            raise RequestError(
                f"two references are given for {f'judge {judge!r}' if judge else 'all judges'}: {found[judge]} and "
                f"{name}. Name one; --reference JUDGE=REF gives a judge its own."
            )
        found[judge] = name
    return {"reference": found.pop("", None), "references": found}
