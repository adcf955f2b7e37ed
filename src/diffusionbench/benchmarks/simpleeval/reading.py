"""What a reader says it saw, and how a question is answered from that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from diffusionbench.benchmarks.simpleeval import shapes_world as world
from diffusionbench.benchmarks.simpleeval.bands import CENTRE_GAP, DISPLACEMENT, DISPLACEMENT_RATIO
from diffusionbench.benchmarks.simpleeval.blocks import Question

SILENT: Final = -1


@dataclass(frozen=True)
class Found:
    """One object: x to the right and y down, in pixels of the 64 px image; None is what cannot be told.

    Attributes:
        firm: which of "shape" and "size" are far from every threshold.
    """

    shape: str | None
    colour: str | None
    size: str | None
    x: float
    y: float
    firm: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Reading:
    """All objects and the background of one image, as one reader sees them.

    Attributes:
        background: None where it cannot be told.
        clear: False where something is neither clearly there nor clearly not; then no fact of an object can be told.
    """

    objects: tuple[Found, ...]
    background: str | None
    clear: bool = True


def answer(reading: Reading, question: Question, facts: Mapping[str, str]) -> int:
    """Index of the option the reading supports, or `SILENT`.

    Args:
        question: one of the prompt's.
        facts: everything the prompt names; objects are found by the facts that are not asked for.
    """
    value = _value(reading, question, facts)
    return question.options.index(value) if value in question.options else SILENT


def _value(reading: Reading, question: Question, facts: Mapping[str, str]) -> str | None:
    name = world.kind(question.slot)
    if name == "background":
        return reading.background
    if not reading.clear:
        return None
    # Twins of a colour binding can share the colour; their shapes differ in every twin, and the other way round.
    anchor = "shape" if name == "colour" or _same_colour_possible(facts) else "colour"
    if name == "relation":
        first, second = (_having(reading.objects, anchor, facts[f"{anchor}{group}"]) for group in (1, 2))
        return _relation(first, second)
    group = question.slot[-1]
    if name == "colour" and world.num_groups(facts) == 1:
        objects: Sequence[Found] = reading.objects
    else:
        objects = _having(reading.objects, anchor, facts[anchor + group])
    if name == "count":
        return _count(objects)
    return _common_colour(objects) if name == "colour" else _majority(objects, name)


def _same_colour_possible(facts: Mapping[str, str]) -> bool:
    return facts.get("colour1") == facts.get("colour2") and world.num_groups(facts) == 2


def _having(objects: Sequence[Found], anchor: str, value: str) -> list[Found]:
    return [found for found in objects if getattr(found, anchor) == value]


def _common_colour(objects: Sequence[Found]) -> str | None:
    colours = {found.colour for found in objects}
    return colours.pop() if len(colours) == 1 else None


def _majority(objects: Sequence[Found], name: str) -> str | None:
    """What more than half of the objects have, unless one of the others firmly has something else."""
    counts = Counter(getattr(found, name) for found in objects)
    value, count = max(counts.items(), key=lambda item: item[1], default=(None, 0))
    dissent = any(name in found.firm and getattr(found, name) != value for found in objects)
    return None if dissent or 2 * count <= len(objects) else value


def _count(objects: Sequence[Found]) -> str | None:
    """How many there are, unless two firmly differ in shape: three circles and a square are not four circles."""
    shapes = {found.shape for found in objects if "shape" in found.firm}
    return world.COUNTS[len(objects) - 1] if 1 <= len(objects) <= len(world.COUNTS) and len(shapes) < 2 else None


def _relation(first: Sequence[Found], second: Sequence[Found]) -> str | None:
    """Where the first group lies, if it is clearly apart along one axis: by its mean, and object by object."""
    if not first or not second:
        return None
    dx, dy = (
        sum(getattr(found, axis) for found in first) / len(first)
        - sum(getattr(found, axis) for found in second) / len(second)
        for axis in ("x", "y")
    )
    shift, across, axis = (dx, dy, "x") if abs(dx) > abs(dy) else (dy, dx, "y")
    if abs(shift) < max(DISPLACEMENT, DISPLACEMENT_RATIO * abs(across)):
        return None
    before, after = (first, second) if shift < 0 else (second, first)
    gap = min(getattr(found, axis) for found in after) - max(getattr(found, axis) for found in before)
    if gap < CENTRE_GAP:
        return None
    if axis == "x":
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"
