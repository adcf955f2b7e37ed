"""The rendered world `shapes`: which facts a scene can hold, how blocks are drawn, how captions read.

Slots: shape1, colour1, size1, count1, the same for group 2, relation (of group 1 to group 2), background. Facts are
words. Colour, shape, count and (with two groups) relation are always named; a fact that is not named is free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from diffusionbench.benchmarks.simpleeval.blocks import BlockSampler, Draft, PromptWorld, Question
from diffusionbench.benchmarks.simpleeval.open_words import article
from diffusionbench.benchmarks.simpleeval.shapes_facts import COLOURS, HELD_OUT, SHAPES
from diffusionbench.benchmarks.simpleeval.stream import HashStream

SIZES: Final = ("small", "large")
COUNTS: Final = ("one", "two", "three", "four")
RELATIONS: Final = ("left", "right", "above", "below")
BACKGROUNDS: Final = ("plain", "striped", "checkered", "dotted")
VOCABULARY: Final[dict[str, tuple[str, ...]]] = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "size": SIZES,
    "count": COUNTS,
    "relation": RELATIONS,
    "background": BACKGROUNDS,
}

FAMILIES: Final = ("colour", "shape", "size", "relation", "count", "background", "binding")
TYPES: Final = (
    "colour-shape", "colour-count", "colour-relation", "shape-size", "shape-background", "size-relation", "size-count",
    "count-background", "relation-background", "binding-colour-horizontal", "binding-colour-vertical", "binding-shape",
)  # fmt: skip
OPTIONS: Final = 4
#: Layout -> (blocks per cell, images per prompt).
LAYOUTS: Final = {"quick": (2, 2), "standard": (5, 4), "full": (15, 4)}
PLURALS: Final = {shape: f"{shape}es" if shape == "plus" else f"{shape}s" for shape in SHAPES}
RELATION_WORDS: Final = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
INVERSE: Final = {"left": "right", "right": "left", "above": "below", "below": "above"}


def kind(slot: str) -> str:
    """Return the kind of fact a slot holds: its name without the group number."""
    return slot.rstrip("12")


def num_groups(facts: Mapping[str, str]) -> int:
    """Return 1 or 2."""
    return 2 if "shape2" in facts else 1


class ShapesBlockSampler(BlockSampler):
    """Draws blocks of two-by-two scenes of shapes."""

    items = VOCABULARY

    def draw(self, type_: str, stratum: str, stream: HashStream) -> Draft:
        """See `BlockSampler.draw`."""
        families = type_.split("-")
        binding = families[0] == "binding"
        contrasted = [families[1]] * 2 if binding else families
        two = binding or "relation" in contrasted or (stratum == "hard" and "count" not in contrasted)
        groups = (1, 2) if two else (1,)
        subject = stream.choice(groups)
        named = {"size", "background"} & set(contrasted)
        optional = [name for name in ("size", "background") if name not in contrasted]
        named |= set(optional) if stratum == "hard" else {stream.choice(optional)} if stratum == "medium" else set()
        slots = [name + str(group) for group in groups for name in ("shape", "colour", "count")]
        slots += [f"size{group}" for group in groups if "size" in named]
        slots += ["relation"] if two else []
        slots += ["background"] if "background" in named else []
        if binding:
            targets = [f"{contrasted[0]}1", f"{contrasted[0]}2"]
        else:
            targets = [name if name in ("relation", "background") else f"{name}{subject}" for name in contrasted]
        if "size" in contrasted and stratum != "hard":
            # The other group's size stays free unless everything is named.
            slots = [slot for slot in slots if kind(slot) != "size" or slot in targets]

        # What each slot holds, or may hold.
        context: dict[str, tuple[str, ...]] = {}
        for slot in targets:
            shared = binding and context.get(targets[0])
            context[slot] = shared or self._option_set(slot, _legal(slot, two, context), stream)
        for slot in slots:
            if slot not in targets:
                legal = _legal(slot, two, context)
                if slot == "relation" and type_.startswith("binding-colour"):
                    legal = RELATIONS[:2] if type_.endswith("horizontal") else RELATIONS[2:]
                context[slot] = (self.asked[kind(slot)].next(legal.__contains__),)
        facts = {slot: context[slot][0] for slot in slots if slot not in targets}
        # Twins of a binding can share the very fact by which the other one is told apart.
        unreadable = "" if not binding else "shape" if contrasted[0] == "colour" else "colour"
        # A held question leaves out only the facts that the twins can really show in the other group.
        shown = {slot: values[:2] for slot, values in context.items()}
        probes = []
        for slot, fact in facts.items():
            if kind(slot) != unreadable:
                options = self._option_set(slot, _legal(slot, two, shown), stream, given=(fact,))
                probes.append(Question(kind(slot), slot, options, options.index(fact), held=True))
        for slot in (*(f"size{group}" for group in groups), "background"):
            if slot not in context:
                probes.append(Question(kind(slot), slot, VOCABULARY[kind(slot)], held=True))
        first, second = (
            Question("binding" if binding else name, slot, context[slot])
            for name, slot in zip(contrasted, targets, strict=True)
        )
        return Draft(facts, (first, second), tuple(probes))

    def _option_set(
        self, slot: str, pool: Sequence[str], stream: HashStream, given: tuple[str, ...] = ()
    ) -> tuple[str, ...]:
        chosen = list(given)
        sampler = (self.held if given else self.asked)[kind(slot)]
        while len(chosen) < min(OPTIONS, len(pool)):
            chosen.append(sampler.next(lambda item: item in pool and item not in chosen))
        return tuple(stream.shuffle(chosen))


def allowed(slot: str, two: bool) -> tuple[str, ...]:
    """Return the facts a slot may hold, with one group or two."""
    return COUNTS[:2] if two and kind(slot) == "count" else VOCABULARY[kind(slot)]


def _legal(slot: str, two: bool, context: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the facts a slot may hold beside those of the other group: the two differ in shape and in colour."""
    other = kind(slot) + ("2" if slot.endswith("1") else "1")
    taken = context.get(other, ()) if kind(slot) in ("shape", "colour") else ()
    return tuple(fact for fact in allowed(slot, two) if fact not in taken)


def noun_phrase(facts: Mapping[str, str], group: int) -> str:
    """Return number word, size, colour and shape of one group, such as "two small red circles"."""
    count, shape = facts[f"count{group}"], facts[f"shape{group}"]
    noun = shape if count == "one" else PLURALS[shape]
    return " ".join(word for word in (count, facts.get(f"size{group}"), facts[f"colour{group}"], noun) if word)


def caption(facts: Mapping[str, str], template: str) -> str:
    """Return the prompt text of a scene.

    Args:
        facts: named facts by slot.
        template: "T0" to "T3".
    """
    two = num_groups(facts) == 2
    first = noun_phrase(facts, 1)
    second = noun_phrase(facts, 2) if two else ""
    both = f"{first} {RELATION_WORDS[facts['relation']]} {second}" if two else first
    background = facts.get("background")
    ground = f"on {article(background)} {background} background" if background else ""
    ending = f" The background is {background}." if background else ""
    if template == "T0":
        return f"{both} {ground}".rstrip()
    if template == "T1":
        return f"{ground}: {both}" if ground else both
    if template == "T2":
        return f"an image of {both}.{ending}"
    single = facts["count1"] == "one"
    text = f"There {'is' if single else 'are'} {first}."
    if two:
        verb = "is" if facts["count2"] == "one" else "are"
        inverse = RELATION_WORDS[INVERSE[facts["relation"]]]
        text += f" There {verb} {second} {inverse} {'it' if single else 'them'}."
    return text + ending


def touches_held_out(facts: Mapping[str, str]) -> bool:
    """Return whether a scene holds a combination of colour and shape that is never rendered for training."""
    groups = range(1, num_groups(facts) + 1)
    return any((facts[f"colour{group}"], facts[f"shape{group}"]) in HELD_OUT for group in groups)


_SINGLE: Final = len(SHAPES) * len(COLOURS) * len(SIZES) * len(COUNTS)
_PAIRS: Final = len(SHAPES) * (len(SHAPES) - 1) * len(COLOURS) * (len(COLOURS) - 1) * (len(SIZES) * 2) ** 2
SPACE: Final = len(BACKGROUNDS) * (_SINGLE + _PAIRS * len(RELATIONS))
WORLD: Final = PromptWorld(TYPES, FAMILIES, LAYOUTS, VOCABULARY, ShapesBlockSampler, caption, kind, SPACE)
