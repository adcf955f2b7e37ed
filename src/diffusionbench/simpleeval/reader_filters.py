"""Reader B of the `shapes` world: matched filters on colour maps and the power spectrum of the background."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np

from diffusionbench.simpleeval import shapes_world as world
from diffusionbench.simpleeval.pixels import COARSE, LUMA, NAMES, SIDE, colour_labels, grow, resize
from diffusionbench.simpleeval.reading import Found, Reading
from diffusionbench.simpleeval.shapes import COS, TURN, inside_shape

GATE_LOW, GATE_RANGE, COARSE_GATE_RANGE = 38, 30, 50
MIN_MASS: Final = 24
PEAK: Final = 0.62
RADII: Final = {"small": 6, "large": 10}
SUPPRESSION: Final = {"small": 7.5, "large": 12.0}
ROTATIONS: Final = (-8, 0, 8)
#: Padded side of the Fourier transforms: no template reaches around the edge.
PADDED: Final = 80
#: Energy per background pixel below which it is plain.
PLAIN, COARSE_PLAIN = 45, 20


class Filters(NamedTuple):
    """All templates: names, their conjugate spectra, norms, and the spectra of the two supports."""

    shapes: list[str]
    sizes: list[str]
    spectra: np.ndarray
    norms: np.ndarray
    support_spectra: np.ndarray
    support_areas: np.ndarray
    support_of: np.ndarray


@lru_cache(maxsize=1)
def filters() -> Filters:
    """The matched filters, computed once."""
    reach = np.arange(PADDED)
    # Offsets from the template's centre, which sits at index 0 and wraps around.
    offset = np.where(reach <= PADDED // 2, reach, reach - PADDED)
    fine = (offset[:, None] * 4 + np.arange(4)).ravel() * 16 - 24
    shapes, sizes, templates, supports, support_of = [], [], [], [], []
    for number, (size, radius) in enumerate(RADII.items()):
        support = np.hypot(offset[:, None], offset[None]) <= 1.35 * radius + 1
        supports.append(support.astype(np.float64))
        for shape in world.SHAPES:
            for degrees in (0,) if shape in ("circle", "ring") else ROTATIONS:
                cos, sin = COS[degrees], COS[degrees - 90]
                u = (fine[None] * cos + fine[:, None] * sin) // TURN * 1024 // (64 * radius)
                v = (fine[:, None] * cos - fine[None] * sin) // TURN * 1024 // (64 * radius)
                cover = inside_shape(shape, u, v).reshape(PADDED, 4, PADDED, 4).mean(axis=(1, 3))
                templates.append(np.where(support, cover - cover[support].mean(), 0))
                shapes.append(shape)
                sizes.append(size)
                support_of.append(number)
    stack, discs = np.stack(templates), np.stack(supports)
    return Filters(
        shapes,
        sizes,
        np.conj(np.fft.rfft2(stack)).astype(np.complex64),
        np.sqrt((stack**2).sum(axis=(1, 2))).astype(np.float32),
        np.conj(np.fft.rfft2(discs)).astype(np.complex64),
        discs.sum(axis=(1, 2)).astype(np.float32),
        np.asarray(support_of),
    )


def read_filters(image: np.ndarray, native: int | None = None) -> Reading:
    """Read one image; arguments as those of `read_components`."""
    native = native or min(image.shape[:2])
    pixels = resize(image).astype(np.float32)
    chroma = pixels.max(axis=-1) - pixels.min(axis=-1)
    # Enlarging spreads edges: a steep gate would swell small objects into discs.
    gate = np.clip((chroma - GATE_LOW) / (COARSE_GATE_RANGE if native < COARSE else GATE_RANGE), 0, 1)
    labels = colour_labels(pixels)
    mass = np.bincount(labels.ravel(), gate.ravel(), minlength=len(NAMES))
    present = np.flatnonzero(mass >= MIN_MASS)
    objects = _peaks(np.stack([gate * (labels == colour) for colour in present]), present) if len(present) else ()
    return Reading(objects, _background(pixels @ LUMA, grow(chroma > GATE_LOW + GATE_RANGE / 2, 2), native))


def _peaks(maps: np.ndarray, colours: np.ndarray) -> tuple[Found, ...]:
    """Greedy peaks of the normalised cross-correlation over all colours at once."""
    bank = filters()
    responses = np.stack([_correlate(one, bank) for one in maps])  # [colours, templates, 64, 64]
    best = responses.max(axis=1)
    y, x = np.mgrid[:SIDE, :SIDE]
    found = []
    while (place := int(best.argmax())) >= 0 and best.flat[place] >= PEAK:
        colour, row, column = np.unravel_index(place, best.shape)
        template = int(responses[colour, :, row, column].argmax())
        size = bank.sizes[template]
        found.append(Found(bank.shapes[template], NAMES[int(colours[colour])], size, float(column), float(row)))
        best[:, np.hypot(y - row, x - column) <= SUPPRESSION[size]] = 0
    return tuple(found)


def _correlate(gate: np.ndarray, bank: Filters) -> np.ndarray:
    padded = np.zeros((2, PADDED, PADDED), np.float32)
    padded[0, :SIDE, :SIDE] = gate
    padded[1, :SIDE, :SIDE] = gate**2
    spectrum = np.fft.rfft2(padded)
    raw = np.fft.irfft2(spectrum[0] * bank.spectra, s=(PADDED, PADDED))[:, :SIDE, :SIDE]
    local = np.fft.irfft2(spectrum[:, None] * bank.support_spectra, s=(PADDED, PADDED))[..., :SIDE, :SIDE]
    spread = local[1] - local[0] ** 2 / bank.support_areas[:, None, None]
    # A nearly empty support has no shape: the floor is four pixels' worth of contrast.
    scale = np.sqrt(np.maximum(spread, 4))[bank.support_of]
    return raw / (bank.norms[:, None, None] * scale)


def _background(luminance: np.ndarray, covered: np.ndarray, native: int) -> str:
    free = ~covered
    if free.sum() < SIDE:
        return "plain"
    filled = np.where(free, luminance, luminance[free].mean())
    detail = np.where(free, filled - _gaussian(filled), 0)
    detail -= detail.sum() / free.sum() * free
    power = np.abs(np.fft.fft2(detail)) ** 2
    frequency = np.abs(np.fft.fftfreq(SIDE, 1 / SIDE)).astype(int)
    power[(frequency[:, None] < 4) & (frequency[None] < 4)] = 0
    if native < COARSE:
        # An enlarged image shows nothing beyond half its own side; what is there is noise of the views.
        power[frequency > native // 2] = 0
        power[:, frequency > native // 2] = 0
    total = power.sum()
    if total / (SIDE * SIDE) / free.sum() < (COARSE_PLAIN if native < COARSE else PLAIN):
        return "plain"
    rows = power[:, frequency <= 1].sum() / total
    columns = power[frequency <= 1].sum() / total
    if max(rows, columns) > 0.55 and min(rows, columns) < 0.25 * max(rows, columns):
        return "striped"
    down, across = np.unravel_index(int(power.argmax()), power.shape)
    return "checkered" if min(frequency[down], frequency[across]) > 1 else "dotted"


@lru_cache(maxsize=1)
def _blur_matrix() -> np.ndarray:
    """Gaussian of sigma 8 along one axis as a matrix, edges repeated."""
    taps = np.arange(-24, 25)
    weights = np.exp(-(taps**2) / (2 * 8.0**2))
    weights /= weights.sum()
    matrix = np.zeros((SIDE, SIDE))
    for row in range(SIDE):
        np.add.at(matrix[row], np.clip(row + taps, 0, SIDE - 1), weights)
    return matrix.astype(np.float32)


def _gaussian(luminance: np.ndarray) -> np.ndarray:
    matrix = _blur_matrix()
    return matrix @ luminance @ matrix.T
