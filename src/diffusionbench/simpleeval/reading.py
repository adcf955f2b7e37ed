"""What a reader says it saw, and how a question is answered from that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from diffusionbench.simpleeval import shapes_world as world
from diffusionbench.simpleeval.blocks import Question

SILENT: Final = -1
#: The longer mean displacement must be this many times the shorter one.
RELATION_RATIO: Final = 1.2


@dataclass(frozen=True)
class Found:
    """One object: x to the right and y down, in pixels of the 64 px image."""

    shape: str
    colour: str
    size: str
    x: float
    y: float


@dataclass(frozen=True)
class Reading:
    """All objects and the background of one image, as one reader sees them."""

    objects: tuple[Found, ...]
    background: str


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
        return world.COUNTS[len(objects) - 1] if 1 <= len(objects) <= len(world.COUNTS) else None
    return _majority([getattr(found, name) for found in objects])


def _same_colour_possible(facts: Mapping[str, str]) -> bool:
    return facts.get("colour1") == facts.get("colour2") and world.num_groups(facts) == 2


def _having(objects: Sequence[Found], anchor: str, value: str) -> list[Found]:
    return [found for found in objects if getattr(found, anchor) == value]


def _majority(values: Sequence[str]) -> str | None:
    counts = Counter(values).most_common(2)
    if not counts or (len(counts) == 2 and counts[0][1] == counts[1][1]):
        return None
    return counts[0][0]


def _relation(first: Sequence[Found], second: Sequence[Found]) -> str | None:
    if not first or not second:
        return None
    dx = sum(found.x for found in first) / len(first) - sum(found.x for found in second) / len(second)
    dy = sum(found.y for found in first) / len(first) - sum(found.y for found in second) / len(second)
    if max(abs(dx), abs(dy)) < RELATION_RATIO * min(abs(dx), abs(dy)) or dx == dy == 0:
        return None
    if abs(dx) > abs(dy):
        return "left" if dx < 0 else "right"
    return "above" if dy < 0 else "below"
