"""The base class of judges, and the judge that hands images on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from diffusionbench.errors import RequestError
from diffusionbench.judges import PIXELS, JudgeSpec, Unjudged
from diffusionbench.registry import nearest
from diffusionbench.sample import Item
from diffusionbench.schema import digest

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


class Judge:
    """Frozen map from 8-bit images, and items where it asks questions, to evidence; constructing it loads its weights.

    What it returns for an image depends on the image, its item and `digest` only, neither on the batch nor on the
    order.

    Attributes:
        spec: its row of the table.
        options: the row's options with what was asked for in their place.
        digest: SHA-256 over weights, preprocessing, options and precision: equal digests mean comparable evidence.
        preprocessing: what it does to an image before its network, in words.
    """

    spec: ClassVar[JudgeSpec]
    digest: str
    preprocessing: ClassVar[str] = ""

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
        """Return the digest over what else the evidence depends on, and the options where there are any."""
        return digest([facts, self.options] if self.options else facts)

    def questions(self, item: Item) -> tuple[str, ...]:
        """Return what is asked about an image of an item; () if the evidence depends on the image alone."""
        return ()

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
        raise NotImplementedError

    def self_test(self) -> float:
        """Return the largest deviation from shipped outputs, relative to their largest value; needs the row's flag.

        It passes within `judges.TOLERANCE`.
        """
        raise NotImplementedError


class Pixels(Judge):
    """Hands the images themselves to metrics that judge pictures rather than feature vectors."""

    spec = PIXELS
    digest = digest("pixels")

    def __call__(
        self, images: np.ndarray, items: Sequence[Item] = (), given: Mapping[str, Evidence] | None = None
    ) -> Mapping[str, np.ndarray]:
        """Return uint8 [B, H, W, 3] as {"images": the same}."""
        return {"images": images}
