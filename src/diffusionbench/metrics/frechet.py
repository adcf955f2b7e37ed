"""Frechet distance between two sets of features, from streamed moments, and the metrics built on it.

|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2), in float64. The last term is the sum of the square roots of the
eigenvalues of F^T S2 F for any F with F F^T = S1: no complex numbers, no general matrix square root.

Source: Heusel et al. 2017 (arXiv 1706.08500); Dowson and Landau 1982.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffusionbench.archives import Archive
from diffusionbench.axes import Sample
from diffusionbench.errors import DataError, RequestError
from diffusionbench.judges import Extractor
from diffusionbench.metrics import MetricSpec
from diffusionbench.metrics.intake import Intake, as_matrix, check_width
from diffusionbench.references import Reference
from diffusionbench.shown import few
from diffusionbench.stats import GROUPS, Estimate, Grouping

# Rows held back before they are folded into the moments. Folding whole blocks, in the order seen, makes the result
# independent of batch size to the last bit; 512 rows are enough for a fast product.
_BLOCK = 512

# Width of the blocks in which triangular matrices are multiplied: the fastest of 128, 256 and 512 at d = 2048.
_TILE = 256

# An eigenvalue below minus this (relative above 1) means that a matrix is no covariance: the square root would have
# an imaginary part above 1e-3, which the reference implementations refuse as well.
_NEGATIVE = 1e-6


class Moments:
    """Mean and covariance of a stream of features in float64, in memory that does not grow with their number.

    Blocks are centred before their products are summed, so a mean far from zero costs no digits.

    Args:
        dim: feature width d, or None to take it from the first rows.

    Source: Chan, Golub and LeVeque 1983, for merging centred sums.
    """

    def __init__(self, dim: int | None = None) -> None:
        self.dim = dim
        self._folded = 0
        self._mean: np.ndarray | None = None
        self._scatter: np.ndarray | None = None
        self._pending: list[np.ndarray] = []
        self._waiting = 0

    @property
    def count(self) -> int:
        """Rows seen."""
        return self._folded + self._waiting

    def update(self, features: Any) -> Moments:
        """Take rows [n, d], NumPy or torch; returns itself.

        Raises:
            RequestError: if the width differs from the rows before, or a value is not finite.
        """
        rows = as_matrix(features, "features", min_rows=0)
        self._check_dim(rows.shape[1])
        while len(rows):
            part, rows = rows[: _BLOCK - self._waiting], rows[_BLOCK - self._waiting :]
            # Callers may reuse their buffer.
            self._pending.append(part.copy())
            self._waiting += len(part)
            if self._waiting == _BLOCK:
                self._fold()
        return self

    def merge(self, other: Moments) -> Moments:
        """Take all that another accumulator has seen, which stays as it is; returns itself.

        Raises:
            RequestError: if the widths differ.
        """
        if other.dim is not None:
            self._check_dim(other.dim)
        # The loop below would not end on its own growing list.
        pending = list(other._pending)
        if other._mean is not None and other._scatter is not None:
            self._combine(other._folded, other._mean, other._scatter)
        for rows in pending:
            self.update(rows)
        return self

    def compute(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean float64 [d] and unbiased covariance (divisor n - 1) float64 [d, d] of everything seen.

        Raises:
            RequestError: if fewer than two rows were seen.
        """
        if self.count < 2:
            raise RequestError(f"a covariance needs at least 2 images, got {self.count}. Give more images.")
        whole = Moments(self.dim)
        if self._mean is not None and self._scatter is not None:
            whole._combine(self._folded, self._mean, self._scatter)
        whole._pending, whole._waiting = list(self._pending), self._waiting
        whole._fold()
        assert whole._mean is not None
        assert whole._scatter is not None
        return whole._mean, whole._scatter / (whole._folded - 1)

    def _check_dim(self, dim: int) -> None:
        if self.dim is None:
            self.dim = dim
        elif self.dim != dim:
            raise RequestError(f"features have width {dim}, those before had {self.dim}. Use one extractor throughout.")

    def _fold(self) -> None:
        if self._waiting:
            rows = np.concatenate(self._pending).astype(np.float64)
            self._pending, self._waiting = [], 0
            mean = rows.mean(axis=0)
            rows -= mean
            self._combine(len(rows), mean, rows.T @ rows)

    def _combine(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        if self._mean is None or self._scatter is None:
            self._folded, self._mean, self._scatter = count, mean.copy(), scatter.copy()
            return
        total = self._folded + count
        shift = mean - self._mean
        self._scatter += scatter
        # One factor on both sides, so that the sum stays symmetric to the bit.
        scaled = shift * np.sqrt(self._folded * count / total)
        self._scatter += np.outer(scaled, scaled)
        self._mean += shift * (count / total)
        self._folded = total


def moments(features: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean float64 [d] and unbiased covariance float64 [d, d] of features [n, d].

    Raises:
        RequestError: if there are fewer than two rows, or a value is not finite.
    """
    return Moments().update(features).compute()


def load_moments(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean float64 [d] and covariance float64 [d, d] from an `.npz` file of reference statistics.

    The keys are (`mu`, `sigma`), else (`ref_mu`, `ref_sigma`).

    Raises:
        DataError: if the file cannot be read, has neither pair of keys, or does not hold a mean and a covariance.
    """
    path, what = Path(path), f"reference statistics {path}"
    if not path.exists():
        raise DataError(f"{what}: no such file. Give the path of an .npz file.")
    with Archive(path) as archive:
        for keys in (("mu", "sigma"), ("ref_mu", "ref_sigma")):
            if set(keys) <= set(archive.keys):
                mean, cov = map(archive.read, keys)
                if not {mean.dtype.kind, cov.dtype.kind} <= set("fiu"):
                    raise DataError(f"{what}: hold {mean.dtype} and {cov.dtype}. Give real numbers.")
                try:
                    return _checked(mean, cov, what)
                except RequestError as error:
                    raise DataError(str(error)) from None
    raise DataError(
        f"{what}: need the keys mu and sigma (or ref_mu and ref_sigma), found {few(archive.keys) or 'none'}. Give a "
        "file of means and covariances."
    )


def frechet_distance(mean_a: Any, cov_a: Any, mean_b: Any, cov_b: Any) -> float:
    """Squared Frechet distance between two Gaussians; tiny negative rounding is 0.

    Args:
        mean_a, mean_b: [d].
        cov_a, cov_b: [d, d], symmetric and positive semi-definite; may be singular.

    Raises:
        RequestError: if shapes disagree, a value is not finite, or a matrix is not a covariance.
    """
    mean_a, cov_a = _checked(mean_a, cov_a, "first moments")
    mean_b, cov_b = _checked(mean_b, cov_b, "second moments")
    if mean_a.shape != mean_b.shape:
        raise RequestError(
            f"the first moments have width {len(mean_a)}, the second {len(mean_b)}. Take both from the same extractor."
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
    """Squared Frechet distance between two sets of features [n, d], [m, d] of at least two rows each.

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
        """Distance of the chosen rows (bool [n], all where None); at least two."""
        rows, products = self._rows, self._products
        if keep is not None:
            rows, products = rows[keep], products[np.ix_(keep, keep)]
        mean = rows.mean(axis=0)
        rows = rows - mean
        products = products - products.mean(axis=0)
        products -= products.mean(axis=1, keepdims=True)
        root = _roots(products / (len(rows) - 1))
        return _distance(self._offset + mean, float((rows * rows).sum()) / (len(rows) - 1), self._trace, root)


def _checked(mean: Any, cov: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Both as float64, the covariance exactly symmetric; RequestError where they cannot be moments."""
    mean, cov = np.asarray(mean, dtype=np.float64), np.asarray(cov, dtype=np.float64)
    if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
        raise RequestError(f"{what}: need a mean [d] and a covariance [d, d], got shapes {mean.shape} and {cov.shape}.")
    if not (np.isfinite(mean).all() and np.isfinite(cov).all()):
        raise RequestError(f"{what}: hold a value that is not finite. Compute them again from finite features.")
    if np.array_equal(cov, cov.T):
        return mean, cov
    if np.abs(cov - cov.T).max() > 1e-5 * np.abs(cov).max():
        raise RequestError(f"{what}: the covariance is not symmetric. Compute it again.")
    return mean, (cov + cov.T) / 2


class _Factor(NamedTuple):
    """F float64 [d, r] with F F^T = a covariance."""

    matrix: np.ndarray
    triangular: bool


def _factor(cov: np.ndarray) -> _Factor:
    """The Cholesky factor at full rank, scaled eigenvectors of the r positive values below."""
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
    """tr (F F^T cov)^(1/2)."""
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
    """Sum of the square roots of the eigenvalues of a symmetric matrix [r, r], of which only the lower half is read.

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
    """Mean [d], and rows X [n, d] with X^T X = the unbiased covariance."""
    rows = features.astype(np.float64)
    mean = rows.mean(axis=0)
    return mean, (rows - mean) / np.sqrt(len(rows) - 1)


def _distance(shift: np.ndarray, trace_a: float, trace_b: float, root: float) -> float:
    return max(0.0, float(shift @ shift) + trace_a + trace_b - 2.0 * root)


class FrechetMetric:
    """Frechet distance of the generated images to the reference's moments, streamed in `GROUPS` groups of images.

    The group of an image follows from those with smaller ids. So images are folded in the order of ids, and one that
    comes early is held back until the smaller ids are there, or until the end where they never come.
    """

    def __init__(self, key: str, reference: Reference, extractor: Extractor) -> None:
        self._intake = Intake(key, "features", min_samples=2)
        self._mean, self._cov = _checked(*reference.moments(extractor), f"reference '{reference.name}'")
        self._dim = len(self._mean)
        self._groups = [Moments(self._dim) for _ in range(GROUPS)]
        self._grouping = Grouping()
        self._next = 0
        # By id; None for an image that could not be scored.
        self._early: dict[int, tuple[Sample, np.ndarray] | None] = {}
        # All rows, while they are no more than the dimensions; None from then on.
        self._rows: list[np.ndarray] | None = []

    def update(self, outputs: Mapping[str, np.ndarray], samples: Sequence[Sample]) -> None:
        """Take one batch (`Metric.update`)."""
        rows, kept = self._intake.admit(outputs, samples)
        if rows.shape[1] != self._dim:
            raise RequestError(
                f"metric '{self._intake.key}': features have width {rows.shape[1]}, the reference's moments "
                f"{self._dim}. Take both from the same extractor."
            )
        self._early.update(dict.fromkeys(sample.id for sample in samples))
        self._early.update({sample.id: (sample, row) for sample, row in zip(kept, rows, strict=True)})
        first = self._next
        while self._next in self._early:
            self._next += 1
        self._fold(range(first, self._next))
        if self._rows is not None:
            self._rows.append(rows)
            if len(self._intake.scored) > self._dim:
                self._rows = None

    def _fold(self, ids: Iterable[int]) -> None:
        """Give images that were held back to the moments of their groups, in this order."""
        ready: list[list[np.ndarray]] = [[] for _ in range(GROUPS)]
        for held in (self._early.pop(index) for index in ids):
            if held is not None:
                ready[self._grouping(held[0])].append(held[1])
        for moments_of_group, rows in zip(self._groups, ready, strict=True):
            if rows:
                moments_of_group.update(np.stack(rows))

    def compute(self) -> Estimate:
        """Distance with its jackknife over groups of images, the reference fixed (`Metric.compute`)."""
        self._intake.check()
        defined = self._intake.groups_filled()
        if self._rows is not None:
            rows, groups = self._intake.by_id(self._rows)
            few = FewSamples(rows, self._mean, self._cov)
            value = few.distance()
            replicates = [few.distance(groups != group) for group in range(GROUPS)] if defined else []
        else:
            self._fold(sorted(self._early))
            value = frechet_distance(*self._without(None), self._mean, self._cov)
            factor = _factor(self._cov) if defined else None
            replicates = [self._replicate(group, factor) for group in range(GROUPS)] if factor is not None else []
        return self._intake.jackknifed(value, replicates)

    def _without(self, group: int | None) -> tuple[np.ndarray, np.ndarray]:
        merged = Moments(self._dim)
        for index, part in enumerate(self._groups):
            if index != group:
                merged.merge(part)
        return merged.compute()

    def _replicate(self, group: int, factor: _Factor) -> float:
        """The distance without one group; the factor of the reference is shared by all of them."""
        mean, cov = self._without(group)
        root = _root_trace(factor, cov)
        return _distance(mean - self._mean, float(np.trace(cov)), float(np.trace(self._cov)), root)


FID = MetricSpec(
    key="fid",
    title="Frechet Inception Distance",
    higher_is_better=False,
    extractor="inception",
    needs="moments",
    min_samples=2,
    source="Heusel et al. 2017 (arXiv 1706.08500)",
    create=partial(FrechetMetric, "fid"),
)

FD_DIGITS = MetricSpec(
    key="fd_digits",
    title="Frechet distance in features of the digits judge",
    higher_is_better=False,
    extractor="digits",
    needs="moments",
    min_samples=2,
    source="Heusel et al. 2017 (arXiv 1706.08500), with the digits judge instead of Inception",
    create=partial(FrechetMetric, "fd_digits"),
)
