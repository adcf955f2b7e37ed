"""The world of natural prompts, `open`: which facts a scene has and how blocks are drawn.

Slots: object, colour, material, action, count (of the object), companion and companion_colour, companion_material,
companion_action, relation (of object to companion), place, light, style.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from diffusionbench.benchmarks.simpleeval.blocks import BlockSampler, Draft, PromptWorld, Question
from diffusionbench.benchmarks.simpleeval.open_words import caption, clash, kind_of, owner_of, vocabulary
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
#: Scenes that the rules allow; tests/diffusionbench/simpleeval/test_prompt_sets.py counts them.
SPACE: Final = 40_394_073_554
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
        for slot in (slot for slot in ORDER if slot in plan.slots):
            if slot not in plan.targets:
                context[slot] = (self._next(slot, plan, context),)
            else:
                shared = plan.binding and context.get(plan.targets[0])
                context[slot] = shared or self._option_set(slot, plan, context, (), stream)
        facts = {slot: context[slot][0] for slot in ORDER if slot in plan.slots and slot not in plan.targets}
        probes = []
        for slot, fact in facts.items():
            # Options must fit the facts that the twins really show.
            shown = {other: values[:2] for other, values in context.items() if other != slot}
            options = self._option_set(slot, plan, shown, (fact,), stream)
            family = kind(slot).removeprefix("companion_")
            probes.append(Question(family, slot, options, options.index(fact), held=True))
        first, second = (
            Question("binding" if plan.binding else slot.removeprefix("companion_"), slot, context[slot])
            for slot in plan.targets
        )
        return Draft(facts, (first, second), tuple(probes))

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
        """Return a fact that goes with all that the other slots hold, easily told from the chosen ones."""
        words, sideways = vocabulary(), slot == "relation" and plan.binding is not None and not chosen
        partner = context.get({"object": "companion", "companion": "object"}.get(slot, ""), ())
        own = [kind_of(name) for name in plan.slots if name != slot and owner_of(name) == slot]
        refused = frozenset(tag for name in own for tag in REFUSES[name])
        # Things come from different classes, and so do the two nouns of a scene unless both act.
        apart = [] if slot in plan.animals or kind_of(slot) != "noun" else [*chosen]
        apart += [] if plan.binding == "action" else partner
        groups = {words.nouns[noun].group for noun in apart}
        # Both nouns of a binding take every option.
        slots = plan.targets if plan.binding and slot in plan.targets else (slot,)

        def legal(fact: str) -> bool:
            if (sideways and fact not in HORIZONTAL) or any(
                words.alike(kind_of(slot), fact, one) for one in (*chosen, *partner)
            ):
                return False
            if kind_of(slot) == "noun" and (words.nouns[fact].group in groups or refused & words.nouns[fact].tags):
                return False
            return not any(
                clash((one, fact), (other, value))
                for one in slots
                for other, values in context.items()
                for value in values
            )

        samplers = self.held if held else self.asked
        return samplers[f"{slot} animal" if slot in plan.animals else kind(slot)].next(legal)


WORLD: Final = PromptWorld(TYPES, FAMILIES, LAYOUTS, VOCABULARY, OpenBlockSampler, caption, kind, SPACE)
