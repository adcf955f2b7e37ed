"""What the builder prints about a prompt set."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from typing import Any

from diffusionbench.benchmarks.simpleeval import builder
from diffusionbench.benchmarks.simpleeval.blocks import PromptSet

GRAM = 5
NEAR = 0.8


def statistics(found: PromptSet) -> dict[str, Any]:
    """Size, digest, text and use of a set, as plain JSON."""
    texts = [prompt.text for prompt in found.prompts]
    words = [builder.normalised(text).split() for text in texts]
    module = builder.world_module(found.world)
    used: dict[str, Counter[str]] = {}
    for prompt in found.prompts:
        for slot, fact in prompt.facts.items():
            used.setdefault(module.kind(slot), Counter())[fact] += 1
    return {
        "world": found.world,
        "seed": found.seed,
        "layout": found.layout,
        "digest": found.digest,
        "blocks": found.num_blocks,
        "prompts": len(texts),
        "unique": len({builder.normalised(text) for text in texts}),
        "images": len(texts) * found.images_per_prompt,
        "space": module.space(),
        "characters": _spread(len(text) for text in texts),
        "words": _spread(len(row) for row in words),
        "distinct_words": len({word for row in words for word in row}),
        "distinct_bigrams": len({pair for row in words for pair in itertools.pairwise(row)}),
        "slots": {
            kind: {"used": len(counts), "of": len(module.VOCABULARY[kind]), **_spread(counts.values())}
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
    """`statistics` in lines for people."""
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
    """Prompts that are the same as, or close to, one of another set.

    Returns:
        exact: equal after normalisation; near: Jaccard index of word 5-grams (whole text if shorter) above 0.8.
    """
    theirs = [builder.normalised(text) for text in others]
    exact_texts = set(theirs)
    index: dict[str, set[int]] = {}
    grams = [_grams(text) for text in theirs]
    for place, bag in enumerate(grams):
        for gram in bag:
            index.setdefault(gram, set()).add(place)
    exact = near = 0
    for text in map(builder.normalised, texts):
        exact += text in exact_texts
        bag = _grams(text)
        candidates = set().union(*(index.get(gram, set()) for gram in bag))
        near += any(len(bag & grams[place]) / len(bag | grams[place]) > NEAR for place in candidates)
    return exact, near


def _grams(text: str) -> frozenset[str]:
    words = text.split()
    return frozenset(" ".join(words[i : i + GRAM]) for i in range(max(1, len(words) - GRAM + 1)))
