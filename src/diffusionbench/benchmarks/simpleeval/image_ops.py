"""Small image operations on numpy arrays, shared by the two readers and the views of the `shapes` world."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import numpy as np

from diffusionbench.benchmarks.simpleeval import shapes_world as world
from diffusionbench.benchmarks.simpleeval.bands import COLOUR_MARGIN

SIDE: Final = 64
#: Images with a shorter side are read with the constants of enlarged ones.
COARSE: Final = 48
NAMES: Final = tuple(world.COLOURS)
PROTOTYPES: Final = np.asarray(list(world.COLOURS.values()), np.float32)
_MAXIMA: Final = PROTOTYPES.max(axis=1)
_NORMALISED: Final = PROTOTYPES / _MAXIMA[:, None]
LUMA: Final = np.asarray((0.299, 0.587, 0.114), np.float32)


@lru_cache(maxsize=32)
def _bicubic(source: int, target: int) -> np.ndarray:
    """Weights float64 [target, source] of Catmull-Rom interpolation, widened when shrinking, edge repeated."""
    scale = max(source / target, 1.0)
    centres = (np.arange(target) + 0.5) * source / target - 0.5
    taps = np.arange(-int(2 * scale) - 1, int(2 * scale) + 2)
    places = np.floor(centres)[:, None].astype(int) + taps
    d = np.abs(places - centres[:, None]) / scale
    near, far = 1.5 * d**3 - 2.5 * d**2 + 1, -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    weights = np.where(d < 1, near, np.where(d < 2, far, 0))
    weights /= weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((target, source))
    np.add.at(matrix, (np.arange(target)[:, None], np.clip(places, 0, source - 1)), weights)
    return matrix


def resize(image: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Resize by bicubic interpolation: uint8 [H, W, 3] to uint8 [side, side, 3]; the identity where the size fits."""
    height, width = image.shape[:2]
    if (height, width) == (side, side):
        return image
    rows, columns = _bicubic(height, side), _bicubic(width, side)
    out = np.einsum("yh,hwc,xw->yxc", rows, image.astype(np.float64), columns, optimize=True)
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)


def box_mean(image: np.ndarray) -> np.ndarray:
    """Return the mean over 3 x 3 pixels with repeated edges: float32 [H, W, C]."""
    padded = np.pad(image.astype(np.float32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9


def chroma_of(rgb: np.ndarray) -> np.ndarray:
    """Return largest less smallest channel of [..., 3]; plane by plane, because numpy is slow along a short axis."""
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    return np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)


def colour_labels(rgb: np.ndarray) -> np.ndarray:
    """Return the index of the nearest prototype colour of each RGB in float32 [..., 3]."""
    return _colour_distances(rgb).argmin(axis=-1)


def colour_name(rgb: np.ndarray) -> str | None:
    """Return the name of the prototype nearest to RGB float32 [3], or None where the second is hardly farther."""
    distances = _colour_distances(rgb)
    nearest, second = np.argpartition(distances, 1)[:2]
    return NAMES[nearest] if distances[second] - distances[nearest] >= COLOUR_MARGIN else None


def _colour_distances(rgb: np.ndarray) -> np.ndarray:
    """Return the distance to each prototype: L1 on RGB over its maximum, and 0.3 times that of the maxima on 0..1."""
    maxima = rgb.max(axis=-1)
    normalised = rgb / np.maximum(maxima, 1)[..., None]
    distance = 0.3 / 255 * np.abs(maxima[..., None] - _MAXIMA)
    for channel in range(3):
        distance += np.abs(normalised[..., channel, None] - _NORMALISED[:, channel])
    return np.asarray(distance)


def quantile(values: np.ndarray, share: float) -> float:
    """Return the value below which that share of [n] numbers lies: one of them, because numpy's quantile is slow."""
    place = int(share * (len(values) - 1))
    return float(np.partition(values, place)[place])


def components(mask: np.ndarray, diagonal: bool) -> np.ndarray:
    """Label the connected parts of bool [H, W], by corners too if `diagonal`: int64 [H, W], 0 outside, 1..n inside."""
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    change = np.diff(padded, axis=1)
    rows, starts = np.nonzero(change == 1)
    ends = np.nonzero(change == -1)[1]
    parent = list(range(len(rows)))
    reach = 1 if diagonal else 0
    starts_list, ends_list = starts.tolist(), ends.tolist()
    bounds = np.searchsorted(rows, np.arange(height + 1)).tolist()
    for row in range(1, height):
        above, here = bounds[row - 1], bounds[row]
        while above < bounds[row] and here < bounds[row + 1]:
            if starts_list[above] < ends_list[here] + reach and starts_list[here] < ends_list[above] + reach:
                # Written out, because this is most of the work: the roots of both runs, then one for both.
                first, second = above, here
                while parent[first] != first:
                    first = parent[first]
                while parent[second] != second:
                    second = parent[second]
                parent[max(first, second)] = min(first, second)
            if ends_list[above] < ends_list[here]:
                above += 1
            else:
                here += 1
    # A parent is an earlier run than its child, so one pass in order leads every run to its root.
    for run, earlier in enumerate(parent):
        parent[run] = parent[earlier]
    numbers = np.unique(np.asarray(parent, np.int64), return_inverse=True)[1] + 1
    labels = np.zeros((height, width), np.int64)
    labels[mask] = np.repeat(numbers, ends - starts)
    return labels


def grow(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Dilate a mask by a square of 2 * pixels + 1."""
    out = mask.copy()
    for _ in range(pixels):
        wide = out.copy()
        wide[1:] |= out[:-1]
        wide[:-1] |= out[1:]
        out = wide.copy()
        out[:, 1:] |= wide[:, :-1]
        out[:, :-1] |= wide[:, 1:]
    return out
