"""Improved precision and recall: the share of one set inside the nearest-neighbour balls of the other.

Source: Kynkaanniemi et al. 2019 (arXiv 1904.06991).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from diffusionbench.errors import RequestError
from diffusionbench.metrics.metric import Metric
from diffusionbench.metrics.neighbours import Points, inside, radii
from diffusionbench.moments import as_matrix, check_width
from diffusionbench.stats import Estimate

_NEIGHBOURS = 3


def precision_recall(generated: Any, reference: Any, k: int = _NEIGHBOURS) -> tuple[float, float]:
    """Return precision and recall, both in 0..1.

    Args:
        generated: features [n, d], NumPy or torch, n > k.
        reference: features [m, d] of real images, m > k.
        k: a ball reaches to the k-th nearest other point of its own set; its rim belongs to it.

    Returns:
        precision: share of generated points inside at least one ball of the reference.
        recall: share of reference points inside at least one ball of the generated set.

    Raises:
        RequestError: if a set has no more than k points, widths differ, or a value is not finite.
    """
    made, real = _prepared(generated, reference, k)
    precision, recall = inside(made, real, radii(real, k)).mean(), inside(real, made, radii(made, k)).mean()
    return float(precision), float(recall)


def _prepared(generated: Any, reference: Any, k: int) -> tuple[Points, Points]:
    """Return both sets seen from the reference's mean."""
    if k < 1:
        raise RequestError(f"precision and recall need k >= 1 neighbours, got {k}. Use 3, the published value.")
    generated = as_matrix(generated, "generated features", min_rows=k + 1)
    reference = as_matrix(reference, "reference features", min_rows=k + 1)
    check_width(generated, reference)
    centre = reference.mean(axis=0, dtype=np.float64)
    return Points(generated, centre), Points(reference, centre)


class PrecisionMetric(Metric):
    """Share of generated images inside the reference's balls; images are independent, so the interval is Wilson's."""

    def compute(self) -> Estimate:
        """Return the precision with its Wilson interval."""
        self.seen.check()
        generated, reference = _prepared(self.rows, self.real_features, _NEIGHBOURS)
        (hits,) = inside(generated, reference, radii(reference, _NEIGHBOURS))
        return self.seen.share(hits.astype(float).tolist())


class RecallMetric(Metric):
    """Share of reference images inside the balls of the generated ones.

    The reference points are fixed and the balls are drawn, so the uncertainty is the jackknife over generated images.
    """

    def compute(self) -> Estimate:
        """Return the recall with its jackknife over groups of images."""
        self.seen.check()
        generated, reference = _prepared(self.rows, self.real_features, _NEIGHBOURS)
        groups = self.seen.groups if self.seen.groups_filled() else None
        value, *replicates = inside(reference, generated, radii(generated, _NEIGHBOURS, groups)).mean(axis=1).tolist()
        return self.seen.jackknifed(value, replicates)
