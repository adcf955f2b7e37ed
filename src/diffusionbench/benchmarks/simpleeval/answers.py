"""Votes of two scorers on damaged copies, and the one answer (or silence) they come to.

Votes of one image are int8 [2, 1 + V, Q]: scorer, view (0 is the undamaged image, then the V damaged ones), question
in the prompt's order; an entry is the index of an option or -1, silence. Everything reported later follows from them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from diffusionbench.benchmarks.simpleeval.blocks import Prompt

SILENT: Final = -1


@dataclass(frozen=True)
class Panel:
    """How votes become an answer.

    Attributes:
        need: damaged views that must agree.
        mirrored: which damaged views are mirror images.
        names: the two scorers.
    """

    need: int
    mirrored: tuple[bool, ...]
    names: tuple[str, str]


class Answerer(Protocol):
    """The weak scorer of a world."""

    panel: Panel

    @property
    def digests(self) -> Mapping[str, str]:
        """Scorer -> SHA-256 over its weights or, without weights, over its source."""
        ...

    def votes(self, images: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """Judge images.

        Args:
            images: B arrays uint8 [H, W, 3].
            prompts: the B prompts they were made for.

        Returns:
            B arrays int8 [2, 1 + V, Q].
        """
        ...


def agreed(votes: np.ndarray, need: int) -> np.ndarray:
    """Each scorer's own answer: the option that at least `need` damaged views name, else silence.

    Args:
        votes: int8 [..., 1 + V, Q].

    Returns:
        int8 [..., Q].
    """
    damaged = votes[..., 1:, :]
    answer = np.full(damaged.shape[:-2] + damaged.shape[-1:], SILENT, np.int8)
    for option in range(int(votes.max(initial=SILENT)) + 1):
        answer[(damaged == option).sum(axis=-2) >= need] = option
    return answer


def joint(alone: np.ndarray) -> np.ndarray:
    """The answer both scorers give, else silence: int8 [2, ..., Q] to int8 [..., Q]."""
    return np.where(alone[0] == alone[1], alone[0], SILENT).astype(np.int8)
