"""The metric `colour_accuracy`: the share of images whose strongest channel is the colour asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from diffusionbench.axes import Sample
from diffusionbench.errors import RequestError
from diffusionbench.judges import Extractor
from diffusionbench.metrics import MetricSpec
from diffusionbench.references import Reference
from diffusionbench.stats import Estimate, wilson
from diffusionbench_colours import TEXTS


class ColourAccuracy:
    """Images are independent, so the interval is Wilson's."""

    def __init__(self, reference: Reference | None, extractor: Extractor) -> None:
        self._correct: list[float] = []

    def update(self, outputs: Mapping[str, np.ndarray], samples: Sequence[Sample]) -> None:
        """Take one batch; see `diffusionbench.metrics.Metric.update`."""
        strange = [sample.id for sample in samples if sample.prompt not in TEXTS]
        if strange:
            raise RequestError(f"image {strange[0]} was not made for one of: {', '.join(TEXTS)}.")
        strongest = outputs["features"].argmax(axis=1)
        asked = [TEXTS.index(str(sample.prompt)) for sample in samples]
        self._correct += (strongest == asked).astype(float).tolist()

    def compute(self) -> Estimate:
        """The share in 0..1 over everything seen."""
        count = len(self._correct)
        if count == 0:
            raise RequestError("metric 'colour_accuracy' needs at least one image.")
        correct = int(sum(self._correct))
        return Estimate(
            value=correct / count,
            stderr=None,
            interval=wilson(correct, count),
            method="wilson",
            scored=count,
            per_sample=self._correct,
        )


COLOUR_ACCURACY = MetricSpec(
    key="colour_accuracy",
    title="Share of images whose strongest channel is the colour asked for",
    higher_is_better=True,
    extractor="mean_colour",
    needs="nothing",
    min_samples=1,
    source="this example",
    create=ColourAccuracy,
)
