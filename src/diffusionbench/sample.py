"""Items say what is asked for; samples are the images of an item that are made or judged."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from diffusionbench.schema import digest

# Of the noise of images that are made to be judged or shown.
SAMPLE: Final = "sample"


@dataclass(frozen=True)
class Item:
    """A request for an image: a row of a prompt set, a class, or an image to be reconstructed.

    Attributes:
        key: stable name such as "geneval/00017" or "class/207"; texts may repeat, keys may not.
        label: class that was asked for, or None where unknown.
        text: text that was asked for, or None.
        target: digest and number of the image that a reconstruction is compared with, or None; the image itself is
            under "partner" of `detail`, as a function without arguments.
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
        id: place in the evaluation, from 0.
        item: what was asked.
        k: which of several images of the item, from 0.
        seed: of the generator of this sample's noise, in 0..2^63-1: `noise_seed(seed of the evaluation, "sample", id)`,
            or what the prompt set rules; None where the image exists already.
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


def noise_seed(seed: int, purpose: str, place: int) -> int:
    """Return the seed of one generator, in 0..2^32 - 1: (base + place) mod 2^32.

    The base is the first 4 bytes, little-endian, of blake2b("{seed}/{purpose}"): no two of 2^32 places share a stream.

    Args:
        seed: of the run or evaluation, >= 0.
        purpose: what is drawn; `SAMPLE` for the images of an evaluation.
        place: the sample's id, or its position in a batch; >= 0.
    """
    base = hashlib.blake2b(f"{seed}/{purpose}".encode()).digest()[:4]
    return (int.from_bytes(base, "little") + place) % 2**32


def items_digest(samples: Iterable[Sample]) -> str:
    """Return the SHA-256 over what was asked for in order: keys, which image of an item, labels, texts and targets."""
    return digest([[one.item.key, one.k, one.label, one.prompt, one.item.target] for one in samples])
