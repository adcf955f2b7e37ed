"""Accuracy: the share of images that a judge takes for the class that was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from diffusionbench.axes import Sample
from diffusionbench.errors import RequestError
from diffusionbench.judges import Extractor
from diffusionbench.metrics import MetricSpec
from diffusionbench.metrics.intake import Intake
from diffusionbench.references import Reference
from diffusionbench.stats import Estimate


class AccuracyMetric:
    """Share of images whose largest logit is the class asked for; images are independent, the interval is Wilson's."""

    def __init__(self, key: str, reference: Reference, extractor: Extractor) -> None:
        self._intake = Intake(key, "logits", min_samples=1)
        self._correct: list[float] = []

    def update(self, outputs: Mapping[str, np.ndarray], samples: Sequence[Sample]) -> None:
        """Take one batch (`Metric.update`).

        Raises:
            RequestError: also if a sample has no label, or one the judge does not know.
        """
        rows, kept = self._intake.admit(outputs, samples)
        for row, sample in zip(rows, kept, strict=True):
            if sample.label is None or not 0 <= sample.label < len(row):
                raise RequestError(
                    f"metric '{self._intake.key}' needs a class from 0 to {len(row) - 1} for every image; "
                    f"sample {sample.id} has {'none' if sample.label is None else sample.label}. "
                    f"Give the classes that were asked for or leave the metric out."
                )
            self._correct.append(float(row.argmax() == sample.label))

    def compute(self) -> Estimate:
        """Accuracy in 0..1 with its Wilson interval (`Metric.compute`)."""
        self._intake.check()
        return self._intake.share(self._correct)


ACCURACY_DIGITS = MetricSpec(
    key="accuracy_digits",
    title="Share of images that the digits judge takes for the digit asked for",
    higher_is_better=True,
    extractor="digits",
    needs="nothing",
    needs_labels=True,
    min_samples=1,
    source="Top-1 accuracy of generated images, as in the Classification Accuracy Score (arXiv 1905.10887) reversed",
    create=partial(AccuracyMetric, "accuracy_digits"),
)
