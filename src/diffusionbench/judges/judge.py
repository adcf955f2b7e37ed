"""The base class of judges, and the judge that hands images on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from diffusionbench.errors import RequestError, RunError
from diffusionbench.judges import PIXELS, JudgeSpec, Unjudged
from diffusionbench.registry import nearest
from diffusionbench.sample import Item
from diffusionbench.schema import Strict, digest

Evidence = Mapping[str, np.ndarray] | Sequence[Mapping[str, Any] | Unjudged]
"""Output of a judge for B images: arrays of B rows by name, or B rows."""


@dataclass(frozen=True)
class Needs:
    """Requirements of a judge, as `Judge.check` found them.

    Attributes:
        files: weight files that are read.
        packages: optional packages that are imported.
        memory_mb: of the device, about; 0 where it does not matter.
    """

    files: tuple[Path, ...] = ()
    packages: tuple[str, ...] = ()
    memory_mb: int = 0


class JudgeFacts(Strict):
    """Which judge evidence is of: all that it depends on beside the image and what was asked about it.

    Attributes:
        digest: of the judge, see there.
        version, precision, options: of its row; the digest covers them, and without weights they tell it apart.
        uses: keys of the judges whose evidence it was given, by name.
    """

    name: str
    digest: str
    version: int = 1
    precision: str = "float32"
    options: dict[str, Any] = {}
    uses: dict[str, str] = {}

    @property
    def key(self) -> str:
        """SHA-256 over all of it."""
        return digest(self)

    def fits(self, row: JudgeSpec) -> bool:
        """Return whether a row of the table may be this judge; only its weights can tell for certain."""
        own, its = ([of.name, of.version, of.precision, dict(of.options)] for of in (self, row))
        return digest(own) == digest(its) and self.uses.keys() == set(row.uses)


class JudgeManifest(Strict):
    """Says which judge a folder of evidence is of.

    Attributes:
        self_test: outcome of the judge's self-test where it judged first, in words.
    """

    schema_version: Literal[1] = 1
    facts: JudgeFacts
    self_test: str | None = None


class Judge(ABC):
    """Frozen map from 8-bit images, and items where it asks questions, to evidence; constructing it loads its weights.

    What it returns for an image depends on the image, its item and `digest` only, neither on the batch nor on the
    order.

    Attributes:
        spec: its row of the table.
        options: the row's options with what was asked for in their place.
        digest: SHA-256 over weights, preprocessing, options, precision and version of its code: equal digests mean
            comparable evidence.
        preprocessing: what it does to an image before its network, in words.
        caution: what speaks against its use on the images that it has seen, in a sentence, or None.
        is_stand_in: whether its network is a small one of random weights, of which tests ask no sense.
    """

    spec: ClassVar[JudgeSpec]
    digest: str
    preprocessing: ClassVar[str] = ""
    caution: str | None = None
    is_stand_in: bool = False

    def __init__(self, device: str = "cpu", options: Mapping[str, Any] | None = None) -> None:
        """Take torch's name of a device, and options that differ from the row's.

        Raises:
            RequestError: if an option is unknown.
        """
        self.device = device
        self.options = {**self.spec.options, **(options or {})}
        if unknown := sorted(self.options.keys() - self.spec.options.keys()):
            raise RequestError(
                f"judge '{self.name}' has no option '{unknown[0]}'. {nearest(unknown[0], list(self.spec.options))}"
            )

    @property
    def name(self) -> str:
        """Key in the table."""
        return self.spec.name

    @classmethod
    def check(cls) -> Needs:
        """Verify without loading anything that weights and packages are there.

        Raises:
            UserError: saying what is missing and how to get it.
        """
        return Needs()

    def digest_of(self, facts: object) -> str:
        """Return the digest over what else the evidence depends on, and what the row says of it.

        Options, a later version and another precision than float32 count once they are there, so old digests stay.
        """
        row = {"version": self.spec.version, "precision": self.spec.precision, "options": self.options}
        said = {key: value for key, value in row.items() if value not in (1, "float32", {})}
        return digest([facts, said] if said else facts)

    @classmethod
    def questions(cls, item: Item) -> tuple[str, ...]:
        """Return what is asked about an image of an item; () if the evidence depends on the image alone."""
        return ()

    @abstractmethod
    def __call__(
        self, images: np.ndarray, items: Sequence[Item] = (), given: Mapping[str, Evidence] | None = None
    ) -> Evidence:
        """Judge uint8 images [B, H, W, 3].

        Args:
            images: not written to.
            items: the B items they were made for; a judge that asks nothing works without.
            given: evidence of these images by the judges that the row `uses`.

        Returns:
            By the row's `output` {"features": float32 [B, dim], "logits": float32 [B, c]}, or B rows of plain values,
            each of which may be `Unjudged`.
        """

    def self_test(self) -> float:
        """Return the largest deviation from shipped outputs, relative to their largest value; needs the row's flag.

        It passes within `judges.TOLERANCE`.
        """
        raise RunError(f"judge '{self.name}' is said to have a self-test, and has none. Its row must not say so.")


class Pixels(Judge):
    """Hands the images themselves to metrics that judge pictures rather than feature vectors."""

    spec = PIXELS
    digest = digest("pixels")

    def __call__(
        self, images: np.ndarray, items: Sequence[Item] = (), given: Mapping[str, Evidence] | None = None
    ) -> Mapping[str, np.ndarray]:
        """Return uint8 [B, H, W, 3] as {"images": the same}."""
        return {"images": images}
