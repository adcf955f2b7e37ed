"""The base class of references: real data behind a score."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from diffusionbench.errors import RequestError
from diffusionbench.judges import JudgeSpec
from diffusionbench.judges.judge import Judge
from diffusionbench.references import Role
from diffusionbench.sample import Sample
from diffusionbench.source import ImageSource

ASSERTED: Final = "asserted: "
"""How what made statistics begins where only the user says so."""


class Reference(ABC):
    """Real images, or what a judge made of them.

    Attributes:
        offers: what metrics can take from it: "moments", "features", "pairs".
        name: what records call it.
        role: which split of its data set the images are, or None where nobody said.
        count: how many images it was made of, or None where unknown.
        image_size: (height, width) that every scored image must have, or None for any.
        num_classes: number of classes, or None where it has no labels.
        classes: their names in the order of their numbers, by which folders of scored images are numbered, or None.
        notes: what was not read of a user's files, in sentences.
    """

    offers: frozenset[str]
    name: str
    role: Role | None = None
    count: int | None = None
    image_size: tuple[int, int] | None = None
    num_classes: int | None = None
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    @abstractmethod
    def digest(self) -> str:
        """SHA-256 over the images or the statistics file."""

    def made_by(self, judge: str) -> str | None:
        """Return the name of the extractor whose statistics a judge is given, "asserted: NAME" where the user says so.

        None where the judge sees the images itself.
        """
        return None

    def asserted(self, judge: str) -> str | None:
        """Return what of a judge's statistics only the user says, in words, or None."""
        said = self.made_by(judge)
        if said is None or not said.startswith(ASSERTED):
            return None
        return f"that {self.name} holds statistics of '{judge}' is the user's word"

    def check(self, judge: JudgeSpec) -> None:  # noqa: B027 (real images serve any judge)
        """Refuse a judge for which it has nothing, as its row tells before any weight is loaded.

        Raises:
            RequestError: if its statistics are another extractor's, or nothing says whose they are.
        """

    def check_loaded(self, judge: Judge) -> None:  # noqa: B027 (real images serve any judge)
        """Refuse a judge that is not the one its statistics are of, as their digests tell.

        Raises:
            RequestError: naming both.
        """

    def labels(self, count: int) -> list[int | None]:
        """Return the classes to ask a generator for: the first `count` of the evaluation order."""
        return [None] * count

    @property
    def keys(self) -> list[str]:
        """What tells its images apart, in order; nothing where it holds none."""
        return []

    def partnered(self, samples: Sequence[Sample]) -> list[Sample]:
        """Return samples whose items have the images of the same names as partners.

        Raises:
            RequestError: naming those that have none.
        """
        raise RequestError(f"reference {self.name} holds no images. Give a folder or .npz of the originals.")

    def anchors(self, count: int) -> dict[str, ImageSource]:
        """Return image sets that say what a score means, by name ("held_out", "class_means").

        Each source has the same number n = min(count, held-out images) of labelled images, in the order of
        `labels`; where no image is held out there is no such set, and n = count. Empty without images.
        """
        return {}

    def moments(self, judge: Judge) -> tuple[np.ndarray, np.ndarray]:
        """Return mean float64 [d] and covariance float64 [d, d] of the training images' features.

        Raises:
            RequestError: if it has none; `offers` says so.
        """
        raise RequestError(f"reference {self.name} holds no moments. Give a folder or .npz of real images.")

    def features(self, judge: Judge) -> np.ndarray:
        """Return the training images' features, float32 [n, d].

        Raises:
            RequestError: if it has none; `offers` says so.
        """
        raise RequestError(f"reference {self.name} holds no features. Give a folder or .npz of real images.")


@dataclass(frozen=True)
class JudgedReference:
    """A reference as one judge sees it: what a metric compares with."""

    reference: Reference
    judge: Judge

    @property
    def name(self) -> str:
        """Name in records."""
        return self.reference.name

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """See `Reference.moments`."""
        return self.reference.moments(self.judge)

    def features(self) -> np.ndarray:
        """See `Reference.features`."""
        return self.reference.features(self.judge)
