"""One half of a reference's real images: those of even or of odd index, so that one tunes and the other scores."""

from __future__ import annotations

import numpy as np

from diffusionbench.errors import RequestError
from diffusionbench.judges import JudgeSpec
from diffusionbench.judges.judge import Judge
from diffusionbench.moments import moments
from diffusionbench.references import HALVES
from diffusionbench.references.reference import Reference
from diffusionbench.schema import digest
from diffusionbench.source import ImageSource


class HalfReference(Reference):
    """The images of even or odd index: their features and moments; classes, size and anchors are those of the whole.

    Args:
        whole: must offer features; statistics cannot be divided.
        half: "even" or "odd".

    Raises:
        RequestError: if it holds statistics alone.
    """

    offers = frozenset({"moments", "features"})

    def __init__(self, whole: Reference, half: str) -> None:
        if "features" not in whole.offers:
            raise RequestError(
                f"reference {whole.name} holds statistics, and no images that could be divided into halves. Give a "
                f"folder or .npz of real images, or leave ':{half}' out."
            )
        self.whole, self._start = whole, HALVES[half]
        self.name = f"{whole.name}, {half} half"
        self.role, self.image_size, self.notes = whole.role, whole.image_size, whole.notes
        self.num_classes, self.classes = whole.num_classes, whole.classes
        self.count = None if whole.count is None else len(range(self._start, whole.count, 2))

    @property
    def digest(self) -> str:
        """SHA-256 over that of the whole and the half."""
        return digest([self.whole.digest, self._start])

    def check(self, judge: JudgeSpec) -> None:
        """Refuse a judge for which the whole gives statistics in place of images."""
        self.whole.check(judge)
        if self.whole.made_by(judge.name) is not None:
            raise RequestError(
                f"reference {self.whole.name} gives judge '{judge.name}' statistics, which cannot be divided into "
                "halves. Name the whole reference."
            )

    def labels(self, count: int) -> list[int | None]:
        """Return the evaluation order of the whole."""
        return self.whole.labels(count)

    def anchors(self, count: int) -> dict[str, ImageSource]:
        """Return the anchors of the whole."""
        return self.whole.anchors(count)

    def features(self, judge: Judge) -> np.ndarray:
        """Return the features of its images, float32 [n, d]."""
        return self.whole.features(judge)[self._start :: 2]

    def moments(self, judge: Judge) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and covariance of its features."""
        return moments(self.features(judge))
