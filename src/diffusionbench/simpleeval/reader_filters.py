"""Reader B of the `shapes` world: matched filters on colour maps and the power spectrum of the background."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np

from diffusionbench.simpleeval import shapes_world as world
from diffusionbench.simpleeval.pixels import COARSE, LUMA, NAMES, SIDE, chroma_of, colour_labels, grow, resize
from diffusionbench.simpleeval.reading import Found, Reading
from diffusionbench.simpleeval.shapes import COS, TURN, inside_shape

GATE_LOW, GATE_RANGE = 38, 50
#: Chroma above which a pixel is of an object, not of the background.
COVERED: Final = 53
MIN_MASS: Final = 24
PEAK: Final = 0.62
RADII: Final = {"small": 6, "large": 10}
SUPPRESSION: Final = {"small": 7.5, "large": 12.0}
ROTATIONS: Final = (-8, 0, 8)
#: Pixels a template reaches from its centre.
REACH: Final = 15
#: Sides of the Fourier transforms; the smallest is taken from which no template reaches around the edge.
SIDES: Final = (32, 40, 48, 64, 80)
#: Energy per background pixel below which it is plain.
PLAIN, COARSE_PLAIN = 30, 20
#: Cycles per image beyond which there is no pattern of this world, but noise.
FINEST: Final = 16


class Filters(NamedTuple):
    """All templates: names, their conjugate spectra, norms, and the spectra of the two supports."""

    shapes: list[str]
    sizes: list[str]
    spectra: np.ndarray
    norms: np.ndarray
    support_spectra: np.ndarray
    support_areas: np.ndarray
    support_of: np.ndarray


@lru_cache(maxsize=len(SIDES))
def filters(side: int) -> Filters:
    """The matched filters for transforms of one side, computed once."""
    reach = np.arange(side)
    # Offsets from the template's centre, which sits at index 0 and wraps around.
    offset = np.where(reach <= side // 2, reach, reach - side)
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
                cover = inside_shape(shape, u, v).reshape(side, 4, side, 4).mean(axis=(1, 3))
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
    chroma = chroma_of(pixels)
    # A steep gate would swell small objects with soft edges into discs.
    gate = np.clip((chroma - GATE_LOW) / GATE_RANGE, 0, 1)
    seen = gate > 0
    labels = np.full(gate.shape, -1)
    labels[seen] = colour_labels(pixels[seen])
    mass = np.bincount(labels[seen], gate[seen], minlength=len(NAMES))
    maps = {int(colour): gate * (labels == colour) for colour in np.flatnonzero(mass >= MIN_MASS)}
    return Reading(_peaks(maps), _background(pixels @ LUMA, grow(chroma > COVERED, 2), native))


def _peaks(maps: dict[int, np.ndarray]) -> tuple[Found, ...]:
    """Greedy peaks of the normalised cross-correlation over all colours at once; keys are numbers of colours."""
    responses = [_correlate(gate) for gate in maps.values()]
    best = np.zeros((len(maps), SIDE, SIDE), np.float32)
    for layer, (response, top, left) in zip(best, responses, strict=True):
        layer[top : top + response.shape[1], left : left + response.shape[2]] = response.max(axis=0)
    y, x = np.mgrid[:SIDE, :SIDE]
    bank, names = filters(SIDES[0]), [NAMES[colour] for colour in maps]
    found = []
    while best.size and best.flat[place := int(best.argmax())] >= PEAK:
        layer_number, row, column = (int(index) for index in np.unravel_index(place, best.shape))
        response, top, left = responses[layer_number]
        template = int(response[:, row - top, column - left].argmax())
        size = bank.sizes[template]
        found.append(Found(bank.shapes[template], names[layer_number], size, float(column), float(row)))
        best[:, (y - row) ** 2 + (x - column) ** 2 <= SUPPRESSION[size] ** 2] = 0
    return tuple(found)


def _correlate(gate: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Responses [templates, h, w] within the box that holds all of a colour, and its top left corner."""
    rows, columns = np.flatnonzero(gate.any(axis=1)), np.flatnonzero(gate.any(axis=0))
    top, left = int(rows[0]), int(columns[0])
    height, width = int(rows[-1]) - top + 1, int(columns[-1]) - left + 1
    side = next(side for side in SIDES if side >= max(height, width) + REACH)
    bank = filters(side)
    padded = np.zeros((2, side, side), np.float32)
    padded[0, :height, :width] = part = gate[top : top + height, left : left + width]
    padded[1, :height, :width] = part * part
    spectrum = np.fft.rfft2(padded)
    raw = np.fft.irfft2(spectrum[0] * bank.spectra, s=(side, side))[:, :height, :width]
    local = np.fft.irfft2(spectrum[:, None] * bank.support_spectra, s=(side, side))[..., :height, :width]
    spread = local[1] - local[0] ** 2 / bank.support_areas[:, None, None]
    # A nearly empty support has no shape: the floor is four pixels' worth of contrast.
    scale = 1 / np.sqrt(np.maximum(spread, 4))
    raw /= bank.norms[:, None, None]
    for number, one in enumerate(scale):
        raw[bank.support_of == number] *= one
    return raw, top, left


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
    power[frequency > FINEST] = 0
    power[:, frequency > FINEST] = 0
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
