"""Reader A of the `shapes` world: connected components, their outline and a threshold on the background."""

from __future__ import annotations

from typing import Final

import numpy as np

from diffusionbench.simpleeval.pixels import LUMA, NAMES, SIDE, box_mean, colour_labels, components, grow, resize
from diffusionbench.simpleeval.reading import Found, Reading

CHROMA: Final = 52
MIN_AREA: Final = 30
HOLE_SHARE: Final = 0.05
BINS: Final = 48
ROUND: Final = 0.038
SOLID: Final = 0.875
#: Largest radius of a shape over the radius it was drawn with.
REACH: Final = {"circle": 0.98, "square": 1.22, "triangle": 1.30, "plus": 1.12, "ring": 1.06, "star": 1.24}
SMALL: Final = 7.5
PLAIN: Final = 60
STRIPED: Final = 0.55


def read_components(image: np.ndarray) -> Reading:
    """Read one image, uint8 [H, W, 3] of any size."""
    image = resize(image)
    smooth = box_mean(image)
    chroma = smooth.max(axis=-1) - smooth.min(axis=-1)
    mask = chroma > CHROMA
    labels = components(mask, diagonal=True)
    areas = np.bincount(labels.ravel())
    objects = tuple(
        _object(smooth, chroma, labels == label) for label in range(1, len(areas)) if areas[label] >= MIN_AREA
    )
    return Reading(objects, _background(image, ~grow(mask, 2)))


def _object(smooth: np.ndarray, chroma: np.ndarray, mask: np.ndarray) -> Found:
    vivid = mask & (chroma >= np.median(chroma[mask]))
    colour = NAMES[int(colour_labels(np.median(smooth[vivid], axis=0)))]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = rows[0] - 1, columns[0] - 1
    part = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    outside = components(~part, diagonal=False)
    filled = outside != outside[0, 0]
    area = filled.sum()
    y, x = np.nonzero(filled)
    centre_y, centre_x = y.mean(), x.mean()
    radius, spectrum = _profile(y - centre_y, x - centre_x)
    if (area - part.sum()) / area > HOLE_SHARE:
        shape = "ring"
    elif spectrum.max() < ROUND:
        shape = "circle"
    elif spectrum.argmax() == 0:
        shape = "triangle"
    elif spectrum[2] > spectrum[1]:
        shape = "star"
    else:
        shape = "square" if area / hull_area(filled) > SOLID else "plus"
    size = "small" if radius / REACH[shape] < SMALL else "large"
    return Found(shape, colour, size, float(centre_x + left), float(centre_y + top))


def _profile(dy: np.ndarray, dx: np.ndarray) -> tuple[float, np.ndarray]:
    """Largest radius, and the Fourier magnitudes 3, 4, 5 of radius over angle against its mean."""
    radii = np.hypot(dy, dx)
    bins = ((np.arctan2(dy, dx) / (2 * np.pi) + 0.5) * BINS).astype(int) % BINS
    profile = np.zeros(BINS)
    np.maximum.at(profile, bins, radii)
    seen = np.flatnonzero(profile > 0)
    if len(seen) == 0:
        return 0.0, np.zeros(3)
    if len(seen) < BINS:
        profile = np.interp(np.arange(BINS), seen, profile[seen], period=BINS)
    magnitudes = np.abs(np.fft.rfft(profile))
    return float(radii.max()), magnitudes[3:6] / magnitudes[0]


def hull_area(mask: np.ndarray) -> float:
    """Area of the convex hull of the pixel corners of a mask (monotone chain, integers)."""
    points: list[tuple[int, int]] = []
    for row in np.flatnonzero(mask.any(axis=1)).tolist():
        columns = np.flatnonzero(mask[row])
        first, last = int(columns[0]), int(columns[-1]) + 1
        points += [(row, first), (row, last), (row + 1, first), (row + 1, last)]
    points = sorted(set(points))
    hull: list[tuple[int, int]] = []
    for ordered in (points, points[::-1]):
        chain: list[tuple[int, int]] = []
        for point in ordered:
            while len(chain) >= 2 and _turn(chain[-2], chain[-1], point) <= 0:
                chain.pop()
            chain.append(point)
        hull += chain[:-1]
    doubled = sum(a[0] * b[1] - a[1] * b[0] for a, b in zip(hull, hull[1:] + hull[:1], strict=True))
    return abs(doubled) / 2


def _turn(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> int:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _background(image: np.ndarray, free: np.ndarray) -> str:
    if free.sum() < SIDE:
        return "plain"
    luminance = image.astype(np.float32) @ LUMA
    y, x = np.nonzero(free)
    plane = np.stack([np.ones_like(y), y, x], axis=1).astype(np.float64)
    values = luminance[free].astype(np.float64)
    values -= plane @ np.linalg.lstsq(plane, values, rcond=None)[0]
    variance = values.var()
    if variance < PLAIN:
        return "plain"
    for places in (y, x):
        counts = np.bincount(places, minlength=SIDE)
        means = np.bincount(places, values, minlength=SIDE) / np.maximum(counts, 1)
        if (counts * means**2).sum() / counts.sum() > STRIPED * variance:
            return "striped"
    low, high = np.percentile(values, (4, 96))
    share = (values > (low + high) / 2).mean()
    return "checkered" if 0.36 < share < 0.64 else "dotted"
