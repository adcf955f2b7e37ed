"""Kendall's concordance of many draws at once, in O(n log n) a draw: counting pairs that two variables order alike.

A bootstrap resample gives each point a weight, so one merge tree serves all resamples; a permutation has an order of
its own, so its values are merged. All counts are integers below 2^53 and exact in float64.

Source: Knight 1966, JASA 61(314) (discordant pairs by merge sort); Kendall 1945 (tau-b).
"""

from __future__ import annotations

from typing import Final

import numpy as np

Array = np.ndarray

# Elements of one pass, so that it stays in a core's cache.
_PASS: Final = 1 << 17
# Blocks compared pair by pair before merging begins: sorting rows this short costs more than comparing them.
_BASE: Final = 8


def resampled_tau(a: Array, b: Array, counts: Array) -> Array:
    """Tau-b of bootstrap resamples.

    Args:
        a, b: values [n].
        counts: how often each point stands in each resample, float64 [draws, n]; ones for the sample itself.

    Returns:
        float64 [draws]; not finite where a variable is constant in the resample.
    """
    order = np.lexsort((b, a))
    x, y = _codes(a)[order], _codes(b)[order]
    groups = [_Groups(codes) for codes in (x, y, x * (y.max() + 1) + y)]
    levels = [_Level(y, width) for width in _widths(1, y.size)]
    found = []
    for part in _parts(counts):
        weights = np.ascontiguousarray(part.T[order])  # [n, draws]
        total = weights.sum(0) ** 2
        tied_a, tied_b, tied_both = (group.pairs(weights) for group in groups)
        discordant = sum((level.discordant(weights) for level in levels), np.zeros(weights.shape[1]))
        concordance = total - tied_a - tied_b + tied_both - 4 * discordant
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(np.clip(concordance / np.sqrt((total - tied_a) * (total - tied_b)), -1, 1))
    return np.concatenate(found)


def permuted_concordance(a: Array, b: Array, orders: Array) -> Array:
    """Concordant minus discordant pairs of a[i] with b[orders[i]].

    Args:
        a, b: values [n].
        orders: permutations of the n places, integers [draws, n].

    Returns:
        float64 [draws].
    """
    order = np.argsort(a, kind="stable")
    x, y = _codes(a)[order], _codes(b)
    values = int(y.max()) + 1
    untied = y.size**2 - float((np.bincount(x) ** 2).sum()) - float((np.bincount(y) ** 2).sum())
    found = []
    for part in _parts(orders):
        keys = y[part[:, order]]
        tied_both: float | Array = float(y.size)
        if x[-1] + 1 < x.size:
            # Pairs tied in a are no discordant pairs: they stand in the order of b.
            joint = np.sort(x * values + keys, axis=1)
            keys = joint % values
            tied_both = _equal_pairs(joint)
        found.append((untied + tied_both) / 2 - 2 * _inversions(keys))
    return np.concatenate(found)


def _codes(values: Array) -> Array:
    """Dense ranks from 0, int64 [n]."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _parts(rows: Array) -> list[Array]:
    return np.array_split(rows, max(1, -(-rows.size // _PASS)))


def _widths(first: int, n: int) -> list[int]:
    """Widths of the halves that are merged, doubling, until one merge covers n places."""
    return [first << level for level in range(max(0, (-(-n // first) - 1).bit_length()))]


class _Groups:
    """Points with equal codes."""

    def __init__(self, codes: Array) -> None:
        self._order = np.argsort(codes, kind="stable")
        self._starts = np.flatnonzero(np.diff(codes[self._order], prepend=-1))

    def pairs(self, weights: Array) -> Array:
        """Weight of all ordered pairs inside the groups, a point with itself among them, [draws]."""
        sums = np.add.reduceat(weights[self._order], self._starts, axis=0)
        return np.einsum("ij,ij->j", sums, sums)


class _Level:
    """One level of the merge tree over places in the order of (a, b): halves of `width` places, left and right."""

    def __init__(self, y: Array, width: int) -> None:
        place = np.arange(y.size)
        block, right = place // (2 * width), (place // width) % 2
        # Equal values are not discordant, so the left one comes first.
        order = np.lexsort((right, y, block))
        is_right = right[order] == 1
        self._left, self._right = order[~is_right], order[is_right]
        self._below = np.cumsum(is_right)[~is_right]
        self._first = np.searchsorted(block[self._right], block[self._left])

    def discordant(self, weights: Array) -> Array:
        """Weight of the pairs whose left point has the larger b, [draws]."""
        running = np.zeros((self._right.size + 1, weights.shape[1]))
        np.cumsum(weights[self._right], axis=0, out=running[1:])
        return np.einsum("ij,ij->j", weights[self._left], running[self._below] - running[self._first])


def _equal_pairs(rows: Array) -> Array:
    """Ordered pairs of equal values in each sorted row, a value with itself among them, [draws]."""
    change = np.ones(rows.shape, dtype=bool)
    change[:, 1:] = rows[:, 1:] != rows[:, :-1]
    starts = np.flatnonzero(change)
    lengths = np.diff(starts, append=rows.size).astype(np.float64)
    first = np.searchsorted(starts, np.arange(rows.shape[0]) * rows.shape[1])
    return np.add.reduceat(lengths * lengths, first)


def _inversions(rows: Array) -> Array:
    """Pairs of places i < j with rows[i] > rows[j] in each row of codes from 0, float64 [draws]."""
    draws, n = rows.shape
    widths = _widths(_BASE, n)
    size = 2 * widths[-1] if widths else _BASE
    # Padding at the end, above every value, is in no inversion. The lowest bit says from which half a value comes.
    work = np.full((draws, size), 2 * int(rows.max()) + 2, dtype=np.int64 if rows.max() > 2**29 else np.int32)
    work[:, :n] = 2 * rows
    base = work.reshape(draws, -1, _BASE)
    found = np.zeros(draws)
    for i in range(_BASE - 1):
        found += np.count_nonzero(base[:, :, i : i + 1] > base[:, :, i + 1 :], axis=(1, 2))
    for width in widths:
        halves = work.reshape(draws, -1, 2 * width)
        halves &= -2
        halves[:, :, width:] |= 1
        halves.sort(axis=2)
        # Among equal values the left one comes first, so the rights before a left are those it exceeds.
        places = ((halves & 1) @ np.arange(2 * width, dtype=np.int64)).sum(1)
        blocks = size // (2 * width)
        found += blocks * (width * (2 * width - 1) - width * (width - 1) // 2) - places
    return found
