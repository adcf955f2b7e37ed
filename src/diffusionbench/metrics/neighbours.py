"""Neighbours within large sets of features: float32 products find candidates, float64 differences decide.

A squared distance |x|^2 + |y|^2 - 2 x.y in float32 is wrong by at most `slack` times the sum of both norms, so that
candidates miss no neighbour, and what is a neighbour is told from the features themselves. Sets in which nearly all
points are candidates, such as collapsed ones, are measured in float64 throughout.
Source: Higham 2002, Accuracy and Stability of Numerical Algorithms, section 3.1, for the error of a sum of products.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from diffusionbench.stats import GROUPS

# Rows and columns of one tile of distances: 16 MB in float32.
_TILE: Final = 2048
# Random points among which a first bound of each radius is looked for: a tenth of all, within these limits.
_SAMPLE: Final = (500, 5000)
# Neighbours of a point that are measured exactly: enough where a group of a tenth is left out.
_KEPT: Final = 16
# Candidates for each point beyond which float64 products are cheaper.
_MANY: Final = 400
# Pairs whose differences are formed at once.
_PAIRS: Final = 1024
# Numbers in one block of float64 distances: 64 MB.
_BLOCK_NUMBERS: Final = 8_000_000
# Squared distances below this share of the largest squared norm are rounding of float64 products: equal points.
_EQUAL: Final = 1e-13


class Points:
    """Features [n, d] as they were given, seen from a centre near them, so that norms are of the size of distances.

    Attributes:
        norms: squared, [n].
        slack: largest error of a squared distance in float32, as a share of the sum of both squared norms.
    """

    def __init__(self, rows: np.ndarray, centre: np.ndarray) -> None:
        self.rows, self._centre = rows, centre.astype(rows.dtype)
        self.slack = (rows.shape[1] + 16) * float(np.finfo(np.float32).eps) / 2
        self.norms = np.empty(len(rows))
        for tile in _tiles(len(rows)):
            block = self.centred(tile)
            self.norms[tile] = np.einsum("nd,nd->n", block, block)

    def __len__(self) -> int:
        return len(self.rows)

    def centred(self, chosen: slice | np.ndarray) -> np.ndarray:
        """Return chosen rows less the centre, float64."""
        block: np.ndarray = self.rows[chosen].astype(np.float64)
        block -= self._centre
        return block

    def short(self, chosen: slice | np.ndarray) -> _Short:
        """Return chosen rows less the centre, and their norms less what float32 may add to distances."""
        rows = (self.rows[chosen] - self._centre).astype(np.float32, copy=False)
        return _Short(rows, (self.norms[chosen] * (1 - self.slack)).astype(np.float32))


class _Short(NamedTuple):
    """Rows float32 [b, d] less a centre; their squared norms less the largest error of their distances, in whatever
    order products are summed."""

    rows: np.ndarray
    norms: np.ndarray


def _tiles(count: int, start: int = 0, size: int = _TILE) -> Iterator[slice]:
    for first in range(start, count, size):
        yield slice(first, min(first + size, count))


def _least(x: _Short, y: _Short) -> np.ndarray:
    """Return float32 [b, c]: what the squared distances between two blocks of rows are at least."""
    least: np.ndarray = x.rows @ y.rows.T
    least *= np.float32(-2)
    least += x.norms[:, None]
    least += y.norms
    return least


def _pairs(near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns where a mask [b, c] is true, int32."""
    row, column = np.divmod(np.flatnonzero(near), near.shape[1])
    return row.astype(np.int32), column.astype(np.int32)


def _exact(x: Points, y: Points, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the squared distances [p] of pairs of points."""
    found = np.empty(len(rows))
    for chosen in _tiles(len(rows), size=_PAIRS):
        difference = x.rows[rows[chosen]].astype(np.float64)
        difference -= y.rows[columns[chosen]]
        found[chosen] = np.einsum("nd,nd->n", difference, difference)
    return found


def _all(x: Points, y: Points, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Give blocks of chosen rows [b] of x with their squared distances float64 [b, m] to all of y."""
    floor = _EQUAL * max(x.norms.max(), y.norms.max())
    step = max(1, _BLOCK_NUMBERS // len(y))
    for block in (rows[start : start + step] for start in range(0, len(rows), step)):
        squared, left = np.empty((len(block), len(y))), x.centred(block)
        for columns in _tiles(len(y)):
            squared[:, columns] = left @ y.centred(columns).T
        squared *= -2.0
        squared += x.norms[block, None]
        squared += y.norms
        squared[squared < floor] = 0.0
        yield block, squared


def inside(points: Points, centres: Points, radii: np.ndarray) -> np.ndarray:
    """Return bool [r, n]: which points lie in a ball, for r sets of squared radii [r, m] of the centres.

    The rim belongs to a ball; a negative radius is a ball around nothing.
    """
    found = np.zeros((len(radii), len(points)), dtype=bool)
    largest = radii.max(axis=0)
    for rows in _tiles(len(points)):
        # Points that are not known to lie in a ball of every set.
        left, open_ = points.short(rows), np.arange(rows.start, rows.stop, dtype=np.int32)
        pairs, count = [], 0
        for columns in _tiles(len(centres)):
            right = centres.short(columns)
            least = _least(left, right)
            # Of a ball that reaches further than any error float32 is sure.
            sure = radii[:, columns] - 2.1 * points.slack * (left.norms.max(initial=0) + right.norms.max())
            for hits, reach in zip(found, sure.astype(np.float32), strict=True):
                hits[open_] |= (least <= reach).any(axis=1)
            kept = ~found[:, open_].all(axis=0)
            row, column = _pairs(least[kept] <= largest[columns].astype(np.float32))
            left, open_ = _Short(left.rows[kept], left.norms[kept]), open_[kept]
            pairs.append((open_[row], column + columns.start))
            count += len(row)
            if count > _MANY * (rows.stop - rows.start):
                break
        else:
            row, column = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
            doubted = ~found[:, row].all(axis=0)
            row, column = row[doubted], column[doubted]
            squared = _exact(points, centres, row, column)
            for hits, radius in zip(found, radii, strict=True):
                hits[row[squared <= radius[column]]] = True
            continue
        for block, squared in _all(points, centres, open_):
            for hits, radius in zip(found, radii, strict=True):
                hits[block] |= (squared <= radius).any(axis=1)
    return found


def radii(points: Points, k: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Return the squared distance from each point to its k-th nearest other point.

    Args:
        groups: of the points, 0..GROUPS - 1, or None.

    Returns:
        float64 [1, n], and with groups [1 + GROUPS, n]: in row 1 + g without the points of group g, whose own radii are
        -1 there.
    """
    nearest, squared, limit = _nearest(points, k, _KEPT if groups is not None else k + 3)
    found = _kth(squared, k, None if groups is None else groups[nearest])
    # Beyond the limit a nearer point may have been left out.
    unsure = np.flatnonzero(~(found <= limit).all(axis=0))
    members = [] if groups is None else [np.flatnonzero(groups == group) for group in range(GROUPS)]
    for block, distances in _all(points, points, unsure):
        if groups is None:
            found[:, block] = _kth(distances, k, None)
            continue
        # The k + 1 nearest of each group hold every candidate.
        parts = [np.partition(distances[:, own], min(k, len(own) - 1), axis=1)[:, : k + 1] for own in members]
        numbers = np.repeat(np.arange(GROUPS), [part.shape[1] for part in parts])
        found[:, block] = _kth(np.concatenate(parts, axis=1), k, numbers[None])
    if groups is not None:
        found[1 + groups, np.arange(len(points))] = -1.0
    return found


def _kth(squared: np.ndarray, k: int, groups: np.ndarray | None) -> np.ndarray:
    """Return the k-th smallest [1, b] or, with groups, [1 + GROUPS, b] of squared distances [b, c] to other points.

    Args:
        squared: one in each row is the point's to itself, which is 0 and does not count.
        groups: of the points that they lead to, [b, c] or [1, c].
    """
    rows = [np.partition(squared, k, axis=1)[:, k]]
    for group in range(0 if groups is None else GROUPS):
        rows.append(np.partition(np.where(groups == group, np.inf, squared), k, axis=1)[:, k])
    return np.stack(rows)


def _nearest(points: Points, k: int, kept: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each point some that are likely nearest, itself among them: `kept`, and more than k.

    Returns:
        their numbers [n, c]; their squared distances float64 [n, c], infinite where there are fewer; and a limit [n]:
        all other points are at least that far.
    """
    count = len(points)
    bounds = _bounds(points, min(k + 3, count - 1))
    found = _candidates(points, bounds)
    width = min(max(kept, k + 1), count)
    nearest = np.zeros((count, width), dtype=np.int64)
    squared = np.full((count, width), np.inf)
    if found is None:
        return nearest, squared, np.full(count, -np.inf)
    row, column, least = found
    order = np.lexsort((least, row))
    row, column, least = row[order], column[order], least[order]
    starts = np.searchsorted(row, np.arange(count + 1))
    place = np.arange(len(row)) - starts[row]
    limit, first_left = bounds.astype(np.float64), place == width
    limit[row[first_left]] = np.minimum(limit[row[first_left]], least[first_left])
    near = place < width
    nearest[row[near], place[near]] = column[near]
    squared[row[near], place[near]] = _exact(points, points, row[near], column[near])
    return nearest, squared, limit


def _bounds(points: Points, rank: int) -> np.ndarray:
    """Return float32 [n]: the square of a distance within which a point has more than `rank` of a random part."""
    size = min(max(len(points) // 10, _SAMPLE[0]), _SAMPLE[1])
    part = points.short(np.random.RandomState(0).permutation(len(points))[:size])
    bounds, place = np.empty(len(points), dtype=np.float32), min(rank, len(part.rows) - 1)
    for rows in _tiles(len(points)):
        least = _least(points.short(rows), part)
        least.partition(place, axis=1)
        bounds[rows] = least[:, place]
    return bounds


def _candidates(points: Points, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return all ordered pairs (row, column) no further apart than the row's bound, perhaps, with their least distance.

    Each product is formed once for both orders. None where there are too many pairs.
    """
    found, total = [], 0
    for rows in _tiles(len(points)):
        left = points.short(rows)
        for columns in _tiles(len(points), rows.start):
            least = _least(left, points.short(columns))
            near = least <= bounds[rows, None]
            row, column = _pairs(near)
            found.append((row + rows.start, column + columns.start, least[near]))
            total += len(row)
            if columns.start != rows.start:
                near = least <= bounds[columns]
                row, column = _pairs(near)
                found.append((column + columns.start, row + rows.start, least[near]))
                total += len(row)
            if total > _MANY * len(points):
                return None
    row, column, least = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return row, column, least
