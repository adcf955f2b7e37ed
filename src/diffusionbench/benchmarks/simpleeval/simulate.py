"""A generator of known ability for the `shapes` world: every fact right with a given probability."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from diffusionbench.benchmarks.simpleeval import shapes, shapes_world
from diffusionbench.benchmarks.simpleeval.blocks import Prompt, PromptSet
from diffusionbench.benchmarks.simpleeval.stream import Stream

#: Probabilities are compared as integers of this many parts.
PARTS: Final = 1_000_000


@dataclass(frozen=True)
class Simulated:
    """One image with what it really shows."""

    prompt: Prompt
    k: int
    image: np.ndarray
    truth: Mapping[str, str]


def simulate(prompt_set: PromptSet, accuracy: float, seed: str, size: int = shapes.CANVAS) -> Iterator[Simulated]:
    """Images of a prompt-following generator, in the order of the set, K for each prompt.

    Args:
        prompt_set: a set of the shapes world.
        accuracy: probability in 0..1 that a named fact is right; a wrong one is another value, uniformly.
        seed: any text; images of two seeds are independent.
        size: side in pixels.
    """
    for prompt in prompt_set.prompts:
        for k in range(prompt_set.images_per_prompt):
            yield draw(prompt, k, accuracy, seed, size)


def draw(prompt: Prompt, k: int, accuracy: float, seed: str, size: int = shapes.CANVAS) -> Simulated:
    """Image k of one prompt; depends on (seed, prompt id, k, accuracy) alone."""
    path = f"{prompt.id}/{k}"
    truth = spoil(prompt.facts, accuracy, Stream(seed, f"truth/{path}"))
    truth = shapes.complete(truth, Stream(seed, f"free/{path}"))
    return Simulated(prompt, k, shapes.render(truth, seed, f"image/{path}", size), truth)


def spoil(facts: Mapping[str, str], accuracy: float, stream: Stream) -> dict[str, str]:
    """A scene in which each named fact was kept with probability `accuracy`, else made another value.

    Draws until the two groups can be told apart (by shape or by colour), as the world demands.
    """
    keep = round(accuracy * PARTS)
    two = shapes_world.num_groups(facts) == 2
    while True:
        out = {}
        for slot, fact in facts.items():
            wrong = [item for item in _values(slot, two) if item != fact]
            out[slot] = fact if stream.below(PARTS) < keep else stream.choice(wrong)
        same = two and out["shape1"] == out["shape2"] and out["colour1"] == out["colour2"]
        if not same:
            return out


def _values(slot: str, two: bool) -> tuple[str, ...]:
    name = shapes_world.kind(slot)
    return shapes_world.COUNTS[:2] if two and name == "count" else shapes_world.VOCABULARY[name]


def truth_answers(prompt: Prompt, truth: Mapping[str, str]) -> np.ndarray:
    """What a perfect reader would answer: int8 [Q], -1 where the true fact is not among the options."""
    return np.asarray(
        [
            question.options.index(truth[question.slot]) if truth[question.slot] in question.options else -1
            for question in prompt.questions
        ],
        np.int8,
    )
