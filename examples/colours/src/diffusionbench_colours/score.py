"""The metric `colour_accuracy`: the share of images whose strongest channel is the colour asked for."""

from collections.abc import Sequence

import numpy as np

from diffusionbench.errors import RequestError
from diffusionbench.metrics.metric import Context, Metric
from diffusionbench.sample import Sample
from diffusionbench.specs import MetricSpec
from diffusionbench.stats import Estimate
from diffusionbench_colours import NAMES


class ColourAccuracy(Metric):
    def __init__(self, spec: MetricSpec, context: Context) -> None:
        super().__init__(spec, context)
        self._correct: list[float] = []

    def take(self, rows: np.ndarray, samples: Sequence[Sample]) -> None:
        """Compare a batch of mean colours [b, 3] with the classes asked for."""
        for row, sample in zip(rows, samples, strict=True):
            if sample.label is None or not 0 <= sample.label < len(NAMES):
                raise RequestError(f"image {sample.id} was not made for one of: {', '.join(NAMES)}.")
            self._correct.append(float(row.argmax() == sample.label))

    def compute(self) -> Estimate:
        """Return the share in 0..1 over everything seen."""
        self.seen.check()
        return self.seen.share(self._correct)
