"""The world of natural prompts, `open`: which facts a scene has, how blocks are drawn, how many scenes there are.

Slots: object, colour, material, action, count (of the object), companion and companion_colour, companion_material,
companion_action, relation (of object to companion), place, light, style.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from diffusionbench.benchmarks.simpleeval.blocks import BlockSampler, Contrast, Draft, PromptWorld
from diffusionbench.benchmarks.simpleeval.open_words import Noun, caption, clash, kind_of, owner_of, vocabulary
from diffusionbench.benchmarks.simpleeval.stream import HashStream

FAMILIES: Final = (
    "object", "colour", "material", "action", "companion", "relation", "count", "place", "light", "style", "binding",
)  # fmt: skip
TYPES: Final = (
    "object-colour", "object-place", "object-relation", "colour-action", "colour-light", "material-place",
    "material-companion", "material-count", "action-style", "action-companion", "relation-companion", "relation-style",
    "count-light", "count-style", "place-light", "binding-colour", "binding-material", "binding-action",
)  # fmt: skip
OPTIONS: Final = 4
LAYOUTS: Final = {"quick": (2, 2), "standard": (10, 4), "wide": (20, 2)}
#: Facts are settled in this order, so that each finds the ones it depends on; light decides which places are left.
ORDER: Final[tuple[str, ...]] = (
    "object", "companion", "relation", "count", "light", "place", "action", "companion_action",
    "colour", "companion_colour", "material", "companion_material", "style",
)  # fmt: skip
#: Tags that a noun may not have if it is to take a fact of its own.
REFUSES: Final = {"colour": ("plain",), "material": ("plain", "solid"), "count": ("uncounted",), "action": ()}
HORIZONTAL: Final = ("to the left of", "to the right of")
#: Four relations, and "next to" where none is named.
RELATIONS: Final = 5
VOCABULARY: Final[dict[str, tuple[str, ...]]] = {
    name: vocabulary().facts[kind_of(name)]
    for name in ("object", "colour", "material", "action", "companion", "relation", "count", "place", "light", "style")
}

Context = Mapping[str, Sequence[str]]


def kind(slot: str) -> str:
    """Return the kind of fact of a slot, with nouns told apart by object and companion."""
    return slot if slot in ("object", "companion") else kind_of(slot)


@dataclass
class BlockPlan:
    """Slots of a block before any fact is drawn: the contrasted ones, the nouns that are animals, all named ones."""

    type: str
    targets: tuple[str, str]
    animals: set[str]
    slots: set[str]

    @classmethod
    def of(cls, type_: str, stream: HashStream) -> BlockPlan:
        """Return contrasted slots, the slots they need, and which nouns are animals."""
        families = type_.split("-")
        if families[0] == "binding":
            name = families[1]
            animals = {"object", "companion"} if name == "action" else set()
            targets = (name, f"companion_{name}")
            return cls(type_, targets, animals, {"object", "companion", "relation", *targets})
        if "action" in families:
            animals = {"object"}
        elif {"colour", "material"} & set(families):
            animals = set()
        else:
            animals = {"object"} if stream.below(3) == 0 else set()
        first, second = ("companion_colour" if name == "colour" and animals else name for name in families)
        needed = {"object"} | ({"companion"} if {"relation", "companion_colour"} & {first, second} else set())
        plan = cls(type_, (first, second), animals, needed | {first, second})
        if "companion" in plan.slots:
            plan.choose_companion(stream)
        return plan

    @property
    def binding(self) -> str | None:
        """The kind of fact that both nouns carry in a binding block."""
        return self.type.removeprefix("binding-") if self.type.startswith("binding-") else None

    def choose_companion(self, stream: HashStream) -> None:
        """Make the companion an animal in one of three blocks, but never beside another one."""
        if "object" not in self.animals and stream.below(3) == 0:
            self.animals.add("companion")

    def fill(self, stratum: str, stream: HashStream) -> None:
        """Add fillers, the held facts: none, one or two, three or four by stratum; fewer where no more fit."""
        number = 0 if stratum == "easy" else (1 if stratum == "medium" else 3) + stream.below(2)
        for _ in range(number):
            fitting = self.fitting()
            if not fitting:
                return
            slot = stream.choice(fitting)
            self.slots.add(slot)
            if slot == "companion":
                self.choose_companion(stream)

    def fitting(self) -> list[str]:
        """Return the slots that may still be named, in a fixed order."""
        slots, companion = self.slots, "companion" in self.slots
        kinds = {kind_of(slot) for slot in slots}
        out = [slot for slot in ("place", "light", "style") if slot not in slots]
        if self.binding:
            return out
        if companion:
            out += [] if "relation" in slots else ["relation"]
        elif "count" not in slots:
            out += ["companion", "count"]
        if "object" in self.animals:
            out += [] if "action" in slots else ["action"]
            out += [f"companion_{name}" for name in ("colour", "material") if companion and name not in kinds]
        else:
            out += [name for name in ("colour", "material") if name not in kinds]
        return out

    def fits(self, fact: str, slot: str, context: Context, refused: frozenset[str]) -> bool:
        """Return whether a fact goes with all that the other slots hold or may hold; a noun, without refused tags."""
        words = vocabulary()
        if slot in ("object", "companion"):
            noun = words.nouns[fact]
            if refused & noun.tags:
                return False
            for other in context.get("companion" if slot == "object" else "object", ()):
                same_class = words.nouns[other].group == noun.group and self.binding != "action"
                if same_class or words.alike("noun", fact, other):
                    return False
        # Both nouns of a binding take every option.
        slots = self.targets if self.binding and slot in self.targets else (slot,)
        return not any(
            clash((one, fact), (other, value)) for one in slots for other, values in context.items() for value in values
        )


class OpenBlockSampler(BlockSampler):
    """Draws blocks of natural scenes; animals and things apart, because a block wants one or the other."""

    items = VOCABULARY | {
        f"{slot}{kind}": tuple(name for name, noun in vocabulary().nouns.items() if (noun.group == "animal") == animal)
        for slot in ("object", "companion")
        for kind, animal in (("", False), (" animal", True))
    }

    def draw(self, type_: str, stratum: str, stream: HashStream) -> Draft:
        """See `BlockSampler.draw`."""
        plan = BlockPlan.of(type_, stream)
        plan.fill(stratum, stream)
        context: dict[str, tuple[str, ...]] = {"binding": (plan.binding,)} if plan.binding else {}
        sets: dict[str, tuple[str, ...]] = {}
        for slot in (slot for slot in ORDER if slot in plan.slots):
            if slot not in plan.targets:
                context[slot] = (self._next(slot, plan, context),)
            else:
                shared = plan.binding and next(iter(sets.values()), None)
                context[slot] = sets[slot] = shared or self._option_set(slot, plan, context, (), stream)
        facts = {slot: context[slot][0] for slot in ORDER if slot in plan.slots and slot not in plan.targets}
        held = []
        for slot, fact in facts.items():
            # Options must fit the facts that the twins really show.
            shown = {**context, **{target: options[:2] for target, options in sets.items()}}
            del shown[slot]
            options = self._option_set(slot, plan, shown, (fact,), stream)
            held.append(Contrast(kind(slot).removeprefix("companion_"), slot, options))
        first, second = (
            Contrast("binding" if plan.binding else slot.removeprefix("companion_"), slot, sets[slot])
            for slot in plan.targets
        )
        return Draft(facts, (first, second), tuple(held))

    def _option_set(
        self, slot: str, plan: BlockPlan, context: Context, given: Sequence[str], stream: HashStream
    ) -> tuple[str, ...]:
        """Return four options, shuffled; a question on a `given` fact is a held one."""
        chosen = list(given)
        while len(chosen) < OPTIONS:
            chosen.append(self._next(slot, plan, context, chosen, held=bool(given)))
        return tuple(stream.shuffle(chosen))

    def _next(
        self, slot: str, plan: BlockPlan, context: Context, chosen: Sequence[str] = (), held: bool = False
    ) -> str:
        sideways = slot == "relation" and plan.binding is not None and not chosen
        own = [kind_of(name) for name in plan.slots if name != slot and owner_of(name) == slot]
        refused = frozenset(tag for name in own for tag in REFUSES[name])
        words = vocabulary()
        # Things come from different classes.
        apart = kind_of(slot) == "noun" and slot not in plan.animals
        groups = {words.nouns[one].group for one in chosen} if apart else set()

        def legal(fact: str) -> bool:
            """Return whether a fact goes with all others, and is easily told from the chosen ones."""
            if (sideways and fact not in HORIZONTAL) or any(words.alike(kind_of(slot), fact, one) for one in chosen):
                return False
            if groups and words.nouns[fact].group in groups:
                return False
            return plan.fits(fact, slot, context, refused)

        samplers = self.held if held else self.asked
        return samplers[f"{slot} animal" if slot in plan.animals else kind(slot)].next(legal)


@cache
def space() -> int:
    """Return the number of distinct scenes that the rules allow, wording not counted."""
    words = vocabulary()
    styles = len(words.facts["style"]) + 1
    total = 0
    for place in (None, *words.facts["place"]):

        def there(slot: str, fact: str, place: str | None = place) -> bool:
            return place is None or not clash((slot, fact), ("place", place))

        lights = 1 + sum(there("light", light) for light in words.facts["light"])
        nouns = [noun for noun in words.nouns.values() if there("object", noun.name)]
        plain, bound, bound_material = _counts(nouns, [fact for fact in words.facts["action"] if there("action", fact)])
        # Two materials are never bound in a photograph.
        total += lights * ((plain + bound) * styles + bound_material * (styles - 1))
    return total


def _counts(nouns: Sequence[Noun], actions: Sequence[str]) -> tuple[int, int, int]:
    """Count scenes without binding, with binding of colours or actions, and with binding of materials."""
    words = vocabulary()
    things = [noun for noun in nouns if noun.group != "animal"]
    animals = [noun for noun in nouns if noun.group == "animal"]
    counts = len(words.facts["count"]) + 1
    single = sum(_looks(noun) * (counts if noun.plural else 1) for noun in things)
    single += sum((len(actions) + 1) * (counts if noun.plural else 1) for noun in animals)
    pairs = 0
    for noun in things:
        pairs += _looks(noun) * sum(_differ(noun, other) for other in nouns)
        # An animal as subject: its action, and the looks of the companion.
        free = len(actions) + 1 - sum(clash(("action", action), ("companion", noun.name)) for action in actions)
        pairs += free * _looks(noun) * sum(_differ(animal, noun) for animal in animals)
    colours, materials = (np.array([len(_own(noun, kind)) for noun in things]) for kind in ("colour", "material"))
    differ = np.array([[_differ(a, b) for b in things] for a in things], dtype=np.int64)
    acting = sum(not words.alike("noun", a.name, b.name) for a in animals for b in animals) * len(actions) ** 2
    bound = len(HORIZONTAL) * (int(colours @ differ @ colours) + acting)
    return single + RELATIONS * pairs, bound, len(HORIZONTAL) * int(materials @ differ @ materials)


@cache
def _own(noun: Noun, kind: str) -> tuple[str, ...]:
    """Return the colours or materials a thing may have."""
    return tuple(fact for fact in vocabulary().facts[kind] if not clash(("object", noun.name), (kind, fact)))


@cache
def _looks(noun: Noun) -> int:
    """Count the ways to state colour and material of a thing, each or neither."""
    colours, materials = _own(noun, "colour"), _own(noun, "material")
    both = sum(not clash(("colour", c), ("material", m)) for c in colours for m in materials)
    return 1 + len(colours) + len(materials) + both


@cache
def _differ(first: Noun, second: Noun) -> bool:
    """Return whether two nouns may stand together: other classes, no look-alikes."""
    return first.group != second.group and not vocabulary().alike("noun", first.name, second.name)


WORLD: Final = PromptWorld(TYPES, FAMILIES, LAYOUTS, VOCABULARY, OpenBlockSampler, caption, kind, space)
