"""What is asked of the scorers: predictions of two scorers on damaged copies of an image, and their consensus.

Predictions for one image are int8 [2, 1 + V, Q]: scorer, view (0 is the undamaged image, then the V damaged ones),
question in the prompt's order; an entry is the index of an option or `ABSTAIN`. All reported numbers follow from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from diffusionbench.benchmarks.simpleeval.blocks import Prompt

ABSTAIN: Final = -1


@dataclass(frozen=True)
class ScorerSpec:
    """How predictions become an answer.

    Attributes:
        need: damaged views that must agree.
        mirrored: which damaged views are mirror images.
        names: the two scorers.
    """

    need: int
    mirrored: tuple[bool, ...]
    names: tuple[str, str]


class Scorer:
    """The weak scorer of a world.

    Attributes:
        spec: how its predictions become an answer.
        digests: name -> SHA-256 over weights or, without weights, over thresholds and version of the code.
    """

    spec: ScorerSpec
    digests: Mapping[str, str]

    def predict(self, images: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """Answer the questions on B images uint8 [H, W, 3] by their prompts: B arrays int8 [2, 1 + V, Q]."""
        raise NotImplementedError


def majority(predictions: np.ndarray, need: int) -> np.ndarray:
    """Return each scorer's own answer: the option that at least `need` damaged views name, else `ABSTAIN`.

    Args:
        predictions: int8 [..., 1 + V, Q].

    Returns:
        int8 [..., Q].
    """
    damaged = predictions[..., 1:, :]
    answer = np.full(damaged.shape[:-2] + damaged.shape[-1:], ABSTAIN, np.int8)
    for option in range(int(predictions.max(initial=ABSTAIN)) + 1):
        answer[(damaged == option).sum(axis=-2) >= need] = option
    return answer


def consensus(alone: np.ndarray) -> np.ndarray:
    """Return the answer both scorers give, else `ABSTAIN`: int8 [2, ..., Q] to int8 [..., Q]."""
    return np.where(alone[0] == alone[1], alone[0], ABSTAIN).astype(np.int8)


def wanted(prompt: Prompt) -> np.ndarray:
    """Return the requested option of each question, int64 [Q]; -1 where nothing was requested."""
    return np.asarray([question.answer for question in prompt.questions])
