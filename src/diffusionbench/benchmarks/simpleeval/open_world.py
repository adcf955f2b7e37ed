"""The world of natural prompts, `open`: which facts a scene has and how blocks are drawn (`wording.py` writes them).

Slots: object, colour, material, action, count (of the object), companion and companion_colour, companion_material,
companion_action, relation (of object to companion), place, light, style.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from diffusionbench.benchmarks.simpleeval.blocks import Contrast, Draft
from diffusionbench.benchmarks.simpleeval.decks import Deck
from diffusionbench.benchmarks.simpleeval.space import space
from diffusionbench.benchmarks.simpleeval.stream import Stream
from diffusionbench.benchmarks.simpleeval.vocabulary import clash, kind_of, owner_of, vocabulary
from diffusionbench.benchmarks.simpleeval.wording import caption

__all__ = ["FAMILIES", "LAYOUTS", "TYPES", "VOCABULARY", "Drawer", "caption", "kind", "space"]

FAMILIES: Final = (
    "object", "colour", "material", "action", "companion", "relation", "count", "place", "light", "style", "binding",
)  # fmt: skip
TYPES: Final = (
    "object-colour",
    "object-place",
    "object-relation",
    "colour-action",
    "colour-light",
    "material-place",
    "material-companion",
    "material-count",
    "action-style",
    "action-companion",
    "relation-companion",
    "relation-style",
    "count-light",
    "count-style",
    "place-light",
    "binding-colour",
    "binding-material",
    "binding-action",
)
OPTIONS: Final = 4
LAYOUTS: Final = {"quick": (2, 2), "standard": (10, 4), "wide": (20, 2)}
#: Facts are settled in this order, so that each finds the ones it depends on; light decides which places are left.
ORDER: Final[tuple[str, ...]] = (
    "object", "companion", "relation", "count", "light", "place", "action", "companion_action",
    "colour", "companion_colour", "material", "companion_material", "style",
)  # fmt: skip
#: What a noun may not be if it is to take a fact of its own.
REFUSES: Final = {"colour": ("plain",), "material": ("plain", "solid"), "count": ("uncounted",), "action": ()}
HORIZONTAL: Final = ("to the left of", "to the right of")


def kind(slot: str) -> str:
    """The deck a slot draws from."""
    return slot if slot in ("object", "companion") else kind_of(slot)


VOCABULARY: Final[dict[str, tuple[str, ...]]] = {
    name: vocabulary().facts[kind_of(name)]
    for name in ("object", "colour", "material", "action", "companion", "relation", "count", "place", "light", "style")
}


def _deck_items() -> dict[str, tuple[str, ...]]:
    """Vocabulary by deck: animals and things are dealt apart, because a block wants one or the other."""
    nouns = vocabulary().nouns
    items = {name: facts for name, facts in VOCABULARY.items() if name not in ("object", "companion")}
    for slot in ("object", "companion"):
        items[slot] = tuple(name for name in nouns if nouns[name].group != "animal")
        items[f"{slot} animal"] = tuple(name for name in nouns if nouns[name].group == "animal")
    return items


def _deck_of(slot: str, plan: Plan) -> str:
    return f"{slot} animal" if slot in plan.animals else kind(slot)


@dataclass
class Plan:
    """Which slots a block has, before any fact is drawn.

    Attributes:
        type: block type.
        targets: slots of the two contrasts.
        animals: nouns that are animals.
        slots: every named slot.
    """

    type: str
    targets: tuple[str, str]
    animals: set[str]
    slots: set[str] = field(default_factory=set)

    @property
    def binding(self) -> str | None:
        """The kind of fact that both nouns carry in a binding block."""
        return self.type.removeprefix("binding-") if self.type.startswith("binding-") else None


class Drawer:
    """Draws the blocks of one set; its decks remember what has been used."""

    def __init__(self, seed: str) -> None:
        # Distractors of held questions have decks of their own: what they skip must not become the next facts.
        self._decks, self._held_decks = (
            {name: Deck(items, Stream(seed, f"{path}/{name}")) for name, items in _deck_items().items()}
            for path in ("deck", "held")
        )

    def draw(self, type_: str, stratum: str, stream: Stream) -> Draft:
        """One block.

        Args:
            type_: one of `TYPES`.
            stratum: "easy", "medium" or "hard".
            stream: the block's own.

        Raises:
            DeadEndError: if no legal fact is left for a slot.
        """
        plan = _plan(type_, stream)
        _fill(plan, {"easy": 0, "medium": 1, "hard": 3}[stratum], stratum != "easy", stream)
        context: dict[str, tuple[str, ...]] = {"binding": (plan.binding,)} if plan.binding else {}
        sets: dict[str, tuple[str, ...]] = {}
        for slot in ORDER:
            if slot not in plan.slots:
                continue
            if slot not in plan.targets:
                context[slot] = (self._deal(slot, plan, context),)
                continue
            if plan.binding and sets:
                sets[slot] = next(iter(sets.values()))
            else:
                sets[slot] = self._option_set(slot, plan, context, (), stream)
            context[slot] = sets[slot]
        facts = {slot: context[slot][0] for slot in ORDER if slot in plan.slots and slot not in plan.targets}
        held = tuple(self._held(slot, plan, context, sets, stream) for slot in facts)
        first, second = (
            Contrast("binding" if plan.binding else slot.removeprefix("companion_"), slot, sets[slot])
            for slot in plan.targets
        )
        return Draft(facts, (first, second), held)

    def _held(
        self,
        slot: str,
        plan: Plan,
        context: Mapping[str, tuple[str, ...]],
        sets: Mapping[str, tuple[str, ...]],
        stream: Stream,
    ) -> Contrast:
        """A held question: as many options as fit beside what the twins really show."""
        shown = {**context, **{target: options[:2] for target, options in sets.items()}}
        fact = shown.pop(slot)
        return Contrast(kind(slot).removeprefix("companion_"), slot, self._option_set(slot, plan, shown, fact, stream))

    def _option_set(
        self, slot: str, plan: Plan, context: Mapping[str, tuple[str, ...]], given: tuple[str, ...], stream: Stream
    ) -> tuple[str, ...]:
        chosen = list(given)
        while len(chosen) < OPTIONS:
            chosen.append(self._deal(slot, plan, context, chosen, held=bool(given)))
        return tuple(stream.shuffle(chosen))

    def _deal(
        self,
        slot: str,
        plan: Plan,
        context: Mapping[str, tuple[str, ...]],
        chosen: Sequence[str] = (),
        held: bool = False,
    ) -> str:
        sideways = slot == "relation" and plan.binding is not None and not chosen
        own = [kind_of(name) for name in plan.slots if name != slot and owner_of(name) == slot]
        refused = frozenset(tag for name in own for tag in REFUSES[name])

        def legal(fact: str) -> bool:
            if sideways and fact not in HORIZONTAL:
                return False
            return _apart(fact, slot, plan, chosen) and _fits(fact, slot, plan, context, refused)

        decks = self._held_decks if held else self._decks
        return decks[_deck_of(slot, plan)].deal(legal)


def _plan(type_: str, stream: Stream) -> Plan:
    """Contrasted slots, what they need, and whether the nouns are animals."""
    families = type_.split("-")
    if families[0] == "binding":
        name = families[1]
        animals = {"object", "companion"} if name == "action" else set()
        targets = (name, f"companion_{name}")
        return Plan(type_, targets, animals, {"object", "companion", "relation", *targets})
    if "action" in families:
        animals = {"object"}
    elif {"colour", "material"} & set(families):
        animals = set()
    else:
        animals = {"object"} if stream.below(3) == 0 else set()
    slots = ["companion_colour" if name == "colour" and animals else name for name in families]
    needed = {"object"} | ({"companion"} if {"relation", "companion_colour"} & set(slots) else set())
    plan = Plan(type_, (slots[0], slots[1]), animals, needed | set(slots))
    if "companion" in plan.slots:
        _cast_companion(plan, stream)
    return plan


def _cast_companion(plan: Plan, stream: Stream) -> None:
    """Whether the companion is an animal: never beside one, and seldom."""
    if "object" not in plan.animals and stream.below(3) == 0:
        plan.animals.add("companion")


def _fill(plan: Plan, least: int, more: bool, stream: Stream) -> None:
    """Add fillers, the held facts: `least`, and one more half of the time; fewer where no more fit."""
    for _ in range(least + (stream.below(2) if more else 0)):
        fitting = _fitting(plan)
        if not fitting:
            return
        slot = stream.choice(fitting)
        plan.slots.add(slot)
        if slot == "companion":
            _cast_companion(plan, stream)


def _fitting(plan: Plan) -> list[str]:
    """Slots that may still be named, in a fixed order."""
    slots, companion = plan.slots, "companion" in plan.slots
    kinds = {kind_of(slot) for slot in slots}
    out = [slot for slot in ("place", "light", "style") if slot not in slots]
    if plan.binding:
        return out
    if "count" not in slots and not companion:
        out.append("companion")
    if companion and "relation" not in slots:
        out.append("relation")
    if "count" not in slots and not companion:
        out.append("count")
    if "object" in plan.animals:
        out += [] if "action" in slots else ["action"]
        out += [f"companion_{name}" for name in ("colour", "material") if companion and name not in kinds]
    else:
        out += [name for name in ("colour", "material") if name not in kinds]
    return out


def _fits(
    fact: str, slot: str, plan: Plan, context: Mapping[str, tuple[str, ...]], refused: frozenset[str] = frozenset()
) -> bool:
    """Whether a fact goes with every fact that the other slots hold or may hold; a noun, without the refused tags."""
    words = vocabulary()
    if slot in ("object", "companion"):
        noun = words.nouns[fact]
        if refused & noun.tags:
            return False
        for other in context.get("companion" if slot == "object" else "object", ()):
            same_class = words.nouns[other].group == noun.group and plan.binding != "action"
            if same_class or words.alike("noun", fact, other):
                return False
    facts = [(slot, fact)]
    if plan.binding and slot in plan.targets:
        # Both nouns of a binding take every option.
        facts = [(target, fact) for target in plan.targets]
    return not any(clash(one, (other, value)) for one in facts for other, values in context.items() for value in values)


def _apart(fact: str, slot: str, plan: Plan, chosen: Sequence[str]) -> bool:
    """Whether a fact is easily told from those already in the option set; things come from different classes."""
    words = vocabulary()
    name = kind_of(slot)
    if any(words.alike(name, fact, other) for other in chosen):
        return False
    if name == "noun" and slot not in plan.animals:
        return all(words.nouns[fact].group != words.nouns[other].group for other in chosen)
    return True
