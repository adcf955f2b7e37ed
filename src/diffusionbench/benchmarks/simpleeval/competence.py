"""Which families of the `open` world its scorers can judge: measured once per version on labelled images, then frozen.

A family enters the headline only with joint recall of at least 0.40 and, where the scorers speak, precision of at
least 0.90. Until `competence-v1.json` lies beside this file, all families count and the status is `provisional`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np

from diffusionbench.benchmarks.simpleeval.answers import Panel, agreed, joint
from diffusionbench.benchmarks.simpleeval.blocks import Prompt

FILE: Final = Path(__file__).with_name("competence-v1.json")
RECALL, PRECISION = 0.40, 0.90


def measure(judged: Iterable[tuple[Prompt, np.ndarray]], panel: Panel) -> dict[str, dict[str, float]]:
    """Recall and precision by family on images that are known to show what their prompt asks.

    Args:
        judged: prompts with the votes int8 [2, 1 + V, Q] on such an image.
        panel: of the scorer.

    Returns:
        family -> recall, precision (1 where the scorers never spoke), n.
    """
    counts: dict[str, list[int]] = {}
    for prompt, votes in judged:
        answers = joint(agreed(votes, panel.need))
        for question, answer in zip(prompt.questions, answers.tolist(), strict=True):
            if question.answer < 0:
                continue
            right, spoken, asked = counts.setdefault(question.family, [0, 0, 0])
            counts[question.family] = [right + (answer == question.answer), spoken + (answer >= 0), asked + 1]
    return {
        family: {"recall": right / asked, "precision": right / spoken if spoken else 1.0, "n": asked}
        for family, (right, spoken, asked) in counts.items()
    }


def headline(families: tuple[str, ...], path: Path = FILE) -> tuple[tuple[str, ...], bool]:
    """The families that count, and whether that is provisional for want of a measurement."""
    if not path.exists():
        return families, True
    found: dict[str, Any] = json.loads(path.read_text())["families"]
    return tuple(name for name in families if name in found and able(found[name])), False


def able(found: dict[str, float]) -> bool:
    """Whether a family's recall and precision let it into the headline."""
    return found["recall"] >= RECALL and found["precision"] >= PRECISION
