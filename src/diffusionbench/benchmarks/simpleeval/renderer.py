"""Renderer of the `shapes` world: integers only, so a scene gives the same bytes on every machine.

Canvas 64 x 64 pixels, coordinates in 1/64 pixel, 4 x 4 samples a pixel. Other sizes are exact area means of the
64 px picture (below 64) or a canvas with all lengths doubled (128).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from diffusionbench.benchmarks.simpleeval import shapes_world as world
from diffusionbench.benchmarks.simpleeval.stream import HashStream, octets

CANVAS: Final = 64
UNIT: Final = 64
TURN: Final = 16384
COS: Final = {degree: round(TURN * math.cos(math.radians(degree))) for degree in range(-180, 541)}
BASE_LEVELS: Final = ((40, 80), (120, 150), (190, 225))
RADII: Final = {"small": (344, 414), "large": (610, 690)}
#: Half the width of the band around the middle that no centre enters when a relation holds.
DEAD_BAND: Final = 160
TRIES_PER_OBJECT, LAYOUTS, REDRAWS = 60, 400, 20
#: Circumradius of each shape in shape units (1024 = radius), rounded up.
BOUNDS: Final = {"circle": 1000, "square": 1246, "triangle": 1331, "plus": 1143, "ring": 1080, "star": 1290}
#: Shapes that are unions of boxes |u| <= a, |v| <= b.
BOXES: Final = {"square": ((880, 880),), "plus": ((370, 1080), (1080, 370))}
#: Sample positions along one axis of the doubled canvas, in 1/64 px.
SAMPLES: Final = np.arange(2 * CANVAS * 4, dtype=np.int32) * 16 + 8
#: Octet -> octet mod 11 - 5 as a signed byte.
GRAIN: Final = bytes((octet % 11 - 5) % 256 for octet in range(256))
STAR: Final = tuple(
    ((radius * COS[angle - 90]) // TURN, (radius * COS[angle - 180]) // TURN)
    for angle, radius in ((36 * i, 560 if i % 2 else 1290) for i in range(10))
)


class NoLayoutError(Exception):
    """No placement of a scene's objects was found."""


class Thing(NamedTuple):
    """One object to paint: shape, colour (RGB), radius and centre in 1/64 px, rotation in degrees."""

    shape: str
    colour: tuple[int, int, int]
    radius: int
    x: int
    y: int
    degrees: int


class Place(NamedTuple):
    """Where one object's centre may lie: ranges as low and span, and squared distances to the objects before it."""

    low_x: int
    span_x: int
    low_y: int
    span_y: int
    gaps: list[int]


def complete(facts: Mapping[str, str], stream: HashStream) -> dict[str, str]:
    """Return all facts of a scene: those that are free (not named) are drawn uniformly."""
    full = dict(facts)
    for group in range(1, world.num_groups(facts) + 1):
        if f"size{group}" not in full:
            full[f"size{group}"] = stream.choice(world.SIZES)
    if "background" not in full:
        full["background"] = stream.choice(world.BACKGROUNDS)
    return full


def render(scene: Mapping[str, str], seed: str, path: str, size: int = CANVAS) -> np.ndarray:
    """Paint a scene: uint8 [size, size, 3], size 1..64 or 128.

    Args:
        scene: facts by slot (`shapes_world`); sizes and background may be missing and are then drawn.
        seed, path: everything not stated by the scene follows from these two.

    Raises:
        ValueError: if the size is not supported.
        NoLayoutError: if the objects do not fit, which no legal scene reaches.
    """
    if not (1 <= size <= CANVAS or size == 2 * CANVAS):
        raise ValueError(f"shapes are rendered at 1..64 or 128 pixels, not {size}")
    facts = complete(scene, HashStream(seed, path + "/free"))
    scale = 2 if size > CANVAS else 1
    for redraw in range(REDRAWS + 1):
        suffix = f"/r{redraw}" if redraw else ""
        stream = HashStream(seed, f"{path}{suffix}/lay")
        image = _background(facts["background"], stream, scale)
        try:
            things = _things(facts, stream)
        except NoLayoutError:
            continue
        for thing in things:
            _paint(image, thing, scale)
        grain = octets(seed, f"{path}{suffix}/nz", image.size).translate(GRAIN)
        image += np.frombuffer(grain, np.int8).reshape(image.shape)
        # In place, because numpy's own clip costs three times as much on small arrays.
        picture = np.minimum(np.maximum(image, 0, out=image), 255, out=image).astype(np.uint8)
        return picture if size >= CANVAS else shrink(picture, size)
    raise NoLayoutError(f"no room for {dict(scene)}")


def background(path: str, seed: str, size: int) -> np.ndarray:
    """Return a background without objects, uint8 [size, size, 3], size a multiple of 64."""
    facts = complete({}, HashStream(seed, path + "/free"))
    return _background(facts["background"], HashStream(seed, path + "/lay"), size // CANVAS).astype(np.uint8)


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """Shrink uint8 [S, S, 3] to `size` <= S by the exact area mean, in integers, rounded half up."""
    shares, block = _shares(image.shape[0], size)
    planes = np.ascontiguousarray(image.transpose(2, 0, 1), np.float64)
    means = (shares @ planes @ shares.T + block * block / 2) / (block * block)
    return means.astype(np.uint8).transpose(1, 2, 0).copy()


@functools.lru_cache(maxsize=8)
def _shares(side: int, size: int) -> tuple[np.ndarray, int]:
    """With each pixel cut until `block` pieces a side make one new pixel: pieces of every old in every new one.

    float64 [size, side], because products of floats are fast, and these are exact.
    """
    common = math.gcd(side, size)
    block = side // common
    return np.eye(side).repeat(size // common, axis=1).reshape(side, size, block).sum(axis=2).T.copy(), block


def _background(kind: str, stream: HashStream, scale: int) -> np.ndarray:
    low, high = stream.choice(BASE_LEVELS)
    base = stream.between(low, high)
    contrast = stream.between(26, 44) * (-1 if base >= 128 else 1)
    period = stream.between(7, 10)
    phase, axis = stream.below(2 * period), stream.below(2)
    slope = stream.between(-10, 10)
    tint = np.asarray([stream.between(-5, 5) for _ in range(3)], np.int16)
    places = np.arange(CANVAS, dtype=np.int16)
    level = base + slope * (2 * places - (CANVAS - 1)) // (CANVAS - 1) + np.zeros((CANVAS, 1), np.int16)
    if kind == "striped":
        lit = (places + phase) // (period // 2) % 2
        level += contrast * (lit if axis == 0 else lit[:, None])
    elif kind == "checkered":
        cells = (places + phase) // (period // 2 + 1)
        level += contrast * ((cells + cells[:, None]) % 2)
    elif kind == "dotted":
        squares = ((places + phase) % period - period // 2) ** 2
        level += contrast * (squares + squares[:, None] <= period * period // 16 + 1)
    # No clamping: the levels stay within 25..240 whatever is drawn.
    image = level[..., None] + tint
    return image if scale == 1 else image.repeat(scale, axis=0).repeat(scale, axis=1)


def _things(facts: Mapping[str, str], stream: HashStream) -> list[Thing]:
    groups = [
        group
        for group in range(1, world.num_groups(facts) + 1)
        for _ in range(world.COUNTS.index(facts[f"count{group}"]) + 1)
    ]
    radii = [stream.between(*RADII[facts[f"size{group}"]]) for group in groups]
    relation = facts.get("relation") if 2 in groups else None
    side, middle = CANVAS * UNIT, CANVAS * UNIT // 2
    # These rules alone decide how a layout uses its stream.
    places = []
    for number, (group, radius) in enumerate(zip(groups, radii, strict=True)):
        margin = 5 * radius // 4 + UNIT
        whole = (margin, side - margin)
        # The side of the middle this group lives on, where a relation is asked for.
        first = (relation in ("left", "above")) == (group == 1)
        near = (margin, middle - DEAD_BAND) if first else (middle + DEAD_BAND, side - margin)
        x = near if relation in ("left", "right") else whole
        y = near if relation in ("above", "below") else whole
        gaps = [(5 * (radius + other) // 4 + 128) ** 2 for other in radii[:number]]
        places.append(Place(x[0], x[1] - x[0] + 1, y[0], y[1] - y[0] + 1, gaps))
    for _ in range(LAYOUTS):
        centres = _layout(places, stream)
        if centres is not None and (relation is None or _clear(groups, centres, relation in ("left", "right"))):
            break
    else:
        raise NoLayoutError
    things = []
    for group, radius, (cx, cy) in zip(groups, radii, centres, strict=True):
        degrees = stream.between(-12, 12)
        brightness = stream.between(88, 106)
        red, green, blue = (
            min(255, max(0, channel * brightness // 100 + stream.between(-10, 10)))
            for channel in world.COLOURS[facts[f"colour{group}"]]
        )
        things.append(Thing(facts[f"shape{group}"], (red, green, blue), radius, cx, cy, degrees))
    return things


def _layout(places: Sequence[Place], stream: HashStream) -> list[tuple[int, int]] | None:
    """Draw centres by rejection, or None; most of a picture's draws happen here, so they are written out."""
    draw = stream.u64
    centres: list[tuple[int, int]] = []
    for low_x, span_x, low_y, span_y, gaps in places:
        limit_x, limit_y = 2**64 // span_x * span_x, 2**64 // span_y * span_y
        near = [(*centre, gap) for centre, gap in zip(centres, gaps, strict=True)]
        for _ in range(TRIES_PER_OBJECT):
            while (x := draw()) >= limit_x:
                pass
            while (y := draw()) >= limit_y:
                pass
            x = low_x + x % span_x
            y = low_y + y % span_y
            for near_x, near_y, gap in near:
                dx, dy = x - near_x, y - near_y
                if dx * dx + dy * dy <= gap:
                    break
            else:
                centres.append((x, y))
                break
        else:
            return None
    return centres


def _clear(groups: Sequence[int], centres: Sequence[tuple[int, int]], horizontal: bool) -> bool:
    """Return whether twice the mean displacement along the axis is at least three times that across it."""
    first = [centre for group, centre in zip(groups, centres, strict=True) if group == 1]
    second = [centre for group, centre in zip(groups, centres, strict=True) if group == 2]
    # Means times both counts, so that no division rounds.
    dx, dy = (
        abs(sum(c[axis] for c in first) * len(second) - sum(c[axis] for c in second) * len(first)) for axis in (0, 1)
    )
    along, across = (dx, dy) if horizontal else (dy, dx)
    return 2 * along >= 3 * across


def _paint(image: np.ndarray, thing: Thing, scale: int) -> None:
    x, y, radius = thing.x * scale, thing.y * scale, thing.radius * scale
    reach = BOUNDS[thing.shape] * radius // 1024 + 4
    left, right = max(0, (x - reach) // UNIT), min(CANVAS * scale, (x + reach) // UNIT + 1)
    top, bottom = max(0, (y - reach) // UNIT), min(CANVAS * scale, (y + reach) // UNIT + 1)
    dx = SAMPLES[4 * left : 4 * right] - x
    dy = SAMPLES[4 * top : 4 * bottom, None] - y
    cos, sin = COS[thing.degrees], COS[thing.degrees - 90]
    # TURN is a power of two and 32 bits hold every product, so shifts are the floor divisions of the rule.
    u = (((dx * cos + dy * sin) >> 14) << 10) // radius
    v = (((dy * cos - dx * sin) >> 14) << 10) // radius
    inside: np.ndarray = inside_shape(thing.shape, u, v).view(np.uint8)
    rows = inside[::4] + inside[1::4] + inside[2::4] + inside[3::4]
    # Four bytes of at most 4 in one word: the product's top byte is their sum.
    cover = (rows.view(np.uint32) * np.uint32(0x01010101) >> 24).astype(np.int16)[..., None]
    patch = image[top:bottom, left:right]
    patch[:] = (np.asarray(thing.colour, np.int16) * cover + patch * (16 - cover) + 8) >> 4


def inside_shape(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return whether points in shape units (1024 = radius, v down) lie inside."""
    if shape == "circle":
        return u * u + v * v <= 1000**2
    if shape == "ring":
        squared = u * u + v * v
        return (squared >= 600**2) & (squared <= 1080**2)
    if shape in BOXES:
        wide, high = abs(u), abs(v)
        return np.logical_or.reduce([(wide <= a) & (high <= b) for a, b in BOXES[shape]])
    if shape == "triangle":
        return (v <= 665) & (abs(u) * COS[30] - v * COS[60] <= 665 * TURN)
    inside = np.zeros(np.broadcast_shapes(u.shape, v.shape), bool)
    above = [y > v for _, y in STAR]
    for i, (x1, y1) in enumerate(STAR):
        x2, y2 = STAR[i - 9]
        if y1 == y2:
            continue
        crosses = above[i] != above[i - 9]
        side = u * (y2 - y1) - v * (x2 - x1) < x1 * (y2 - y1) - y1 * (x2 - x1)
        inside ^= crosses & (side if y2 > y1 else ~side)
    return inside


def training_pair(seed: str, index: int, size: int = CANVAS) -> tuple[np.ndarray, str, dict[str, str]]:
    """Return one training example; held-out combinations of colour and shape never appear.

    The example depends on (seed, index) alone; sets from different seeds are unrelated.

    Returns:
        image uint8 [size, size, 3], caption, and the complete scene (facts by slot).
    """
    path, caption, scene = training_scene(seed, index)
    return render(scene, seed, path, size), caption, scene


def training_scene(seed: str, index: int) -> tuple[str, str, dict[str, str]]:
    """Return path of the picture's stream, caption and complete scene of one training example; see `training_pair`."""
    for redraw in itertools.count():
        path = f"train/{index}" + (f"/r{redraw}" if redraw else "")
        stream = HashStream(seed, path)
        groups = stream.between(1, 2)
        scene: dict[str, str] = {}
        for group in range(1, groups + 1):
            scene[f"shape{group}"] = stream.choice([item for item in world.SHAPES if item != scene.get("shape1")])
            scene[f"colour{group}"] = stream.choice([item for item in world.COLOURS if item != scene.get("colour1")])
            scene[f"size{group}"] = stream.choice(world.SIZES)
            scene[f"count{group}"] = stream.choice(world.COUNTS[: 4 if groups == 1 else 2])
        if groups == 2:
            scene["relation"] = stream.choice(world.RELATIONS)
        scene["background"] = stream.choice(world.BACKGROUNDS)
        if not world.touches_held_out(scene):
            break
    template = f"T{stream.below(4)}"
    hidden = [name for name in ("size", "background") if stream.below(4) == 0]
    named = {slot: fact for slot, fact in scene.items() if world.kind(slot) not in hidden}
    return path, world.caption(named, template), scene
