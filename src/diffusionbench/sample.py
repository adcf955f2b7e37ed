"""Items say what is asked for; samples are the images of an item that are made or judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Item:
    """A request for an image: a row of a prompt set, a class, or an image to be reconstructed.

    Attributes:
        key: stable name such as "geneval/00017" or "class/207"; texts may repeat, keys may not.
        label: class that was asked for, or None where unknown.
        text: text that was asked for, or None.
        target: path of the image that a reconstruction is compared with, or None.
        tags: groups that the item belongs to, such as the tasks of a benchmark.
        detail: what the item's own judges and metrics need (clauses, questions); nobody else looks inside.
    """

    key: str
    label: int | None = None
    text: str | None = None
    target: str | None = None
    tags: tuple[str, ...] = ()
    detail: Mapping[str, Any] = field(default_factory=dict, hash=False)


def plain_item(label: int | None = None, text: str | None = None) -> Item:
    """Return the item of an image of which only the class or the text is known."""
    return Item(f"class/{label}" if label is not None else text or "unknown", label, text)


UNKNOWN = plain_item()


@dataclass(frozen=True)
class Sample:
    """One image to make or to judge.

    Attributes:
        id: place in the evaluation, from 0; the noise of the image depends on (seed, id) only.
        item: what was asked.
        k: which of several images of the item, from 0.
        seed: of the sample's own noise where the prompt set rules it (in 0..2^63-1), else None: see `id`.
    """

    id: int
    item: Item = UNKNOWN
    k: int = 0
    seed: int | None = None

    @property
    def label(self) -> int | None:
        """Class that was asked for, or None where unknown."""
        return self.item.label

    @property
    def prompt(self) -> str | None:
        """Text that was asked for, or None."""
        return self.item.text

    @property
    def file(self) -> str:
        """Where the image lies below a folder of images made for a prompt set, without the suffix."""
        return f"{self.item.key}/{self.k}"
