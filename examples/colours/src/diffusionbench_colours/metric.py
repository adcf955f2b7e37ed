"""The metric `colour_accuracy`: the share of images whose strongest channel is the colour asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffusionbench.errors import RequestError
from diffusionbench.metrics import MetricSpec
from diffusionbench.metrics.metric import Context, Metric
from diffusionbench.sample import Sample
from diffusionbench.stats import Estimate
from diffusionbench_colours import TEXTS


class ColourAccuracy(Metric):
    """Images are independent, so the interval is Wilson's."""

    def __init__(self, spec: MetricSpec, context: Context) -> None:
        super().__init__(spec, context)
        self._correct: list[float] = []

    def take(self, rows: np.ndarray, samples: Sequence[Sample]) -> None:
        """See `diffusionbench.metrics.metric.Metric.take`."""
        strange = [sample.id for sample in samples if sample.prompt not in TEXTS]
        if strange:
            raise RequestError(f"image {strange[0]} was not made for one of: {', '.join(TEXTS)}.")
        asked = [TEXTS.index(str(sample.prompt)) for sample in samples]
        self._correct += (rows.argmax(axis=1) == asked).astype(float).tolist()

    def compute(self) -> Estimate:
        """Return the share in 0..1 over everything seen."""
        self.seen.check()
        return self.seen.share(self._correct)
