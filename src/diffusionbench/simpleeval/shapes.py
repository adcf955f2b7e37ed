"""Renderer of the `shapes` world: integers only, so a scene gives the same bytes on every machine.

Canvas 64 x 64 pixels, coordinates in 1/64 pixel, 4 x 4 samples a pixel. Other sizes are exact area means of the
64 px picture (below 64) or a canvas with all lengths doubled (128).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np

from diffusionbench.simpleeval import shapes_world as world
from diffusionbench.simpleeval.stream import Stream, octets

CANVAS: Final = 64
UNIT: Final = 64
TURN: Final = 16384
COS: Final = {degree: round(TURN * math.cos(math.radians(degree))) for degree in range(-180, 541)}
BASE_LEVELS: Final = ((40, 80), (120, 150), (190, 225))
RADII: Final = {"small": (344, 414), "large": (610, 690)}
#: Half the width of the band around the middle that no centre enters when a relation holds.
DEAD_BAND: Final = 160
TRIES_PER_OBJECT, LAYOUTS, REDRAWS = 60, 400, 20
STAR: Final = tuple(
    ((radius * COS[angle - 90]) // TURN, (radius * COS[angle - 180]) // TURN)
    for angle, radius in ((36 * i, 560 if i % 2 else 1290) for i in range(10))
)


class NoLayoutError(Exception):
    """No placement of a scene's objects was found."""


@dataclass(frozen=True)
class Thing:
    """One object to paint: group, shape, colour (RGB), radius and centre in 1/64 px, rotation in degrees."""

    group: int
    shape: str
    colour: tuple[int, int, int]
    radius: int
    x: int
    y: int
    degrees: int


def complete(facts: Mapping[str, str], stream: Stream) -> dict[str, str]:
    """All facts of a scene: those that are free (not named) are drawn uniformly."""
    full = dict(facts)
    for group in range(1, world.num_groups(facts) + 1):
        if f"size{group}" not in full:
            full[f"size{group}"] = stream.choice(world.SIZES)
    if "background" not in full:
        full["background"] = stream.choice(world.BACKGROUNDS)
    return full


def render(scene: Mapping[str, str], seed: str, path: str, size: int = CANVAS) -> np.ndarray:
    """Paint a scene.

    Args:
        scene: facts by slot (`shapes_world`); sizes and background may be missing and are then drawn.
        seed, path: everything not stated by the scene follows from these two.
        size: side in pixels, 1..64 or 128.

    Returns:
        uint8 [size, size, 3].

    Raises:
        ValueError: if the size is not supported.
        NoLayoutError: if the objects do not fit, which no legal scene reaches.
    """
    if not (1 <= size <= CANVAS or size == 2 * CANVAS):
        raise ValueError(f"shapes are rendered at 1..64 or 128 pixels, not {size}")
    facts = complete(scene, Stream(seed, path + "/free"))
    scale = 2 if size > CANVAS else 1
    for redraw in range(REDRAWS + 1):
        suffix = f"/r{redraw}" if redraw else ""
        stream = Stream(seed, f"{path}{suffix}/lay")
        image = _background(facts["background"], stream, scale)
        try:
            things = _things(facts, stream)
        except NoLayoutError:
            continue
        for thing in things:
            _paint(image, thing, scale)
        noise = np.frombuffer(octets(seed, f"{path}{suffix}/nz", image.size), np.uint8).astype(np.int64) % 11 - 5
        picture = np.clip(image + noise.reshape(image.shape), 0, 255).astype(np.uint8)
        return picture if size >= CANVAS else shrink(picture, size)
    raise NoLayoutError(f"no room for {dict(scene)}")


def background(path: str, seed: str, size: int) -> np.ndarray:
    """A picture of nothing: a background without objects, uint8 [size, size, 3], size a multiple of 64."""
    facts = complete({}, Stream(seed, path + "/free"))
    return np.clip(_background(facts["background"], Stream(seed, path + "/lay"), size // CANVAS), 0, 255).astype(
        np.uint8
    )


def shrink(image: np.ndarray, size: int) -> np.ndarray:
    """Exact area mean to `size` x `size`, in integers, rounded half up.

    Args:
        image: uint8 [S, S, 3] with S >= size.
    """
    side = image.shape[0]
    common = math.gcd(side, size)
    times, block = size // common, side // common
    fine = image.astype(np.int64).repeat(times, axis=0).repeat(times, axis=1)
    sums = fine.reshape(size, block, size, block, 3).sum(axis=(1, 3))
    return ((2 * sums + block * block) // (2 * block * block)).astype(np.uint8)


def _background(kind: str, stream: Stream, scale: int) -> np.ndarray:
    low, high = stream.choice(BASE_LEVELS)
    base = stream.between(low, high)
    contrast = stream.between(26, 44) * (-1 if base >= 128 else 1)
    period = stream.between(7, 10)
    phase, axis = stream.below(2 * period), stream.below(2)
    slope = stream.between(-10, 10)
    tint = [stream.between(-5, 5) for _ in range(3)]
    y, x = np.divmod(np.arange(CANVAS * CANVAS), CANVAS)
    if kind == "striped":
        lit = ((x if axis == 0 else y) + phase) // (period // 2) % 2
    elif kind == "checkered":
        cell = period // 2 + 1
        lit = ((x + phase) // cell + (y + phase) // cell) % 2
    elif kind == "dotted":
        across, down = (x + phase) % period - period // 2, (y + phase) % period - period // 2
        lit = (across**2 + down**2 <= period * period // 16 + 1).astype(np.int64)
    else:
        lit = np.zeros_like(x)
    level = base + contrast * lit + slope * (2 * x - (CANVAS - 1)) // (CANVAS - 1)
    image = (level[:, None] + np.asarray(tint)).reshape(CANVAS, CANVAS, 3)
    return np.clip(image, 0, 255).repeat(scale, axis=0).repeat(scale, axis=1)


def _things(facts: Mapping[str, str], stream: Stream) -> list[Thing]:
    groups = [
        group
        for group in range(1, world.num_groups(facts) + 1)
        for _ in range(world.COUNTS.index(facts[f"count{group}"]) + 1)
    ]
    radii = [stream.between(*RADII[facts[f"size{group}"]]) for group in groups]
    relation = facts.get("relation") if 2 in groups else None
    for _ in range(LAYOUTS):
        centres = _layout(groups, radii, relation, stream)
        if centres is not None:
            break
    else:
        raise NoLayoutError
    things = []
    for group, radius, (x, y) in zip(groups, radii, centres, strict=True):
        degrees = stream.between(-12, 12)
        brightness = stream.between(88, 106)
        red, green, blue = (
            min(255, max(0, channel * brightness // 100 + stream.between(-10, 10)))
            for channel in world.COLOURS[facts[f"colour{group}"]]
        )
        things.append(Thing(group, facts[f"shape{group}"], (red, green, blue), radius, x, y, degrees))
    return things


def _layout(
    groups: Sequence[int], radii: Sequence[int], relation: str | None, stream: Stream
) -> list[tuple[int, int]] | None:
    side, middle = CANVAS * UNIT, CANVAS * UNIT // 2
    horizontal = relation in ("left", "right")
    centres: list[tuple[int, int]] = []
    for group, radius in zip(groups, radii, strict=True):
        margin = 5 * radius // 4 + UNIT
        low, high = margin, side - margin
        # The side of the middle this group lives on, where a relation is asked for.
        first = (relation in ("left", "above")) == (group == 1)
        near = (low, middle - DEAD_BAND) if first else (middle + DEAD_BAND, high)
        for _ in range(TRIES_PER_OBJECT):
            x = stream.between(*(near if relation and horizontal else (low, high)))
            y = stream.between(*(near if relation and not horizontal else (low, high)))
            gaps = ((x - a) ** 2 + (y - b) ** 2 > (5 * (radius + other) // 4 + 128) ** 2
                    for (a, b), other in zip(centres, radii, strict=False))  # fmt: skip
            if all(gaps):
                centres.append((x, y))
                break
        else:
            return None
    if relation and not _clear(groups, centres, horizontal):
        return None
    return centres


def _clear(groups: Sequence[int], centres: Sequence[tuple[int, int]], horizontal: bool) -> bool:
    """Whether twice the mean displacement along the axis is at least three times that across it."""
    first = [centre for group, centre in zip(groups, centres, strict=True) if group == 1]
    second = [centre for group, centre in zip(groups, centres, strict=True) if group == 2]
    # Means times both counts, so that no division rounds.
    dx, dy = (
        abs(sum(c[axis] for c in first) * len(second) - sum(c[axis] for c in second) * len(first)) for axis in (0, 1)
    )
    along, across = (dx, dy) if horizontal else (dy, dx)
    return 2 * along >= 3 * across


@lru_cache(maxsize=2)
def _samples(scale: int) -> np.ndarray:
    """Sample positions along one axis, in 1/64 px of the doubled or single canvas."""
    return np.arange(CANVAS * scale * 4) * 16 + 8


def _paint(image: np.ndarray, thing: Thing, scale: int) -> None:
    x, y, radius = thing.x * scale, thing.y * scale, thing.radius * scale
    reach = 3 * radius // 2 + UNIT
    left, right = max(0, (x - reach) // UNIT), min(CANVAS * scale, (x + reach) // UNIT + 1)
    top, bottom = max(0, (y - reach) // UNIT), min(CANVAS * scale, (y + reach) // UNIT + 1)
    dx = _samples(scale)[None, 4 * left : 4 * right] - x
    dy = _samples(scale)[4 * top : 4 * bottom, None] - y
    cos, sin = COS[thing.degrees], COS[thing.degrees - 90]
    u = (dx * cos + dy * sin) // TURN * 1024 // radius
    v = (dy * cos - dx * sin) // TURN * 1024 // radius
    inside = inside_shape(thing.shape, u, v)
    cover = inside.reshape(bottom - top, 4, right - left, 4).sum(axis=(1, 3))[..., None]
    patch = image[top:bottom, left:right]
    patch[:] = (np.asarray(thing.colour) * cover + patch * (16 - cover) + 8) // 16


def inside_shape(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Whether points in shape units (1024 = radius, v down) lie inside."""
    if shape == "circle":
        return u * u + v * v <= 1000**2
    if shape == "ring":
        squared = u * u + v * v
        return (squared >= 600**2) & (squared <= 1080**2)
    if shape == "square":
        return (abs(u) <= 880) & (abs(v) <= 880)
    if shape == "plus":
        return ((abs(u) <= 370) & (abs(v) <= 1080)) | ((abs(v) <= 370) & (abs(u) <= 1080))
    if shape == "triangle":
        return (v <= 665) & (abs(u) * COS[30] - v * COS[60] <= 665 * TURN)
    inside = np.zeros(np.broadcast_shapes(u.shape, v.shape), bool)
    for (x1, y1), (x2, y2) in zip(STAR, STAR[1:] + STAR[:1], strict=True):
        if y1 == y2:
            continue
        crosses = (y1 > v) != (y2 > v)
        side = (u - x1) * (y2 - y1) < (x2 - x1) * (v - y1)
        inside ^= crosses & (side if y2 > y1 else ~side)
    return inside


def training_pair(seed: str, index: int, size: int = CANVAS) -> tuple[np.ndarray, str, dict[str, str]]:
    """One training example; held-out combinations of colour and shape never appear.

    Args:
        seed: any text; sets from different seeds are unrelated.
        index: 0, 1, ...; the example depends on (seed, index) alone.
        size: side in pixels.

    Returns:
        image uint8 [size, size, 3], caption, and the complete scene (facts by slot).
    """
    path, caption, scene = _training_scene(seed, index)
    return render(scene, seed, path, size), caption, scene


def training_scene(seed: str, index: int) -> tuple[str, dict[str, str]]:
    """Caption and complete scene of one training example, without its picture; see `training_pair`."""
    return _training_scene(seed, index)[1:]


def _training_scene(seed: str, index: int) -> tuple[str, str, dict[str, str]]:
    redraw = 0
    while True:
        path = f"train/{index}" + (f"/r{redraw}" if redraw else "")
        stream = Stream(seed, path)
        scene = _any_scene(stream)
        pairs = {(scene[f"colour{g}"], scene[f"shape{g}"]) for g in range(1, world.num_groups(scene) + 1)}
        if not pairs & world.HELD_OUT:
            break
        redraw += 1
    template = f"T{stream.below(4)}"
    hidden = [name for name in ("size", "background") if stream.below(4) == 0]
    named = {slot: fact for slot, fact in scene.items() if world.kind(slot) not in hidden}
    return path, world.caption(named, template), scene


def _any_scene(stream: Stream) -> dict[str, str]:
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
    return scene
