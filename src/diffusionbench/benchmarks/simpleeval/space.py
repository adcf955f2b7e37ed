"""Exact number of scenes the `open` world can draw: what a generator would have to know by heart."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from diffusionbench.benchmarks.simpleeval.vocabulary import Noun, clash, vocabulary

RELATIONS = 5  # four, and "next to" where none is named
HORIZONTAL = 2


@cache
def space() -> int:
    """Distinct scene specifications that the rules allow, wording not counted."""
    words = vocabulary()
    styles = len(words.facts["style"]) + 1
    without_photograph = styles - 1
    total = 0
    for place in (None, *words.facts["place"]):
        lights = 1 + sum(
            place is None or not clash(("light", light), ("place", place)) for light in words.facts["light"]
        )
        nouns = [
            noun for noun in words.nouns.values() if place is None or not clash(("object", noun.name), ("place", place))
        ]
        actions = [
            action
            for action in words.facts["action"]
            if place is None or not clash(("action", action), ("place", place))
        ]
        plain, bound, bound_material = _counts(nouns, actions)
        total += lights * ((plain + bound) * styles + bound_material * without_photograph)
    return total


def _counts(nouns: Sequence[Noun], actions: Sequence[str]) -> tuple[int, int, int]:
    """Scenes without binding, with binding of colours or actions, and with binding of materials."""
    words = vocabulary()
    things = [noun for noun in nouns if noun.group != "animal"]
    animals = [noun for noun in nouns if noun.group == "animal"]
    looks = {noun.name: _looks(noun) for noun in things}
    counts = len(words.facts["count"]) + 1
    single = sum((looks[noun.name]) * (counts if noun.plural else 1) for noun in things)
    single += sum((len(actions) + 1) * (counts if noun.plural else 1) for noun in animals)
    pairs = 0
    for noun in things:
        pairs += looks[noun.name] * sum(_differ(noun, other) for other in nouns)
        # An animal as subject: its action, and what the companion looks like.
        free = len(actions) + 1 - sum(clash(("action", action), ("companion", noun.name)) for action in actions)
        pairs += free * looks[noun.name] * sum(_differ(animal, noun) for animal in animals)
    colours = np.array([_own(noun, "colour") for noun in things])
    materials = np.array([_own(noun, "material") for noun in things])
    differ = np.array([[_differ(a, b) for b in things] for a in things], dtype=np.int64)
    acting = sum(not words.alike("noun", a.name, b.name) for a in animals for b in animals) * len(actions) ** 2
    bound = HORIZONTAL * (int(colours @ differ @ colours) + acting)
    return single + RELATIONS * pairs, bound, HORIZONTAL * int(materials @ differ @ materials)


@cache
def _own(noun: Noun, kind: str) -> int:
    return sum(not clash(("object", noun.name), (kind, fact)) for fact in vocabulary().facts[kind])


@cache
def _looks(noun: Noun) -> int:
    """Ways to state colour and material of a thing, each or neither."""
    words = vocabulary()
    colours = [c for c in words.facts["colour"] if not clash(("object", noun.name), ("colour", c))]
    materials = [m for m in words.facts["material"] if not clash(("object", noun.name), ("material", m))]
    both = sum(not clash(("colour", c), ("material", m)) for c in colours for m in materials)
    return 1 + len(colours) + len(materials) + both


@cache
def _differ(first: Noun, second: Noun) -> int:
    """Whether two nouns may stand together: other classes, no look-alikes."""
    return int(first.group != second.group and not vocabulary().alike("noun", first.name, second.name))
