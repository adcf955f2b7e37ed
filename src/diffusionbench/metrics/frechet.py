"""Frechet distance between two sets of features, from streamed moments, and the metrics built on it.

|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2), in float64. The last term is the sum of the square roots of the
eigenvalues of F^T S2 F for any F with F F^T = S1: no complex numbers, no general matrix square root.

Source: Heusel et al. 2017 (arXiv 1706.08500); Dowson and Landau 1982.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from diffusionbench.errors import RequestError
from diffusionbench.metrics import MetricSpec
from diffusionbench.metrics.metric import Context, Metric
from diffusionbench.moments import Moments, as_matrix, check_width, checked_moments, load_moments, moments
from diffusionbench.sample import Sample
from diffusionbench.stats import GROUPS, Estimate

__all__ = ["FewSamples", "Moments", "frechet_distance", "frechet_from_features", "load_moments", "moments"]

# Width of the blocks in which triangular matrices are multiplied: the fastest of 128, 256 and 512 at d = 2048.
_TILE = 256

# An eigenvalue below minus this (relative above 1) means that a matrix is no covariance: the square root would have
# an imaginary part above 1e-3, which the reference implementations refuse as well.
_NEGATIVE = 1e-6


def frechet_distance(mean_a: Any, cov_a: Any, mean_b: Any, cov_b: Any) -> float:
    """Return the squared Frechet distance between two Gaussians; tiny negative rounding is 0.

    Args:
        mean_a, mean_b: [d].
        cov_a, cov_b: [d, d], symmetric and positive semi-definite; may be singular.

    Raises:
        RequestError: if shapes disagree, a value is not finite, or a matrix is not a covariance.
    """
    mean_a, cov_a = checked_moments(mean_a, cov_a, "first moments")
    mean_b, cov_b = checked_moments(mean_b, cov_b, "second moments")
    if mean_a.shape != mean_b.shape:
        raise RequestError(
            f"the first moments have width {len(mean_a)}, the second {len(mean_b)}. Take both from the same judge."
        )
    factor_a, factor_b = _factor(cov_a), _factor(cov_b)
    if not factor_a.triangular and not factor_b.triangular:
        # Singular values keep the digits that square roots of near-zero eigenvalues lose.
        root = float(np.linalg.svd(factor_a.matrix.T @ factor_b.matrix, compute_uv=False).sum())
    elif not factor_b.triangular:
        root = _root_trace(factor_b, cov_a)
    else:
        root = _root_trace(factor_a, cov_b)
    return _distance(mean_a - mean_b, float(np.trace(cov_a)), float(np.trace(cov_b)), root)


def frechet_from_features(a: Any, b: Any) -> float:
    """Return the squared Frechet distance between two sets of features [n, d], [m, d] of at least two rows each.

    With no more samples than dimensions the trace comes from products of the samples themselves: faster and more
    exact than singular covariances.

    Raises:
        RequestError: if widths differ, rows are too few, or a value is not finite.
    """
    a = as_matrix(a, "first features", min_rows=2)
    b = as_matrix(b, "second features", min_rows=2)
    check_width(a, b)
    few_a, few_b = (len(rows) <= rows.shape[1] for rows in (a, b))
    if few_a and few_b:
        (mean_a, x), (mean_b, y) = _centred(a), _centred(b)
        root = float(np.linalg.svd(x @ y.T, compute_uv=False).sum())
        return _distance(mean_a - mean_b, float((x * x).sum()), float((y * y).sum()), root)
    if few_a:
        return FewSamples(a, *moments(b)).distance()
    if few_b:
        return FewSamples(b, *moments(a)).distance()
    return frechet_distance(*moments(a), *moments(b))


class FewSamples:
    """Distances of a small set and of its subsets to fixed moments, through one n x n matrix of products.

    Args:
        features: [n, d] with n at most about d.
        mean, cov: the fixed moments, float64.
    """

    def __init__(self, features: np.ndarray, mean: np.ndarray, cov: np.ndarray) -> None:
        self._rows = features.astype(np.float64) - mean
        # Centring once more, on the set's own mean, keeps the products small where the means are far apart.
        self._offset = self._rows.mean(axis=0)
        self._rows -= self._offset
        self._trace = float(np.trace(cov))
        self._products = self._rows @ cov @ self._rows.T

    def distance(self, keep: np.ndarray | None = None) -> float:
        """Return the distance of the chosen rows (bool [n], all where None); at least two."""
        rows, products = self._rows, self._products
        if keep is not None:
            rows, products = rows[keep], products[np.ix_(keep, keep)]
        mean = rows.mean(axis=0)
        rows = rows - mean
        products = products - products.mean(axis=0)
        products -= products.mean(axis=1, keepdims=True)
        root = _roots(products / (len(rows) - 1))
        return _distance(self._offset + mean, float((rows * rows).sum()) / (len(rows) - 1), self._trace, root)


class _Factor(NamedTuple):
    """F float64 [d, r] with F F^T = a covariance."""

    matrix: np.ndarray
    triangular: bool


def _factor(cov: np.ndarray) -> _Factor:
    """Return the Cholesky factor at full rank, scaled eigenvectors of the r positive values below."""
    floor = len(cov) * np.finfo(np.float64).eps
    try:
        lower = np.linalg.cholesky(cov)
    except np.linalg.LinAlgError:
        pass
    else:
        # Rounding can carry Cholesky through a singular matrix; its pivots tell.
        pivots = np.diag(lower) ** 2
        if pivots.min() > floor * pivots.max():
            return _Factor(lower, triangular=True)
    values, vectors = np.linalg.eigh(cov)
    if values[0] < -_NEGATIVE * max(1.0, values[-1]):
        raise RequestError(
            f"a covariance has the eigenvalue {values[0]:.3g}, so it is not one. Compute it again from the features."
        )
    kept = values > floor * values[-1]
    return _Factor(vectors[:, kept] * np.sqrt(values[kept]), triangular=False)


def _root_trace(factor: _Factor, cov: np.ndarray) -> float:
    """Return tr (F F^T cov)^(1/2)."""
    if not factor.triangular:
        return _roots(factor.matrix.T @ cov @ factor.matrix)
    # Block by block, past the zeros above the diagonal of F and without the upper half of the result, which
    # `eigvalsh` does not read: a third of the work of two full products.
    lower, size = factor.matrix, len(cov)
    right, product = np.empty((size, size)), np.zeros((size, size))
    for start in range(0, size, _TILE):
        tile = slice(start, start + _TILE)
        right[:, tile] = cov[:, start:] @ lower[start:, tile]
    for start in range(0, size, _TILE):
        tile, done = slice(start, start + _TILE), slice(0, start + _TILE)
        product[tile, done] = lower[start:, tile].T @ right[start:, done]
    return _roots(product)


def _roots(product: np.ndarray) -> float:
    """Return the sum of square roots of the eigenvalues of a symmetric matrix [r, r]; only its lower half is read.

    Negative eigenvalues are rounding, so 0.
    """
    if product.size == 0:
        return 0.0
    values = np.linalg.eigvalsh(product)
    if values[0] < -_NEGATIVE * max(1.0, values[-1]):
        raise RequestError(
            f"a product of covariances has the eigenvalue {values[0]:.3g}, so one of them is not a covariance. "
            f"Compute both again from the features."
        )
    return float(np.sqrt(np.maximum(values, 0.0)).sum())


def _centred(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean [d], and rows X [n, d] with X^T X = the unbiased covariance."""
    rows = features.astype(np.float64)
    mean = rows.mean(axis=0)
    return mean, (rows - mean) / np.sqrt(len(rows) - 1)


def _distance(shift: np.ndarray, trace_a: float, trace_b: float, root: float) -> float:
    return max(0.0, float(shift @ shift) + trace_a + trace_b - 2.0 * root)


class FrechetMetric(Metric):
    """Frechet distance of the generated images to the reference's moments.

    Moments are summed over `moments.BLOCK` images at a time in the order of ids, so that neither parts nor batches nor
    order of arrival change a bit of the value; those of a jackknife group are taken from the sum.
    """

    def __init__(self, spec: MetricSpec, context: Context) -> None:
        super().__init__(spec, context)
        assert self.reference is not None
        self._mean, self._cov = checked_moments(*self.reference.moments(), f"reference '{self.reference.name}'")

    def take(self, rows: np.ndarray, samples: Sequence[Sample]) -> None:
        """See `Metric.take`.

        Raises:
            RequestError: if the width is not that of the reference's moments.
        """
        if rows.shape[1] != len(self._mean):
            raise RequestError(
                f"metric '{self.spec.key}': features have width {rows.shape[1]}, the reference's moments "
                f"{len(self._mean)}. Take both from the same judge."
            )
        super().take(rows, samples)

    def compute(self) -> Estimate:
        """Return the distance with its jackknife over groups of images, the reference fixed."""
        self.seen.check()
        return self.seen.jackknifed(*self.distances())

    def distances(self) -> tuple[float, list[float]]:
        """Return the distance, and that without each group of images; none where a group is empty."""
        rows, groups, defined = self.rows, self.seen.groups, self.seen.groups_filled()
        if len(rows) <= rows.shape[1]:
            few = FewSamples(rows, self._mean, self._cov)
            value = few.distance()
            replicates = [few.distance(groups != group) for group in range(GROUPS)] if defined else []
            return value, replicates
        whole = Moments(rows.shape[1]).update(rows)
        value = frechet_distance(*whole.compute(), self._mean, self._cov)
        # All replicates share the factor of the reference.
        factor, trace = _factor(self._cov), float(np.trace(self._cov))
        replicates = []
        for group in range(GROUPS if defined else 0):
            mean, cov = whole.without(Moments(rows.shape[1]).update(rows[groups == group]))
            replicates.append(_distance(mean - self._mean, float(np.trace(cov)), trace, _root_trace(factor, cov)))
        return value, replicates


class SpatialFrechetMetric(FrechetMetric):
    """sFID; provisional for as long as nobody has compared it with a published value."""

    def compute(self) -> Estimate:
        """See `FrechetMetric.compute`."""
        return replace(super().compute(), status="provisional", reason="not checked against a published value")
