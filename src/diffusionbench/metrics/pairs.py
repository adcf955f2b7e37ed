"""Means over pairs of images: what a judge of pairs said of each, averaged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from diffusionbench.metrics.metric import Metric
from diffusionbench.stats import NORMAL_975, Estimate


class PairMetric(Metric):
    """Mean over images, which are independent: its standard error is theirs over the root of their number."""

    output = "value"

    def compute(self) -> Estimate:
        """Return the mean with its standard error, and the value of each image."""
        self.seen.check()
        values, ids = self.rows[:, 0], sorted(sample.id for sample in self.seen.scored)
        per_sample = dict(zip(ids, values.tolist(), strict=True))
        found = replace(self.seen.jackknifed(float(values.mean()), []), per_sample=per_sample)
        if len(values) < 2:
            return found
        stderr = float(values.std(ddof=1) / np.sqrt(len(values)))
        half = NORMAL_975 * stderr
        return replace(found, stderr=stderr, interval=(found.value - half, found.value + half), method="images")
