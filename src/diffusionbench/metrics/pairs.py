"""Means over pairs of images: what a judge of pairs said of each, averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from diffusionbench.metrics import MetricSpec
from diffusionbench.metrics.metric import Context, Metric
from diffusionbench.sample import Sample
from diffusionbench.stats import NORMAL_975, Estimate


class PairMetric(Metric):
    """Mean over images, which are independent: its standard error is theirs over the root of their number."""

    output = "value"

    def __init__(self, spec: MetricSpec, context: Context) -> None:
        super().__init__(spec, context)
        self._values: dict[int, float] = {}

    def take(self, rows: np.ndarray, samples: Sequence[Sample]) -> None:
        """See `Metric.take`."""
        self._values.update((sample.id, float(row[0])) for row, sample in zip(rows, samples, strict=True))

    def compute(self) -> Estimate:
        """Return the mean with its standard error, and the value of each image."""
        self.seen.check()
        values = {index: self._values[index] for index in sorted(self._values)}
        every = np.array(list(values.values()))
        found = replace(self.seen.jackknifed(float(every.mean()), []), per_sample=values)
        if len(every) < 2:
            return found
        stderr = float(every.std(ddof=1) / np.sqrt(len(every)))
        low, high = (found.value + sign * NORMAL_975 * stderr for sign in (-1, 1))
        return replace(found, stderr=stderr, interval=(low, high), method="images")
