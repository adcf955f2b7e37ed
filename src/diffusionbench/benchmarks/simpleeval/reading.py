"""The objects and the background that a reader sees, and how a question is answered from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from diffusionbench.benchmarks.simpleeval import shapes_world as world
from diffusionbench.benchmarks.simpleeval.bands import CENTRE_GAP, DISPLACEMENT, DISPLACEMENT_RATIO
from diffusionbench.benchmarks.simpleeval.blocks import Question
from diffusionbench.benchmarks.simpleeval.evidence import ABSTAIN


@dataclass(frozen=True)
class Found:
    """One object: x to the right and y down, in pixels of the 64 px image; None where it cannot be told.

    `firm` holds which of "shape" and "size" are far from every threshold.
    """

    shape: str | None
    colour: str | None
    size: str | None
    x: float
    y: float
    firm: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Reading:
    """All objects and the background (None where it cannot be told) of one image, as one reader sees them.

    `clear` is False where something is neither clearly there nor clearly not; then no fact of an object can be told.
    """

    objects: tuple[Found, ...]
    background: str | None
    clear: bool = True

    def fact(self, slot: str, facts: Mapping[str, str]) -> str | None:
        """Return the fact of a slot, or None; of several objects, that of more than half unless another firmly differs.

        Args:
            facts: everything the prompt names; objects are found by the facts that are not asked for.
        """
        name = world.kind(slot)
        if name == "background":
            return self.background
        if not self.clear:
            return None
        two = world.num_groups(facts) == 2
        # Twins of a colour binding can share the colour; their shapes differ in every twin, and the other way round.
        anchor = "shape" if name == "colour" or (two and facts.get("colour1") == facts.get("colour2")) else "colour"

        def having(group: str) -> list[Found]:
            return [found for found in self.objects if getattr(found, anchor) == facts[anchor + group]]

        if name == "relation":
            return _relation(having("1"), having("2"))
        objects = self.objects if name == "colour" and not two else having(slot[-1])
        if name == "count":
            # Three circles and a square are not four circles.
            shapes = {found.shape for found in objects if "shape" in found.firm}
            countable = 1 <= len(objects) <= len(world.COUNTS) and len(shapes) < 2
            return world.COUNTS[len(objects) - 1] if countable else None
        counts = Counter(getattr(found, name) for found in objects)
        value, count = max(counts.items(), key=lambda item: item[1], default=(None, 0))
        if name == "colour":
            return value if len(counts) == 1 else None
        dissent = any(name in found.firm and getattr(found, name) != value for found in objects)
        return None if dissent or 2 * count <= len(objects) else value


def answer(reading: Reading, question: Question, facts: Mapping[str, str]) -> int:
    """Return the index of the option the reading supports, or `ABSTAIN`; `facts` is everything the prompt names."""
    value = reading.fact(question.slot, facts)
    return question.options.index(value) if value in question.options else ABSTAIN


def _relation(first: Sequence[Found], second: Sequence[Found]) -> str | None:
    """Return where the first group lies, if it is clearly apart along one axis: by its mean, and object by object."""
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
    return {"x": ("left", "right"), "y": ("above", "below")}[axis][int(shift > 0)]
