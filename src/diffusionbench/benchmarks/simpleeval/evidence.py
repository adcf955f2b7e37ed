"""The evidence of the scorers: predictions of two of them on damaged copies of an image, and their consensus.

Predictions for one image are int8 [2, 1 + V, Q]: scorer, view (0 is the undamaged image, then the V damaged ones),
question in the prompt's order; an entry is the index of an option or `ABSTAIN`. All reported numbers follow from them.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np

from diffusionbench.benchmarks.simpleeval.blocks import Prompt
from diffusionbench.benchmarks.simpleeval.image_ops import LUMA, resize
from diffusionbench.judges.judge import Evidence, Judge
from diffusionbench.sample import Item

ABSTAIN: Final = -1
#: Side of the thumbnails whose distance is variety.
THUMBNAIL: Final = 8


@dataclass(frozen=True)
class ConsensusRule:
    """How predictions become an answer.

    Attributes:
        need: damaged views that must agree.
        mirrored: which damaged views are mirror images.
        names: the two scorers.
    """

    need: int
    mirrored: tuple[bool, ...]
    names: tuple[str, str]


OPEN_RULE: Final = ConsensusRule(5, (False, True, False, True, False, True), ("clip-vit-base-patch32", "align-base"))
SHAPES_RULE: Final = ConsensusRule(2, (False, True, False), ("components", "filters"))


class Scorer(Judge):
    """Two weak scorers of a world as one judge; a row holds predictions, and the looks of the image for guard G8.

    Attributes:
        rule: how its predictions become an answer.
    """

    rule: ClassVar[ConsensusRule]

    @abstractmethod
    def predict(self, images: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """Answer the questions on B images uint8 [H, W, 3] by their prompts: B arrays int8 [2, 1 + V, Q]."""

    @classmethod
    def questions(cls, item: Item) -> tuple[str, ...]:
        """Return slot, options and the prompt's facts of each question; views of the open world depend on the seed."""
        prompt: Prompt = item.detail["prompt"]
        seed = prompt.id.split("/")[0]
        return tuple(
            json.dumps([question.slot, question.options, dict(prompt.facts), seed]) for question in prompt.questions
        )

    def __call__(
        self, images: np.ndarray, items: Sequence[Item] = (), given: Mapping[str, Evidence] | None = None
    ) -> list[dict[str, Any]]:
        """Return for each image its predictions, thumbnail (192 levels) and difference hash (64 bits)."""
        found = self.predict(list(images), [item.detail["prompt"] for item in items])
        return [
            {
                "predictions": predictions.tolist(),
                "thumbnail": resize(image, THUMBNAIL).ravel().tolist(),
                "hash": difference_hash(image).astype(int).tolist(),
            }
            for image, predictions in zip(images, found, strict=True)
        ]


def difference_hash(image: np.ndarray) -> np.ndarray:
    """Return whether brightness rises to the right in a thumbnail of 8 x 9 pixels: bool [64]."""
    grey = resize(image, THUMBNAIL + 1).astype(np.float32) @ LUMA
    return (np.diff(grey[:THUMBNAIL], axis=1) > 0).ravel()


def majority(predictions: np.ndarray, need: int) -> np.ndarray:
    """Map predictions int8 [..., 1 + V, Q] to each scorer's own answers int8 [..., Q].

    An answer is the option that at least `need` damaged views name, else `ABSTAIN`.
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
