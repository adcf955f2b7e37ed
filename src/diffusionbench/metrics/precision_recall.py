"""Improved precision and recall: the share of one set inside the nearest-neighbour balls of the other.

Source: Kynkaanniemi et al. 2019 (arXiv 1904.06991).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from diffusionbench.errors import RequestError
from diffusionbench.metrics.metric import Metric
from diffusionbench.moments import as_matrix, check_width
from diffusionbench.stats import GROUPS, Estimate

_NEIGHBOURS = 3

# Numbers in one block of distances: 64 MB in float64.
_BLOCK_NUMBERS = 8_000_000

# Squared distances below this share of the largest squared norm are rounding of |x|^2 + |y|^2 - 2 x.y: equal points.
_EQUAL = 1e-13


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
    generated, reference = _prepared(generated, reference, k)
    precision = _inside(generated, reference, _radii(reference, k)).mean()
    recall = _inside(reference, generated, _radii(generated, k)).mean()
    return float(precision), float(recall)


def _prepared(generated: Any, reference: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return both sets in float64, moved so that the reference's mean is 0: distances stay, rounding shrinks."""
    if k < 1:
        raise RequestError(f"precision and recall need k >= 1 neighbours, got {k}. Use 3, the published value.")
    generated = as_matrix(generated, "generated features", min_rows=k + 1).astype(np.float64)
    reference = as_matrix(reference, "reference features", min_rows=k + 1).astype(np.float64)
    check_width(generated, reference)
    centre = reference.mean(axis=0)
    return generated - centre, reference - centre


def _distances(x: np.ndarray, y: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Give squared distances [b, m] from blocks of rows of x to all of y."""
    x_norms, y_norms = (np.einsum("nd,nd->n", rows, rows) for rows in (x, y))
    floor = _EQUAL * max(x_norms.max(), y_norms.max())
    step = max(1, _BLOCK_NUMBERS // len(y))
    for start in range(0, len(x), step):
        block = slice(start, start + step)
        squared = x[block] @ y.T
        squared *= -2.0
        squared += x_norms[block, None]
        squared += y_norms
        squared[squared < floor] = 0.0
        yield block, squared


def _radii(points: np.ndarray, k: int) -> np.ndarray:
    """Return the squared distance [n] from each point to its k-th nearest other point."""
    radii = np.empty(len(points))
    for block, squared in _distances(points, points):
        radii[block] = np.partition(squared, k, axis=1)[:, k]
    return radii


def _inside(points: np.ndarray, centres: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return bool [n], true where a point lies in a ball."""
    inside = np.empty(len(points), dtype=bool)
    for block, squared in _distances(points, centres):
        inside[block] = (squared <= radii).any(axis=1)
    return inside


def _radii_without_groups(points: np.ndarray, groups: np.ndarray, k: int) -> np.ndarray:
    """Return squared radii [GROUPS, n] when each group is left out; -1, a ball around nothing, for its own points."""
    radii = np.empty((GROUPS, len(points)))
    members = [np.flatnonzero(groups == group) for group in range(GROUPS)]
    for block, squared in _distances(points, points):
        # The k + 1 nearest of each group hold every candidate; the point itself is one of them.
        nearest = [np.partition(squared[:, index], min(k, len(index) - 1), axis=1)[:, : k + 1] for index in members]
        for group in range(GROUPS):
            others = np.concatenate([nearest[other] for other in range(GROUPS) if other != group], axis=1)
            radii[group, block] = np.partition(others, k, axis=1)[:, k]
    radii[groups, np.arange(len(points))] = -1.0
    return radii


class PrecisionMetric(Metric):
    """Share of generated images inside the reference's balls; images are independent, so the interval is Wilson's."""

    def compute(self) -> Estimate:
        """Return the precision with its Wilson interval."""
        self.seen.check()
        generated, reference = _prepared(self.rows, self.real_features, _NEIGHBOURS)
        inside = _inside(generated, reference, _radii(reference, _NEIGHBOURS))
        return self.seen.share(inside.astype(float).tolist())


class RecallMetric(Metric):
    """Share of reference images inside the balls of the generated ones.

    The reference points are fixed and the balls are drawn, so the uncertainty is the jackknife over generated images.
    """

    def compute(self) -> Estimate:
        """Return the recall with its jackknife over groups of images."""
        self.seen.check()
        rows, groups = self.rows, self.seen.groups
        generated, reference = _prepared(rows, self.real_features, _NEIGHBOURS)
        value = float(_inside(reference, generated, _radii(generated, _NEIGHBOURS)).mean())
        replicates: list[float] = []
        if self.seen.groups_filled():
            radii = _radii_without_groups(generated, groups, _NEIGHBOURS)
            inside = np.zeros(GROUPS)
            for _, squared in _distances(reference, generated):
                inside += [(squared <= radii[group]).any(axis=1).sum() for group in range(GROUPS)]
            replicates = (inside / len(reference)).tolist()
        return self.seen.jackknifed(value, replicates)
