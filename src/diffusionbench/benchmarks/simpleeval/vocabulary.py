"""The vocabulary of natural prompts (`vocabulary.yaml`) and the rules on what goes together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from ruamel.yaml import YAML

FILE: Final = Path(__file__).with_name("vocabulary.yaml")
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
        """Whether two facts are too alike to be told apart easily, or are the same."""
        return first == second or frozenset((first, second)) in self.apart.get(kind, ())

    def meets(self, fact: tuple[str, str], kind: str, tag: str) -> bool:
        """Whether a fact, given as (slot, fact), is of a rule's kind and carries its tag."""
        slot, value = fact
        mine = kind_of(slot)
        return kind in (mine, slot) and tag in self.tags[mine].get(value, frozenset((value, "any")))


def kind_of(slot: str) -> str:
    """The kind of fact a slot holds: "companion_colour" holds a colour, "object" and "companion" hold nouns."""
    if slot in ("object", "companion"):
        return "noun"
    return slot.removeprefix("companion_")


def owner_of(slot: str) -> str | None:
    """The noun slot a fact belongs to, or None for facts of the scene."""
    if slot in ("object", "companion"):
        return slot
    if slot.startswith("companion_"):
        return "companion"
    return "object" if slot in OWN else None


def _related(first: str, second: str) -> bool:
    """Facts of two different nouns do not meet, but an action and the companion do."""
    owners = owner_of(first), owner_of(second)
    if None in owners or owners[0] == owners[1]:
        return True
    return "companion" in (first, second) and "action" in (first, second)


@cache
def clash(first: tuple[str, str], second: tuple[str, str]) -> bool:
    """Whether a rule of the vocabulary forbids two facts, each given as (slot, fact), in one scene."""
    if not _related(first[0], second[0]):
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
    raw = YAML(typ="safe").load(FILE.read_text())
    nouns: dict[str, Noun] = {}
    for group, rows in raw["nouns"].items():
        for row in rows:
            name = row["noun"]
            tags = frozenset((name, group, "any", *row.get("tags", ())))
            nouns[name] = Noun(name, group, row.get("plural"), "an" if row.get("an") else "a", tags)
    facts: dict[str, tuple[str, ...]] = {kind: tuple(raw[kind]) for kind in KINDS}
    facts["noun"] = tuple(nouns)
    facts["place"] = tuple(place for places in raw["place"].values() for place in places)
    facts["binding"] = ("colour", "material", "action")
    known = {kind: {fact: frozenset((fact, "any")) for fact in items} for kind, items in facts.items()}
    known["noun"] = {name: noun.tags for name, noun in nouns.items()}
    known["place"] = {
        place: frozenset((place, group, "any")) for group, places in raw["place"].items() for place in places
    }
    apart = {kind: frozenset(_pairs(groups)) for kind, groups in raw["apart"].items()}
    return Vocabulary(nouns, facts, known, apart, tuple(tuple(row) for row in raw["implausible"]))


def _pairs(groups: Sequence[Sequence[str]]) -> set[frozenset[str]]:
    return {frozenset((a, b)) for group in groups for a in group for b in group if a != b}
