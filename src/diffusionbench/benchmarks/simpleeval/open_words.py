"""The vocabulary of natural prompts (`vocabulary.yaml`), which facts go together, and how they are worded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from ruamel.yaml import YAML

KINDS: Final = ("colour", "material", "action", "light", "style", "relation", "count")
#: Facts that belong to one noun rather than to the scene.
OWN: Final = ("colour", "material", "action", "count")


@dataclass(frozen=True)
class Noun:
    """One noun: class, plural (None where it has none of its own), article and tags (its own name and class too)."""

    name: str
    group: str
    plural: str | None
    article: str
    tags: frozenset[str]

    def __str__(self) -> str:
        """Return article and name, such as "an axe"."""
        return f"{self.article} {self.name}"


@dataclass(frozen=True)
class Vocabulary:
    """Everything in the file.

    Attributes:
        nouns: by name.
        facts: kind -> facts in file order; "noun" and "place" among the kinds.
        tags: kind -> fact -> tags, the fact itself and "any" among them.
        apart: kind -> unordered pairs that share no option set.
        implausible: rows (kind, tag, kind, tag).
    """

    nouns: Mapping[str, Noun]
    facts: Mapping[str, tuple[str, ...]]
    tags: Mapping[str, Mapping[str, frozenset[str]]]
    apart: Mapping[str, frozenset[frozenset[str]]]
    implausible: tuple[tuple[str, str, str, str], ...]

    def alike(self, kind: str, first: str, second: str) -> bool:
        """Return whether two facts are the same or too alike to be told apart easily."""
        return first == second or frozenset((first, second)) in self.apart.get(kind, ())

    def meets(self, fact: tuple[str, str], kind: str, tag: str) -> bool:
        """Return whether a fact, given as (slot, fact), is of a rule's kind and carries its tag."""
        slot, value = fact
        mine = kind_of(slot)
        return kind in (mine, slot) and tag in self.tags[mine].get(value, frozenset((value, "any")))


def kind_of(slot: str) -> str:
    """Return the kind of fact a slot holds: "companion_colour" a colour, "object" and "companion" nouns."""
    return "noun" if slot in ("object", "companion") else slot.removeprefix("companion_")


def owner_of(slot: str) -> str | None:
    """Return the noun slot a fact belongs to, or None for facts of the scene."""
    if slot == "object" or slot in OWN:
        return "object"
    return "companion" if slot.startswith("companion") else None


@cache
def clash(first: tuple[str, str], second: tuple[str, str]) -> bool:
    """Return whether a rule of the vocabulary forbids two facts, each given as (slot, fact), in one scene.

    Facts of two different nouns never clash, except an action with the companion.
    """
    slots = first[0], second[0]
    owners = {owner_of(slot) for slot in slots}
    if None not in owners and len(owners) == 2 and not {"companion", "action"} <= set(slots):
        return False
    words = vocabulary()
    return any(
        words.meets(one, row[0], row[1]) and words.meets(other, row[2], row[3])
        for row in words.implausible
        for one, other in ((first, second), (second, first))
    )


@cache
def vocabulary() -> Vocabulary:
    """Read the file, once."""
    raw = YAML(typ="safe").load(Path(__file__).with_name("vocabulary.yaml").read_text())
    nouns: dict[str, Noun] = {}
    for group, rows in raw["nouns"].items():
        for row in rows:
            name = row["noun"]
            own = frozenset((name, group, "any", *row.get("tags", ())))
            nouns[name] = Noun(name, group, row.get("plural"), "an" if row.get("an") else "a", own)
    groups = {place: group for group, places in raw["place"].items() for place in places}
    facts: dict[str, tuple[str, ...]] = {kind: tuple(raw[kind]) for kind in KINDS}
    facts |= {"noun": tuple(nouns), "place": tuple(groups), "binding": ("colour", "material", "action")}
    tags = {kind: {fact: frozenset((fact, "any")) for fact in items} for kind, items in facts.items()}
    tags["noun"] = {name: noun.tags for name, noun in nouns.items()}
    tags["place"] = {place: frozenset((place, group, "any")) for place, group in groups.items()}
    apart = {
        kind: frozenset(frozenset((a, b)) for group in groups for a in group for b in group if a != b)
        for kind, groups in raw["apart"].items()
    }
    return Vocabulary(nouns, facts, tags, apart, tuple(tuple(row) for row in raw["implausible"]))


def article(word: str) -> str:
    """Return "an" before a vowel, else "a"."""
    return "an" if word[0] in "aeiou" else "a"


def noun_phrase(facts: Mapping[str, str], slot: str) -> str:
    """Return article or number word, colour, noun, "made of" and material, such as "an orange boot made of glass".

    Args:
        facts: of the scene.
        slot: "object" or "companion".
    """
    noun = vocabulary().nouns[facts[slot]]
    prefix = "" if slot == "object" else "companion_"
    colour, material, count = (facts.get(prefix + kind) for kind in ("colour", "material", "count"))
    name = noun.name if count in (None, "one") or noun.plural is None else noun.plural
    first = count or (article(colour) if colour else noun.article)
    return " ".join(word for word in (first, colour, name, f"made of {material}" if material else None) if word)


def caption(facts: Mapping[str, str], template: str) -> str:
    """Return the prompt text of a scene.

    Args:
        facts: named facts by slot.
        template: "T0" to "T3".
    """
    words = [noun_phrase(facts, "object"), facts.get("action")]
    if "companion" in facts:
        words += [facts.get("relation", "next to"), noun_phrase(facts, "companion"), facts.get("companion_action")]
    what = " ".join(word for word in words if word)
    place, light, style = facts.get("place"), facts.get("light"), facts.get("style")
    where = ", ".join(part for part in (place, light) if part)
    if template == "T0":
        return ", ".join(part for part in (f"{style} of {what}" if style else what, where) if part)
    if template == "T1":
        start = f"{where[0].upper() if place else where[0]}{where[1:]}: " if where else ""
        return f"{start}{what}" + (f", shown as {style}" if style else "")
    if template == "T2":
        said = f"Generate {style or 'an image'} with {what}."
        ends = [(place, "The place: "), (light, "The light: ")]
    else:
        said = f"There {'is' if facts.get('count', 'one') == 'one' else 'are'} {what}."
        ends = [(place, "The scene is set "), (light, "It happens "), (style, "The whole picture is ")]
    return " ".join([said, *(f"{start}{fact}." for fact, start in ends if fact)])


def scorer_texts(kind: str, fact: str, noun: str | None = None) -> tuple[str, str, str]:
    """Return three sentences for one fact, never used as prompts; a scorer averages their vectors.

    Args:
        kind: object, companion, colour, material, action, count, place, light or style.
        fact: the option.
        noun: the noun that carries it, for colour, material, action and count.
    """
    nouns = vocabulary().nouns
    if kind in ("object", "companion"):
        return (f"a photo of {nouns[fact]}", f"a picture that contains {nouns[fact]}", fact)
    if kind == "place":
        return (f"a scene {fact}", f"a view taken {fact}", fact)
    if kind == "light":
        return (f"a scene {fact}", f"the light {fact}", fact)
    if kind == "style":
        return (fact, f"an image that looks like {fact}", f"artwork: {fact}")
    thing = nouns[noun or ""]
    if kind == "colour":
        return (f"{article(fact)} {fact} {thing.name}", f"{thing} that is {fact}", f"{thing}, {fact} in color")
    if kind == "material":
        return (f"{thing} made of {fact}", f"{article(fact)} {fact} {thing.name}", f"the {thing.name} is {fact}")
    if kind == "action":
        return (f"{thing} {fact}", f"an animal {fact}", f"the {thing.name} is {fact}")
    if fact == "one":
        return (f"a single {thing.name}", f"one {thing.name}", f"only one {thing.name}")
    return (f"{fact} {thing.plural}", f"a group of {fact} {thing.plural}", f"exactly {fact} {thing.plural}")
