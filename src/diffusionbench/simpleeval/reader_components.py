"""Reader A of the `shapes` world: connected components, their outline and a threshold on the background."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from diffusionbench.simpleeval.pixels import (
    COARSE,
    LUMA,
    NAMES,
    SIDE,
    box_mean,
    chroma_of,
    colour_labels,
    components,
    grow,
    resize,
)
from diffusionbench.simpleeval.reading import Found, Reading

CHROMA: Final = 52
MIN_AREA: Final = 30
HOLE_SHARE: Final = 0.05
BINS: Final = 48
#: Largest radius of a shape over the radius it was drawn with.
REACH: Final = {"circle": 0.98, "square": 1.22, "triangle": 1.30, "plus": 1.12, "ring": 1.06, "star": 1.24}
SMALL: Final = 7.5
#: Fourier magnitude of the outline below which it is a circle.
ROUND: Final = 0.024
#: Share of the convex hull above which four corners are a square, not a plus.
SOLID: Final = 0.922
STRIPED: Final = 0.55


class Grade(NamedTuple):
    """Constants that depend on whether the image was enlarged.

    Attributes:
        vivid: quantile of chroma within an object from which on pixels tell its colour.
        plain: variance below which a background is plain.
        half: how far from one half the bright share of a checkered background may be.
    """

    vivid: float
    plain: float
    half: float


FINE: Final = Grade(vivid=0.5, plain=60, half=0.07)
#: Enlarging took contrast from patterns and none from the noise of the views: patterns are judged after the box mean,
#: colours before it.
ENLARGED: Final = Grade(vivid=0.8, plain=10, half=0.10)


def read_components(image: np.ndarray, native: int | None = None) -> Reading:
    """Read one image.

    Args:
        image: uint8 [H, W, 3] of any size.
        native: shorter side before it was enlarged; None is that of `image`.
    """
    coarse = (native or min(image.shape[:2])) < COARSE
    grade = ENLARGED if coarse else FINE
    image = resize(image)
    smooth = box_mean(image)
    chroma = chroma_of(smooth)
    mask = chroma > CHROMA
    labels = components(mask, diagonal=True)
    areas = np.bincount(labels.ravel())
    colours = image if coarse else smooth
    objects = tuple(
        _object(colours, chroma, labels == label, grade) for label in range(1, len(areas)) if areas[label] >= MIN_AREA
    )
    return Reading(objects, _background(smooth if coarse else image, ~grow(mask, 2), grade))


def _object(colours: np.ndarray, chroma: np.ndarray, mask: np.ndarray, grade: Grade) -> Found:
    inside = chroma[mask]
    vivid = colours[mask][inside >= np.partition(inside, place := int(grade.vivid * (len(inside) - 1)))[place]]
    colour = NAMES[int(colour_labels(np.median(vivid.astype(np.float32), axis=0)))]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = rows[0] - 1, columns[0] - 1
    box = (slice(rows[0], rows[-1] + 3), slice(columns[0], columns[-1] + 3))
    near = grow(np.pad(mask, 1)[box], 1)
    # Outlines at half pixels: those of a small object differ by less than a pixel between shapes.
    part = doubled(np.where(near, np.pad(chroma, 1)[box], 0)) > CHROMA
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
    size = "small" if radius / 2 / REACH[shape] < SMALL else "large"
    return Found(shape, colour, size, float(centre_x / 2 + left), float(centre_y / 2 + top))


def doubled(field: np.ndarray) -> np.ndarray:
    """Linear interpolation of [H, W] at half steps: [2 H, 2 W], the last row and column repeated."""
    for _ in range(2):
        later = np.concatenate([field[1:], field[-1:]])
        field = np.stack([field, (field + later) / 2], axis=1).reshape(-1, field.shape[1]).T
    return field


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


def _background(image: np.ndarray, free: np.ndarray, grade: Grade) -> str:
    if free.sum() < SIDE:
        return "plain"
    luminance = image.astype(np.float32) @ LUMA
    y, x = np.nonzero(free)
    plane = np.stack([np.ones_like(y), y, x], axis=1).astype(np.float64)
    values = luminance[free].astype(np.float64)
    values -= plane @ np.linalg.solve(plane.T @ plane, plane.T @ values)
    variance = values.var()
    if variance < grade.plain:
        return "plain"
    for places in (y, x):
        counts = np.bincount(places, minlength=SIDE)
        means = np.bincount(places, values, minlength=SIDE) / np.maximum(counts, 1)
        if (counts * means**2).sum() / counts.sum() > STRIPED * variance:
            return "striped"
    low, high = np.percentile(values, (4, 96))
    share = (values > (low + high) / 2).mean()
    return "checkered" if abs(share - 0.5) < grade.half else "dotted"
