"""Kernel Inception Distance: unbiased squared MMD with a cubic kernel, averaged over random subsets.

Source: Binkowski et al. 2018 (arXiv 1801.01401).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from diffusionbench.errors import RequestError
from diffusionbench.metrics.metric import Metric
from diffusionbench.moments import as_matrix, check_width
from diffusionbench.stats import GROUPS, Estimate

# The published setting and its legacy random stream, as torch-fidelity draws it.
_SUBSETS, _SUBSET_SIZE, _SEED = 100, 1000, 2020


def kid(
    generated: Any, reference: Any, subsets: int = _SUBSETS, subset_size: int = _SUBSET_SIZE, seed: int = _SEED
) -> tuple[float, float]:
    """Return the Kernel Inception Distance; it may be slightly negative.

    Args:
        generated: features [n, d], NumPy or torch.
        reference: features [m, d].
        subsets: how many pairs of subsets to average.
        subset_size: images of each set in a subset, at least 2, drawn without replacement.
        seed: of the legacy NumPy generator; for every subset first the generated indices, then the reference's.

    Returns:
        mean and population standard deviation over the subsets.

    Raises:
        RequestError: if a set is smaller than a subset, widths differ, or a value is not finite.
    """
    generated = as_matrix(generated, "generated features")
    reference = as_matrix(reference, "reference features")
    nothing = np.zeros(len(generated), dtype=np.int64)
    values, _ = _over_subsets(generated, reference, nothing, subsets, subset_size, seed)
    return float(values.mean()), float(values.std())


def _over_subsets(
    generated: np.ndarray, reference: np.ndarray, groups: np.ndarray, subsets: int, subset_size: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the MMD of each subset [s], and without each group of generated images [s, GROUPS] (nan if undefined).

    Raises:
        RequestError: if widths differ, or a set is smaller than a subset.
    """
    check_width(generated, reference)
    if subsets < 1 or subset_size < 2:
        raise RequestError(
            f"KID needs at least 1 subset of at least 2 images, got {subsets} of {subset_size}. Ask for more."
        )
    for rows, what in ((generated, "generated"), (reference, "reference")):
        if len(rows) < subset_size:
            raise RequestError(
                f"KID over subsets of {subset_size} needs as many {what} images, got {len(rows)}. "
                f"Give more images or a smaller subset size."
            )
    dtype = np.result_type(generated, reference)
    stream, values, without = np.random.RandomState(seed), np.empty(subsets), np.empty((subsets, GROUPS))
    for index in range(subsets):
        own, real = (stream.choice(len(rows), subset_size, replace=False) for rows in (generated, reference))
        drawn = ((generated, own), (reference, real))
        x, y = (torch.from_numpy(rows[part].astype(dtype, copy=False)) for rows, part in drawn)
        sums = _KernelSums(x, y, torch.from_numpy(groups[own]))
        keep = np.ones(GROUPS, dtype=bool)
        values[index] = sums.mmd(keep)
        for group in range(GROUPS):
            keep[group] = False
            without[index, group] = sums.mmd(keep)
            keep[group] = True
    return values, without


class _KernelSums:
    """Sums of the kernel by group of the generated rows: leaving a group out then costs no new kernel."""

    def __init__(self, x: Tensor, y: Tensor, groups: Tensor) -> None:
        member = F.one_hot(groups.long(), GROUPS).double()
        self._counts = member.sum(dim=0).numpy()
        k_xx, k_yy, k_xy = _kernel(x, x), _kernel(y, y), _kernel(x, y)
        # Within a row in the precision of the features, over rows in float64.
        self._xx = (member.T @ (k_xx @ member.to(x.dtype)).double()).numpy()
        self._trace = (member.T @ k_xx.diagonal().double()).numpy()
        self._yy = float((k_yy.sum(dim=1) - k_yy.diagonal()).double().sum()) / (len(y) * (len(y) - 1))
        self._xy = (member.T @ k_xy.mean(dim=1).double()).numpy()

    def mmd(self, keep: np.ndarray) -> float:
        """Return the unbiased squared MMD of the kept groups (bool [GROUPS]); nan with fewer than two rows."""
        count = self._counts[keep].sum()
        if count < 2:
            return float("nan")
        xx = self._xx[np.ix_(keep, keep)].sum() - self._trace[keep].sum()
        return float(xx / (count * (count - 1)) + self._yy - 2 * self._xy[keep].sum() / count)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """Return the kernel [n, m] in the precision of the features."""
    if x is y:
        # NumPy multiplies a matrix with its own transpose at half the cost.
        product = torch.from_numpy(x.numpy() @ x.numpy().T).div_(x.shape[1]).add_(1)
    else:
        product = torch.addmm(x.new_ones(1), x, y.T, alpha=1 / x.shape[1])
    return product.pow_(3)


class KidMetric(Metric):
    """KID of the generated images against the reference's features; a subset is as large as the smallest set allowed.

    The jackknife leaves a group of images out of every subset, so all replicates share one draw of subsets.
    """

    def compute(self) -> Estimate:
        """Return the mean over subsets, its jackknife, and the standard deviation over subsets under `<name>_std`."""
        self.seen.check()
        rows, groups = self.rows, self.seen.groups
        size = self.spec.min_samples
        values, without = _over_subsets(rows, self.real_features, groups, _SUBSETS, size, _SEED)
        std_key = self.spec.key.removesuffix("_mean") + "_std"
        return self.seen.jackknifed(float(values.mean()), without.mean(axis=0).tolist(), {std_key: float(values.std())})
