"""Words of the `open` world: four phrasings for generators, and a fifth family that only the scorer ever reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from diffusionbench.benchmarks.simpleeval.vocabulary import vocabulary

NEXT_TO: Final = "next to"


def noun_phrase(facts: Mapping[str, str], slot: str) -> str:
    """Article or number word, colour, noun, "made of" and material, such as "an orange boot made of glass".

    Args:
        facts: of the scene.
        slot: "object" or "companion".
    """
    noun = vocabulary().nouns[facts[slot]]
    prefix = "" if slot == "object" else "companion_"
    colour, material = facts.get(f"{prefix}colour"), facts.get(f"{prefix}material")
    count = facts.get(f"{prefix}count")
    name = noun.name if count in (None, "one") or noun.plural is None else noun.plural
    if count is None:
        count = ("an" if colour[0] in "aeiou" else "a") if colour else noun.article
    words = [count, colour, name, f"made of {material}" if material else None]
    return " ".join(word for word in words if word)


def subject(facts: Mapping[str, str]) -> str:
    """Noun phrase and action of the object, relation or "next to", and the companion with its action."""
    words = [noun_phrase(facts, "object"), facts.get("action")]
    if "companion" in facts:
        words += [facts.get("relation", NEXT_TO), noun_phrase(facts, "companion"), facts.get("companion_action")]
    return " ".join(word for word in words if word)


def caption(facts: Mapping[str, str], template: str) -> str:
    """The prompt text of a scene.

    Args:
        facts: named facts by slot.
        template: "T0" to "T3".
    """
    what, place, light, style = subject(facts), facts.get("place"), facts.get("light"), facts.get("style")
    where = ", ".join(part for part in (place, light) if part)
    if template == "T0":
        return ", ".join(part for part in (f"{style} of {what}" if style else what, where) if part)
    if template == "T1":
        start = f"{place[0].upper()}{where[1:]}: " if place else f"{where}: " if where else ""
        return f"{start}{what}" + (f", shown as {style}" if style else "")
    if template == "T2":
        ends = [f" The place: {place}." if place else "", f" The light: {light}." if light else ""]
        return f"Generate {style or 'an image'} with {what}." + "".join(ends)
    verb = "is" if facts.get("count", "one") == "one" else "are"
    ends = [
        f" The scene is set {place}." if place else "",
        f" It happens {light}." if light else "",
        f" The whole picture is {style}." if style else "",
    ]
    return f"There {verb} {what}." + "".join(ends)


def scorer_texts(kind: str, fact: str, noun: str | None = None) -> tuple[str, str, str]:
    """Three sentences for one fact, never used as prompts; a scorer averages their vectors.

    Args:
        kind: object, companion, colour, material, action, count, place, light or style.
        fact: the option.
        noun: the noun that carries it, for colour, material, action and count.
    """
    words = vocabulary()
    if kind in ("object", "companion"):
        item = words.nouns[fact]
        named = f"{item.article} {item.name}"
        return (f"a photo of {named}", f"a picture that contains {named}", item.name)
    if kind == "place":
        return (f"a scene {fact}", f"a view taken {fact}", fact)
    if kind == "light":
        return (f"a scene {fact}", f"the light {fact}", fact)
    if kind == "style":
        return (fact, f"an image that looks like {fact}", f"artwork: {fact}")
    thing = words.nouns[noun or ""]
    named = f"{thing.article} {thing.name}"
    if kind == "colour":
        article = "an" if fact[0] in "aeiou" else "a"
        return (f"{article} {fact} {thing.name}", f"{named} that is {fact}", f"{named}, {fact} in color")
    if kind == "material":
        article = "an" if fact[0] in "aeiou" else "a"
        return (f"{named} made of {fact}", f"{article} {fact} {thing.name}", f"the {thing.name} is {fact}")
    if kind == "action":
        return (f"{named} {fact}", f"an animal {fact}", f"the {thing.name} is {fact}")
    if fact == "one":
        return (f"a single {thing.name}", f"one {thing.name}", f"only one {thing.name}")
    return (f"{fact} {thing.plural}", f"a group of {fact} {thing.plural}", f"exactly {fact} {thing.plural}")
