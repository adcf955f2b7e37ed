"""Reader A of the `shapes` world: connected components, their outline and a threshold on the background."""

from __future__ import annotations

from typing import Final

import numpy as np

from diffusionbench.benchmarks.simpleeval import bands
from diffusionbench.benchmarks.simpleeval.image_ops import (
    COARSE,
    LUMA,
    SIDE,
    box_mean,
    chroma_of,
    colour_name,
    components,
    grow,
    quantile,
    resize,
)
from diffusionbench.benchmarks.simpleeval.reading import Found, Reading

#: Angles at which an outline is measured.
ANGLES: Final = 48
#: Largest radius of a shape over the radius it was drawn with.
REACH: Final = {"circle": 0.98, "square": 1.22, "triangle": 1.30, "plus": 1.12, "ring": 1.06, "star": 1.24}


def read_components(image: np.ndarray, native: int | None = None) -> Reading:
    """Read one image uint8 [H, W, 3] of any size; `native` is its shorter side before it was enlarged."""
    coarse = (native or min(image.shape[:2])) < COARSE
    image = resize(image)
    smooth = box_mean(image)
    chroma = chroma_of(smooth)
    mask = chroma > bands.CHROMA
    labels = components(mask, diagonal=True)
    # Every component, also a fainter one, must be vivid enough to be there for certain.
    clear = True
    for parts in (components(chroma > bands.FAINT, diagonal=True), labels):
        areas = np.bincount(parts.ravel())
        vivid = np.bincount(parts.ravel(), (chroma >= bands.VIVID).ravel())
        clear &= not ((areas >= bands.MIN_AREA) & (vivid < bands.VIVID_SHARE * areas))[1:].any()
    objects = tuple(
        _object(image, chroma, labels == label) for label in range(1, len(areas)) if areas[label] >= bands.MIN_AREA
    )
    # Enlarging took contrast from patterns and none from the noise of the views, which the box mean takes away again.
    background = _background(smooth if coarse else image, ~grow(mask, 2), coarse)
    return Reading(objects, background, clear)


def _object(colours: np.ndarray, chroma: np.ndarray, mask: np.ndarray) -> Found:
    """Measure one component; its most vivid pixels tell its colour."""
    inside = chroma[mask]
    vivid = colours[mask][inside >= quantile(inside, bands.PURE)]
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = rows[0] - 1, columns[0] - 1
    box = (slice(rows[0], rows[-1] + 3), slice(columns[0], columns[-1] + 3))
    near = grow(np.pad(mask, 1)[box], 1)
    # Outlines at half pixels: those of a small object differ by less than a pixel between shapes.
    part = doubled(np.where(near, np.pad(chroma, 1)[box], 0)) > bands.CHROMA
    outside = components(~part, diagonal=False)
    filled = outside != outside[0, 0]
    y, x = np.nonzero(filled)
    centre_y, centre_x = y.mean(), x.mean()
    dy, dx = y - centre_y, x - centre_x
    radii = np.hypot(dy, dx)
    # The largest radius at each angle; Fourier magnitudes 3, 4, 5 of it against its mean tell the shape.
    bins = ((np.arctan2(dy, dx) / (2 * np.pi) + 0.5) * ANGLES).astype(int) % ANGLES
    profile = np.zeros(ANGLES)
    np.maximum.at(profile, bins, radii)
    seen = np.flatnonzero(profile > 0)
    if len(seen) < ANGLES:
        profile = np.interp(np.arange(ANGLES), seen, profile[seen], period=ANGLES)
    magnitudes = np.abs(np.fft.rfft(profile))
    shape, sure, firm_shape = _shape(filled, 1 - part.sum() / filled.sum(), magnitudes[3:6] / magnitudes[0])
    radius = float(radii.max()) / 2 / REACH[shape]
    large = bands.RADIUS.met(radius)
    firm = {"shape": firm_shape, "size": bands.FIRM_RADIUS.met(radius) is not None}
    return Found(
        shape=shape if sure else None,
        colour=colour_name(np.median(vivid.astype(np.float32), axis=0)),
        size=None if large is None else ("large" if large else "small"),
        x=float(centre_x / 2 + left),
        y=float(centre_y / 2 + top),
        firm=frozenset(name for name, far in firm.items() if far),
    )


def _shape(filled: np.ndarray, holes: float, spectrum: np.ndarray) -> tuple[str, bool, bool]:
    """Return the likeliest shape, whether it is far enough from the others to be named, and to be firm.

    Args:
        filled: bool [H, W], the component without its holes.
        holes: share of them in it.
        spectrum: Fourier magnitudes 3, 4, 5 of its radius.
    """
    ring, second, first = bands.HOLES.met(holes), *np.partition(spectrum, 1)[1:]
    if ring:
        return "ring", True, True
    pointed = bands.ROUND.met(first)
    sure = ring is not None and pointed is not None
    if not pointed:
        return "circle", sure, sure
    sure &= bool(first > bands.DOMINANT * second)
    if spectrum.argmax() == 0:
        return "triangle", sure, sure
    if spectrum[2] > spectrum[1]:
        return "star", sure, sure
    solidity = float(filled.sum()) / hull_area(filled)
    solid, firm = bands.SOLID.met(solidity), bands.FIRM_SOLID.met(solidity)
    return "square" if solid else "plus", sure and solid is not None, sure and firm is not None


def doubled(field: np.ndarray) -> np.ndarray:
    """Interpolate [H, W] linearly at half steps: [2 H, 2 W], the last row and column repeated."""
    for _ in range(2):
        later = np.concatenate([field[1:], field[-1:]])
        field = np.stack([field, (field + later) / 2], axis=1).reshape(-1, field.shape[1]).T
    return field


def hull_area(mask: np.ndarray) -> float:
    """Area of the convex hull of the pixel corners of a mask (monotone chain, integers)."""
    points: set[tuple[int, int]] = set()
    for row in np.flatnonzero(mask.any(axis=1)).tolist():
        columns = np.flatnonzero(mask[row])
        first, last = int(columns[0]), int(columns[-1]) + 1
        points |= {(row, first), (row, last), (row + 1, first), (row + 1, last)}
    ordered = sorted(points)
    hull: list[tuple[int, int]] = []
    for side in (ordered, ordered[::-1]):
        chain: list[tuple[int, int]] = []
        for y, x in side:
            while len(chain) >= 2:
                (y1, x1), (y2, x2) = chain[-2:]
                if (y2 - y1) * (x - x1) > (x2 - x1) * (y - y1):
                    break
                chain.pop()
            chain.append((y, x))
        hull += chain[:-1]
    doubled = sum(a[0] * b[1] - a[1] * b[0] for a, b in zip(hull, hull[1:] + hull[:1], strict=True))
    return abs(doubled) / 2


def _background(image: np.ndarray, free: np.ndarray, coarse: bool) -> str | None:
    if free.sum() < SIDE:
        return None
    limits = bands.COARSE_COVARIANCE if coarse else bands.COVARIANCE
    luminance = image.astype(np.float32) @ LUMA
    y, x = np.nonzero(free)
    plane = np.stack([np.ones_like(y), y, x], axis=1).astype(np.float64)
    values = luminance[free].astype(np.float64)
    values -= plane @ np.linalg.solve(plane.T @ plane, plane.T @ values)
    field = np.zeros(free.shape)
    field[free] = values
    right, down = free[:, 1:] & free[:, :-1], free[1:] & free[:-1]
    # Mean product of neighbours, to the right or below, whichever is larger: white noise drops out.
    energy = max(
        float((field[:, 1:] * field[:, :-1]).sum() / max(right.sum(), 1)),
        float((field[1:] * field[:-1]).sum() / max(down.sum(), 1)),
    )
    if energy < limits.plain:
        return "plain"
    between = []
    for places in (y, x):
        counts = np.bincount(places, minlength=SIDE)
        means = np.bincount(places, values, minlength=SIDE) / np.maximum(counts, 1)
        between.append(float((counts * means**2).sum() / counts.sum()))
    low, high = np.percentile(values, (4, 96))
    dots = bands.HALF.met(abs(float((values > (low + high) / 2).mean()) - 0.5))
    return limits.named(energy, bands.LINES.met(max(between) / energy), None if dots is None else not dots)
