"""The prompt sets of SimpleEval: fixed quotas per cell, no text twice, the same bytes for the same seed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from diffusionbench.benchmarks.simpleeval import OPEN_PROMPTS, SHAPES_PROMPTS, claims, open_world, shapes_world
from diffusionbench.benchmarks.simpleeval.blocks import TWINS, Prompt, PromptSet, PromptWorld
from diffusionbench.benchmarks.simpleeval.stream import DeadEndError, HashStream
from diffusionbench.errors import RequestError
from diffusionbench.prompts import PromptList, PromptSource
from diffusionbench.registry import nearest
from diffusionbench.sample import Item
from diffusionbench.specs import PromptSpec

WORLDS: Final[dict[str, PromptWorld]] = {"open": open_world.WORLD, "shapes": shapes_world.WORLD}
STRATA: Final = ("easy", "medium", "hard")
#: Dealt in turn within a cell; with two blocks a cell, T0 and then one of the paraphrases.
TEMPLATES: Final = ("T0", "T1", "T0", "T2", "T3")
PARAPHRASES: Final = ("T1", "T2", "T3")
MAX_REDRAWS: Final = 100
#: Words in a row that are compared between sets, and the Jaccard index above which two prompts are near.
GRAM, NEAR = 5, 0.8


class SimpleEvalPrompts(PromptSource):
    """The sets of one world, "open" or "shapes"."""

    def __init__(self, spec: PromptSpec, world: str) -> None:
        self.spec, self.world = spec, world

    def open(self, seed: str, layout: str | None = None) -> PromptList:
        """See `PromptSource.open`.

        Raises:
            RequestError: if the seed is neither public nor bound nor sealed, or the layout is unknown.
        """
        if claims.kind_of(seed) == "other":
            raise RequestError(
                f"'{seed}' is no seed of SimpleEval. Use {claims.PUBLIC[0]} ... {claims.PUBLIC[-1]}, a bound seed "
                "(bound-<32 hex digits>) or a revealed sealed one (sealed-<name>-<64 hex digits>)."
            )
        found = build(self.world, seed, layout or self.spec.layouts[0])
        return PromptList(
            name=self.spec.name,
            digest=found.digest,
            items=tuple(Item(prompt.id, text=prompt.text, detail={"prompt": prompt}) for prompt in found.prompts),
            images_per_prompt=found.images_per_prompt,
            noise_seeds=found.noise_seeds,
            jsonl=found.jsonl,
            detail=found,
        )

    def summary(self, opened: PromptList) -> str:
        """See `PromptSource.summary`."""
        return describe(opened.detail)


OPEN = SimpleEvalPrompts(OPEN_PROMPTS, "open")
SHAPES = SimpleEvalPrompts(SHAPES_PROMPTS, "shapes")


def normalised(text: str) -> str:
    """Return a text in lower case with single spaces: prompts are the same where these are."""
    return " ".join(text.lower().split())


@lru_cache(maxsize=16)
def build(world: str, seed: str, layout: str = "standard") -> PromptSet:
    """Return the prompt set of a seed.

    Args:
        world: "open" or "shapes".
        seed: "public-0" ... "public-4", a bound seed or a sealed one (`claims.py`).

    Raises:
        RequestError: if the world or the layout is unknown.
    """
    if world not in WORLDS:
        raise RequestError(f"unknown SimpleEval world '{world}'. {nearest(world, list(WORLDS))}")
    rules = WORLDS[world]
    if layout not in rules.layouts:
        raise RequestError(f"unknown layout '{layout}' of world '{world}'. {nearest(layout, list(rules.layouts))}")
    per_cell, images = rules.layouts[layout]
    sampler = rules.sampler(seed)
    seen: set[str] = set()
    rejected: Counter[str] = Counter()
    prompts: list[Prompt] = []
    for cell, (type_, stratum) in enumerate(itertools.product(rules.types, STRATA)):
        for place in range(per_cell):
            template = ("T0" if place == 0 else PARAPHRASES[cell % 3]) if per_cell == 2 else TEMPLATES[place % 5]
            index = len(prompts) // 4
            for redraw in range(MAX_REDRAWS):
                stream = HashStream(seed, f"block/{index:04d}" + (f"/r{redraw}" if redraw else ""))
                try:
                    draft = sampler.draw(type_, stratum, stream)
                except DeadEndError:
                    rejected["dead end"] += 1
                    continue
                block = []
                for i, j in TWINS:
                    (facts, asked), name = draft.twin(i, j), f"{seed}/{index:04d}/{i}{j}"
                    text = rules.caption(facts, template)
                    block.append(Prompt(name, text, index, type_, stratum, template, facts, asked))
                texts = {normalised(prompt.text) for prompt in block}
                if len(texts) == 4 and not texts & seen:
                    break
                rejected["text seen before"] += 1
            else:
                raise RuntimeError(f"no legal block of type {type_}, {stratum}, after {MAX_REDRAWS} draws")
            seen |= texts
            prompts += block
    return PromptSet(world, seed, layout, rules.families, images, tuple(prompts), dict(rejected))


def statistics(found: PromptSet) -> dict[str, Any]:
    """Return size, digest, texts and use of facts of a set, as plain JSON."""
    texts = [prompt.text for prompt in found.prompts]
    words = [normalised(text).split() for text in texts]
    rules = WORLDS[found.world]
    used: dict[str, Counter[str]] = {}
    for prompt in found.prompts:
        for slot, fact in prompt.facts.items():
            used.setdefault(rules.kind(slot), Counter())[fact] += 1
    return {
        "world": found.world,
        "seed": found.seed,
        "layout": found.layout,
        "digest": found.digest,
        "blocks": found.num_blocks,
        "prompts": len(texts),
        "unique": len({normalised(text) for text in texts}),
        "images": len(texts) * found.images_per_prompt,
        "space": rules.space,
        "characters": _spread(len(text) for text in texts),
        "words": _spread(len(row) for row in words),
        "distinct_words": len({word for row in words for word in row}),
        "distinct_bigrams": len({pair for row in words for pair in itertools.pairwise(row)}),
        "slots": {
            kind: {"used": len(counts), "of": len(rules.vocabulary[kind]), **_spread(counts.values())}
            for kind, counts in sorted(used.items())
        },
        "templates": dict(Counter(prompt.template for prompt in found.prompts)),
        "strata": dict(Counter(prompt.stratum for prompt in found.prompts)),
        "families": dict(
            Counter(question.family for prompt in found.prompts for question in prompt.questions if not question.held)
        ),
        "rejected": dict(found.rejected),
    }


def _spread(numbers: Iterable[int]) -> dict[str, float]:
    values = list(numbers)
    return {"mean": round(sum(values) / len(values), 2), "min": min(values), "max": max(values)}


def describe(found: PromptSet) -> str:
    """Return `statistics` as lines of text."""
    facts = statistics(found)
    lines = [
        f"{facts['world']} world, seed {facts['seed']}, layout {facts['layout']}: {facts['blocks']} blocks, "
        f"{facts['prompts']} prompts ({facts['unique']} different), {facts['images']} images",
        f"sha256 {facts['digest']}",
        f"space of scenes {facts['space']:,}",
    ]
    lines += [
        f"{name} a prompt: mean {facts[name]['mean']}, {facts[name]['min']} to {facts[name]['max']}"
        for name in ("words", "characters")
    ]
    lines.append(f"{facts['distinct_words']} distinct words, {facts['distinct_bigrams']} distinct pairs of words")
    lines += [
        f"  {kind}: {use['used']} of {use['of']} facts used, each {use['min']} to {use['max']} times"
        for kind, use in facts["slots"].items()
    ]
    for name in ("templates", "strata", "families", "rejected"):
        lines.append(f"{name}: " + (", ".join(f"{key} {count}" for key, count in facts[name].items()) or "none"))
    return "\n".join(lines)


def overlaps(texts: Iterable[str], others: Iterable[str]) -> tuple[int, int]:
    """Count the prompts that are the same as, or close to, one of another set.

    Returns:
        exact: equal after normalisation; near: Jaccard index of word 5-grams (whole text if shorter) above 0.8.
    """
    theirs = [normalised(text) for text in others]
    grams = [_grams(text) for text in theirs]
    index: dict[str, set[int]] = {}
    for place, bag in enumerate(grams):
        for gram in bag:
            index.setdefault(gram, set()).add(place)
    known, exact, near = set(theirs), 0, 0
    for text in map(normalised, texts):
        exact += text in known
        bag = _grams(text)
        candidates = set().union(*(index.get(gram, set()) for gram in bag))
        near += any(len(bag & grams[place]) / len(bag | grams[place]) > NEAR for place in candidates)
    return exact, near


def _grams(text: str) -> frozenset[str]:
    words = text.split()
    return frozenset(" ".join(words[i : i + GRAM]) for i in range(max(1, len(words) - GRAM + 1)))
