"""Monge Inception Distance: the sliced 2-Wasserstein distance between two sets of features of equal size.

MIND = 3 d / (n M) * sum over M random directions u and ranks i of (sort(X u)_i - sort(Y u)_i)^2: a shift of the mean
by delta gives 3 |delta|^2 in expectation, identical sets give 0.

Source: arXiv 2605.06797; sliced distances: Rabin et al. 2011.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import torch

from diffusionbench.errors import RequestError
from diffusionbench.metrics.metric import Metric
from diffusionbench.moments import as_matrix, check_width
from diffusionbench.stats import GROUPS, Estimate

# The published setting and its random stream.
_DIRECTIONS: Final = 1000
_SEED: Final = 2020
# Directions and rows that are projected at once: 25 MB for each set of 50,000 rows, and 32 MB for a gathered tile.
_AT_ONCE: Final = 125
_TILE: Final = 4096


def mind(generated: Any, reference: Any, directions: int = _DIRECTIONS, seed: int = _SEED) -> tuple[float, float]:
    """Return the Monge Inception Distance of two sets, >= 0.

    Args:
        generated: features [n, d], NumPy or torch.
        reference: features [m, d]; of the larger set a random part of the smaller one's size counts.
        directions: how many random directions to average.
        seed: of the torch generator that draws the part and the directions.

    Returns:
        the distance, and its Monte-Carlo standard error: that of the mean over directions.

    Raises:
        RequestError: if there is no direction, widths differ, or a value is not finite.
    """
    generated = as_matrix(generated, "generated features")
    reference = as_matrix(reference, "reference features")
    values, _ = _over_directions(generated, reference, np.zeros(len(generated), np.int64), directions, seed)
    return float(values.mean()), float(values.std() / np.sqrt(directions))


def _over_directions(
    generated: np.ndarray, reference: np.ndarray, groups: np.ndarray, directions: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance along each direction [M], and the mean without each group of generated images [GROUPS].

    The latter is nan where a group has no image in the part that counts, or no other group has one.
    """
    check_width(generated, reference)
    if directions < 1:
        raise RequestError(f"MIND needs at least 1 direction, got {directions}. Use 1000, the published value.")
    generator = torch.Generator().manual_seed(seed)
    count, width = min(len(generated), len(reference)), generated.shape[1]
    larger = max(len(generated), len(reference))
    # Nothing is drawn where the sets are of one size.
    part = torch.randperm(larger, generator=generator)[:count].numpy() if larger > count else None
    x_part, y_part = (part if len(rows) > count else None for rows in (generated, reference))
    lines = torch.nn.functional.normalize(torch.randn(directions, width, generator=generator), dim=1, eps=1e-12)
    groups = (groups if x_part is None else groups[x_part]).astype(np.int8)
    sizes = np.bincount(groups, minlength=GROUPS)
    values, without, scale = np.empty(directions), np.zeros(GROUPS), 3.0 * width
    for start in range(0, directions, _AT_ONCE):
        block = lines[start : start + _AT_ONCE].numpy()
        x, y = _projected(generated, x_part, block), np.sort(_projected(reference, y_part, block), axis=1)
        order = np.argsort(x, axis=1)
        x = np.take_along_axis(x, order, axis=1)
        values[start : start + len(block)] = _apart(x, y) * scale
        for group, found in enumerate(_without_groups(x, y, groups[order], sizes)):
            without[group] += found * scale
    without[(sizes == 0) | (sizes == count)] = np.nan
    return values, without / directions


def _projected(rows: np.ndarray, part: np.ndarray | None, lines: np.ndarray) -> np.ndarray:
    """Return the products float32 [k, n] of directions [k, d] with rows [n, d], or with a part of them."""
    count = len(rows) if part is None else len(part)
    found = np.empty((len(lines), count), np.float32)
    for start in range(0, count, _TILE):
        tile = slice(start, start + _TILE)
        found[:, tile] = lines @ rows[tile if part is None else part[tile]].astype(np.float32, copy=False).T
    return found


def _apart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the mean squared difference [k] of sorted values [k, n]."""
    difference = x - y
    return np.einsum("kn,kn->k", difference, difference, dtype=np.float64) / x.shape[1]


def _without_groups(x: np.ndarray, y: np.ndarray, groups: np.ndarray, sizes: np.ndarray) -> Iterator[float]:
    """Give for each group the sum over directions of the distance between what is left of x and as many ranks of y.

    The ranks of y are evenly spaced, so that replicates differ by the images left out and by nothing else.

    Args:
        groups: of the sorted values, [k, n]; sizes: of the groups.
    """
    count = x.shape[1]
    for group, size in enumerate(sizes):
        left = count - size
        if not 0 < left < count:
            yield 0.0
            continue
        ranks = ((np.arange(left) + 0.5) * count / left).astype(np.int64)
        yield float(_apart(x[groups != group].reshape(len(x), left), np.take(y, ranks, axis=1)).sum())


class MindMetric(Metric):
    """MIND of the generated images to the reference's features; the jackknife leaves groups of images out."""

    def compute(self) -> Estimate:
        """Return the distance with its jackknife over groups of images, the reference and the directions fixed."""
        self.seen.check()
        values, without = _over_directions(self.rows, self.real_features, self.seen.groups, _DIRECTIONS, _SEED)
        return self.seen.jackknifed(float(values.mean()), without.tolist())
