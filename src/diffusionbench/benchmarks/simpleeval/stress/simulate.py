"""A generator of known ability for the `shapes` world: every fact right with a given probability."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from diffusionbench.benchmarks.simpleeval import renderer, shapes_world
from diffusionbench.benchmarks.simpleeval.blocks import Prompt, PromptSet
from diffusionbench.benchmarks.simpleeval.stream import HashStream

#: Probabilities are compared as integers of this many parts.
PARTS: Final = 1_000_000


@dataclass(frozen=True)
class Simulated:
    """One image with the facts it really shows."""

    prompt: Prompt
    k: int
    image: np.ndarray
    truth: Mapping[str, str]


def simulate(prompt_set: PromptSet, accuracy: float, seed: str, size: int = renderer.CANVAS) -> Iterator[Simulated]:
    """Yield images of a prompt-following generator for a set of the shapes world, in its order, K for each prompt.

    Args:
        accuracy: probability in 0..1 that a named fact is right; a wrong one is another value, uniformly.
        seed: any text; images of two seeds are independent.
    """
    for prompt in prompt_set.prompts:
        for k in range(prompt_set.images_per_prompt):
            yield draw(prompt, k, accuracy, seed, size)


def draw(prompt: Prompt, k: int, accuracy: float, seed: str, size: int = renderer.CANVAS) -> Simulated:
    """Draw image k of one prompt; depends on (seed, prompt id, k, accuracy) alone."""
    path = f"{prompt.id}/{k}"
    truth = spoil(prompt.facts, accuracy, HashStream(seed, f"truth/{path}"))
    truth = renderer.complete(truth, HashStream(seed, f"free/{path}"))
    return Simulated(prompt, k, renderer.render(truth, seed, f"image/{path}", size), truth)


def spoil(facts: Mapping[str, str], accuracy: float, stream: HashStream) -> dict[str, str]:
    """Return a scene in which each named fact was kept with probability `accuracy`, else made another value.

    Draws until the two groups can be told apart (by shape or by colour), as the world demands.
    """
    keep = round(accuracy * PARTS)
    two = shapes_world.num_groups(facts) == 2
    while True:
        out = {}
        for slot, fact in facts.items():
            wrong = [item for item in shapes_world.allowed(slot, two) if item != fact]
            out[slot] = fact if stream.below(PARTS) < keep else stream.choice(wrong)
        same = two and out["shape1"] == out["shape2"] and out["colour1"] == out["colour2"]
        if not same:
            return out


def truth_answers(prompt: Prompt, truth: Mapping[str, str]) -> np.ndarray:
    """Return the answers of a perfect reader: int8 [Q], -1 where the true fact is not among the options."""
    shown = [(truth[question.slot], question.options) for question in prompt.questions]
    return np.asarray([options.index(fact) if fact in options else -1 for fact, options in shown], np.int8)
