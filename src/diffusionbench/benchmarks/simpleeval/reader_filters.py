"""Reader B of the `shapes` world: matched filters on colour maps and the power spectrum of the background."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np

from diffusionbench.benchmarks.simpleeval import bands
from diffusionbench.benchmarks.simpleeval import shapes_world as world
from diffusionbench.benchmarks.simpleeval.image_ops import (
    COARSE,
    LUMA,
    NAMES,
    SIDE,
    chroma_of,
    colour_labels,
    colour_name,
    grow,
    quantile,
    resize,
)
from diffusionbench.benchmarks.simpleeval.reading import Found, Reading
from diffusionbench.benchmarks.simpleeval.renderer import COS, TURN, inside_shape

#: Chroma at which a pixel begins to count, and over how many levels it comes to count in full. A steep gate would swell
#: small objects with soft edges into discs.
GATE_LOW, GATE_RANGE = 38, 50
#: Chroma above which a pixel is of an object, not of the background.
COVERED: Final = 53
#: Gated pixels of a colour from which it is looked for, and from which larger objects than the renderer's are.
MIN_MASS, LARGE_MASS = 24, 120
#: Radii of the templates in pixels of the map they are moved over: the gate as it is, and the gate at half its size.
RADII: Final = (6, 10)
HALF_RADII: Final = (6, 7, 9)
#: Shape (as a number) and rotation in degrees of the templates of one radius.
TEMPLATES: Final = tuple(
    (number, degrees)
    for number, shape in enumerate(world.SHAPES)
    for degrees in ((0,) if shape in ("circle", "ring") else (-8, 0, 8))
)
#: Shape and radius, in pixels of the image, of all templates: those of `RADII`, then those of `HALF_RADII`.
SHAPE_OF: Final = np.tile([number for number, _ in TEMPLATES], len(RADII) + len(HALF_RADII))
RADIUS_OF: Final = np.repeat([*RADII, *(2 * radius for radius in HALF_RADII)], len(TEMPLATES))
#: Radius from which a template is large.
LARGE: Final = 8
#: Within this many radii of an object there is no second one.
ALONE: Final = 1.2
#: Pixels a template reaches from its centre, in radii and beyond.
SUPPORT, MARGIN = 1.35, 1
#: Sides of the Fourier transforms; the smallest is taken from which no template reaches around the edge.
SIDES: Final = (32, 40, 48, 64, 80)
#: A nearly empty support has no shape: the floor is four pixels' worth of contrast of the image, one of its half.
SPREAD_FLOOR: Final = 4
#: Cycles per image beyond which there is no pattern of this world; from `NOISE` on there is noise alone.
FINEST, NOISE = 16, 22
PLACES: Final = np.arange(SIDE)
_TAPS: Final = np.arange(-24, 25)
_GAUSS: Final = np.exp(-(_TAPS**2) / (2 * 8.0**2))
#: Gaussian of sigma 8 along one axis as a matrix, edges repeated.
BLUR: Final = np.stack(
    [
        np.bincount(np.clip(row + _TAPS, 0, SIDE - 1), _GAUSS / _GAUSS.sum(), minlength=SIDE).astype(np.float32)
        for row in PLACES
    ]
)


class Filters(NamedTuple):
    """Templates of some radii: conjugate spectra and norms, and spectra and areas of the discs they are confined to."""

    spectra: np.ndarray
    norms: np.ndarray
    support_spectra: np.ndarray
    support_areas: np.ndarray


@lru_cache(maxsize=2 * len(SIDES))
def filters(side: int, radii: tuple[int, ...]) -> Filters:
    """Return the matched filters of some radii for transforms of one side, computed once."""
    # Offsets from the template's centre, which sits at index 0 and wraps around.
    places = np.arange(side)
    offset = np.where(places <= side // 2, places, places - side)
    fine = (offset[:, None] * 4 + np.arange(4)).ravel() * 16 - 24
    templates, supports = [], []
    for radius in radii:
        support = np.hypot(offset[:, None], offset[None]) <= SUPPORT * radius + MARGIN
        supports.append(support.astype(np.float64))
        for number, degrees in TEMPLATES:
            cos, sin = COS[degrees], COS[degrees - 90]
            u = (fine[None] * cos + fine[:, None] * sin) // TURN * 1024 // (64 * radius)
            v = (fine[:, None] * cos - fine[None] * sin) // TURN * 1024 // (64 * radius)
            cover = inside_shape(world.SHAPES[number], u, v).reshape(side, 4, side, 4).mean(axis=(1, 3))
            # As soft as an enlarged or compressed picture: sharp ones lose nothing by it.
            for axis in (0, 1):
                cover = (cover + np.roll(cover, 1, axis) + np.roll(cover, -1, axis)) / 3
            templates.append(np.where(support, cover - cover[support].mean(), 0))
    stack, discs = np.stack(templates), np.stack(supports)
    return Filters(
        np.conj(np.fft.rfft2(stack)).astype(np.complex64),
        np.sqrt((stack**2).sum(axis=(1, 2))).astype(np.float32),
        np.conj(np.fft.rfft2(discs)).astype(np.complex64),
        discs.sum(axis=(1, 2)).astype(np.float32),
    )


def read_filters(image: np.ndarray, native: int | None = None) -> Reading:
    """Read one image; arguments as of `read_components`."""
    coarse = (native or min(image.shape[:2])) < COARSE
    pixels = resize(image).astype(np.float32)
    chroma = chroma_of(pixels)
    gate = np.clip((chroma - GATE_LOW) / GATE_RANGE, 0, 1)
    seen = gate > 0
    labels = np.full(gate.shape, -1)
    labels[seen] = colour_labels(pixels[seen])
    mass = np.bincount(labels[seen], gate[seen], minlength=len(NAMES))
    responses = {}
    for colour in np.flatnonzero(mass >= MIN_MASS).tolist():
        own = gate * (labels == colour)
        responses[colour] = [_correlate(own, RADII)]
        if mass[colour] > LARGE_MASS:
            responses[colour].append(_correlate(own.reshape(SIDE // 2, 2, -1, 2).mean(axis=(1, 3)), HALF_RADII))
    margin = bands.COARSE_SHAPE_MARGIN if coarse else bands.SHAPE_MARGIN
    objects, clear = [], True
    for colour, row, column, values in _peaks(responses):
        inside = (labels == colour) & _near(row, column, RADIUS_OF[values.argmax()])
        clear &= quantile(chroma[inside], 1 - bands.VIVID_SHARE) >= bands.VIVID
        pure = inside & (chroma >= quantile(chroma[inside], bands.PURE))
        shape, size, firm = _likeliest(values, margin)
        name = colour_name(np.median(pixels[pure], axis=0))
        objects.append(Found(shape, name, size, float(column), float(row), firm))
    return Reading(tuple(objects), _background(pixels @ LUMA, ~grow(chroma > COVERED, 2), coarse), clear)


def _near(row: int, column: int, radius: float) -> np.ndarray:
    return (PLACES[:, None] - row) ** 2 + (PLACES - column) ** 2 <= radius**2


def _peaks(responses: Mapping[int, Sequence[np.ndarray]]) -> Iterator[tuple[int, int, int, np.ndarray]]:
    """Give colour, place and all responses there of each object: greedy over all colours, the best response first."""
    colours = list(responses)
    best = np.zeros((len(colours), SIDE, SIDE), np.float32)
    for layer, colour in zip(best, colours, strict=True):
        for one in responses[colour]:
            step = SIDE // one.shape[1]
            np.maximum(layer, one.max(axis=0).repeat(step, axis=0).repeat(step, axis=1), out=layer)
    while best.size and best.flat[place := int(best.argmax())] >= bands.PEAK:
        number, row, column = (int(index) for index in np.unravel_index(place, best.shape))
        values = np.concatenate(
            [one[:, row * one.shape[1] // SIDE, column * one.shape[1] // SIDE] for one in responses[colours[number]]]
        )
        yield colours[number], row, column, values
        best[:, _near(row, column, ALONE * RADIUS_OF[values.argmax()])] = 0


def _likeliest(values: np.ndarray, margin: float) -> tuple[str | None, str, frozenset[str]]:
    """Return shape and size of the best of all templates' responses [n], and which are far from the second best.

    The shape is None where templates of another one come closer than `margin`.
    """
    best = np.full(len(world.SHAPES), -1, np.float32)
    np.maximum.at(best, SHAPE_OF[: len(values)], values)
    second, first = np.partition(best, -2)[-2:]
    large = RADIUS_OF[: len(values)] >= LARGE
    lead = values[large].max() - values[~large].max()
    firm = {"shape": first - second >= bands.FIRM_SHAPE, "size": abs(lead) >= bands.FIRM_SIZE}
    shape = world.SHAPES[int(best.argmax())] if first - second >= margin else None
    return shape, "large" if lead > 0 else "small", frozenset(name for name, sure in firm.items() if sure)


def _correlate(gate: np.ndarray, radii: tuple[int, ...]) -> np.ndarray:
    """Return responses of one colour's gate [H, W] to templates: float32 [n, H, W], -1 outside its bounding box."""
    rows, columns = np.flatnonzero(gate.any(axis=1)), np.flatnonzero(gate.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    height, width = int(rows[-1]) - top + 1, int(columns[-1]) - left + 1
    side = next(side for side in SIDES if side >= max(height, width) + math.ceil(SUPPORT * max(radii) + MARGIN))
    bank = filters(side, radii)
    padded = np.zeros((2, side, side), np.float32)
    padded[0, :height, :width] = part = gate[top : top + height, left : left + width]
    padded[1, :height, :width] = part * part
    spectrum = np.fft.rfft2(padded)
    raw = np.fft.irfft2(spectrum[0] * bank.spectra, s=(side, side))[:, :height, :width]
    local = np.fft.irfft2(spectrum[:, None] * bank.support_spectra, s=(side, side))[..., :height, :width]
    spread = local[1] - local[0] ** 2 / bank.support_areas[:, None, None]
    scale = np.sqrt(np.maximum(spread, SPREAD_FLOOR * (len(gate) / SIDE) ** 2))
    # Every radius has as many templates, one after the other.
    norms = bank.norms.reshape(len(radii), -1, 1, 1) * scale[:, None]
    out = np.full((len(raw), *gate.shape), -1, np.float32)
    values = raw.reshape(*norms.shape[:2], height, width) / norms
    out[:, top : top + height, left : left + width] = values.reshape(raw.shape)
    return out


def _background(luminance: np.ndarray, free: np.ndarray, coarse: bool) -> str | None:
    if free.sum() < SIDE:
        return None
    filled = np.where(free, luminance, luminance[free].mean())
    detail = np.where(free, filled - BLUR @ filled @ BLUR.T, 0)
    detail -= detail.sum() / free.sum() * free
    power = np.abs(np.fft.fft2(detail)) ** 2
    frequency = np.abs(np.fft.fftfreq(SIDE, 1 / SIDE)).astype(int)
    # Power of noise is exponential: its mean is its median over ln 2.
    power -= np.median(power[np.ix_(frequency > NOISE, frequency > NOISE)]) / np.log(2)
    power[(frequency[:, None] < 4) & (frequency[None] < 4)] = 0
    power[frequency > FINEST] = 0
    power[:, frequency > FINEST] = 0
    total = power.sum()
    energy, limits = total / (SIDE * SIDE) / free.sum(), bands.COARSE_ENERGY if coarse else bands.ENERGY
    if energy < limits.plain:
        return "plain"
    rows = max(power[:, frequency <= 1].sum(), power[frequency <= 1].sum()) / total
    on = max(power[frequency <= 1].max(initial=0), power[:, frequency <= 1].max(initial=0))
    off = power[np.ix_(frequency > 1, frequency > 1)].max()
    return limits.named(energy, bands.ROWS.met(rows), bands.OFF_AXES.met(off / on))
