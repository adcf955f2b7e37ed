"""FDr: Frechet distances over those of ImageNet's validation images, so that real images score 1; and their mean, FDr6.

FDr_X = FD_X(generated, training set) / FD_X(validation set, training set), the latter a published constant.
Source: arXiv 2604.28190.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from diffusionbench.judges.judge import Evidence
from diffusionbench.metrics import METRICS, MetricSpec
from diffusionbench.metrics.frechet import FrechetMetric
from diffusionbench.metrics.metric import Context, Metric
from diffusionbench.references.statistics import KNOWN
from diffusionbench.sample import Sample
from diffusionbench.stats import Estimate

# 50,000 validation images against the training set, both at 256 x 256. MAE's has one digit: a rounding of up to 12 %.
FDR_CONSTANTS: Final = {
    "inception": 1.68,
    "convnext": 56.87,
    "dinov2": 14.19,
    "mae": 0.04,
    "siglip": 0.60,
    "clip": 5.60,
}
_OTHER: Final = "its divisor is of ImageNet's training set, and the reference is not known to be that"


def _said(estimate: Estimate, known: bool) -> Estimate:
    """Return an estimate with what is to be said of its reference."""
    return estimate if known else replace(estimate, status="provisional", reason=_OTHER)


class FdrMetric(FrechetMetric):
    """The Frechet distance in one representation over its constant."""

    @property
    def is_known(self) -> bool:
        """Whether the reference is a file of statistics that was published for this."""
        assert self.reference is not None
        return self.reference.reference.digest in KNOWN

    def distances(self) -> tuple[float, list[float]]:
        """See `FrechetMetric.distances`."""
        constant = FDR_CONSTANTS[self.spec.judges[0].removesuffix("_upstream")]
        value, replicates = super().distances()
        return value / constant, [one / constant for one in replicates]

    def compute(self) -> Estimate:
        """Return FDr with its jackknife."""
        return _said(super().compute(), self.is_known)


class Fdr6Metric(Metric):
    """The mean of FDr over six representations of the same images; an image counts where all six are finite."""

    def __init__(self, spec: MetricSpec, context: Context) -> None:
        super().__init__(spec, context)
        self._parts = [FdrMetric(METRICS[f"fdr_{judge}"], context) for judge in spec.judges]
        for part in self._parts:
            part.seen = self.seen

    def update(self, evidence: Mapping[str, Evidence], samples: Sequence[Sample]) -> None:
        """See `Metric.update`."""
        arrays = [self.seen.rows_of(evidence[judge], self.output, len(samples)) for judge in self.spec.judges]
        _, kept = self.seen.add({self.output: np.concatenate(arrays, axis=1)}, self.output, samples)
        finite = np.isin([sample.id for sample in samples], [sample.id for sample in kept])
        for part, rows in zip(self._parts, arrays, strict=True):
            part.take(rows if finite.all() else rows[finite], kept)

    def compute(self) -> Estimate:
        """Return the mean with its jackknife, and its six parts under their own keys."""
        self.seen.check()
        found = [part.distances() for part in self._parts]
        parts = {
            part.spec.key: _said(self.seen.jackknifed(*one), part.is_known)
            for part, one in zip(self._parts, found, strict=True)
        }
        value = float(np.mean([one for one, _ in found]))
        whole = self.seen.jackknifed(value, np.mean([left for _, left in found], axis=0).tolist())
        return replace(_said(whole, all(part.is_known for part in self._parts)), parts=parts)
