"""The table of references by name: the real images that generated ones are compared with (`references.opening`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from diffusionbench.errors import RequestError
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
    title="scikit-learn's 1,797 handwritten digits of 8x8, every fifth held out",
    licence="CC BY 4.0",
    load="diffusionbench.references.digits:DigitsReference",
)

REFERENCES: Final = Table("reference", {DIGITS.name: DIGITS}, group="diffusionbench.references")
