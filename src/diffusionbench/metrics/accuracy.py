"""Accuracy: the share of images that a judge takes for the class that was asked for.

Source: top-1 accuracy of generated images, as in the Classification Accuracy Score (arXiv 1905.10887) reversed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffusionbench.errors import RequestError
from diffusionbench.metrics import MetricSpec
from diffusionbench.metrics.metric import Context, Metric
from diffusionbench.sample import Sample
from diffusionbench.stats import Estimate


class AccuracyMetric(Metric):
    """Share of images whose largest logit is the class asked for; images are independent, the interval is Wilson's."""

    output = "logits"

    def __init__(self, spec: MetricSpec, context: Context) -> None:
        super().__init__(spec, context)
        self._correct: dict[int, float] = {}

    def take(self, rows: np.ndarray, samples: Sequence[Sample]) -> None:
        """See `Metric.take`.

        Raises:
            RequestError: if a sample has no label, or one the judge does not know.
        """
        for row, sample in zip(rows, samples, strict=True):
            if sample.label is None or not 0 <= sample.label < len(row):
                raise RequestError(
                    f"metric '{self.spec.key}' needs a class from 0 to {len(row) - 1} for every image; "
                    f"sample {sample.id} has {'none' if sample.label is None else sample.label}. "
                    f"Give the classes that were asked for or leave the metric out."
                )
            self._correct[sample.id] = float(row.argmax() == sample.label)

    def compute(self) -> Estimate:
        """Return the accuracy in 0..1 with its Wilson interval."""
        self.seen.check()
        return self.seen.share([self._correct[index] for index in sorted(self._correct)])
