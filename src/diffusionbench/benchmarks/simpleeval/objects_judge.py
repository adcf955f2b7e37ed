"""Reads colour and shape of a scene of one object, with the readers, views and rule of `shapes_scorer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from diffusionbench.benchmarks.simpleeval import OBJECTS_JUDGE, bands
from diffusionbench.benchmarks.simpleeval.evidence import ABSTAIN, SHAPES_RULE, consensus, majority
from diffusionbench.benchmarks.simpleeval.reading import Reading
from diffusionbench.benchmarks.simpleeval.shapes_facts import OBJECTS
from diffusionbench.benchmarks.simpleeval.shapes_scorer import READERS, READERS_VERSION, read
from diffusionbench.judges.judge import Evidence, Judge
from diffusionbench.sample import Item

#: Logit of the class that is read; that of the others is 0. Certain, as the readers give no probabilities.
SURE: Final = 20.0


class ObjectsJudge(Judge):
    """Maps an image to the class of its only object; to the last class where the readers do not agree on one."""

    spec = OBJECTS_JUDGE
    preprocessing = "enlarged or reduced to 64 x 64; three damaged views, of which two must agree, for both readers"

    def __init__(self, device: str = "cpu", options: Mapping[str, Any] | None = None) -> None:
        super().__init__(device, options)
        thresholds = {name: value for name, value in vars(bands).items() if name.isupper()}
        self.digest = self.digest_of([*READERS, READERS_VERSION, thresholds, self.spec.classes, SURE])

    def __call__(
        self, images: np.ndarray, items: Sequence[Item] = (), given: Mapping[str, Evidence] | None = None
    ) -> Mapping[str, np.ndarray]:
        """Map uint8 [B, H, W, 3] to {"logits": float32 [B, C]}."""
        readings = [read(image) for image in images]
        seen = np.array([[[[only_object(one)] for one in reader] for reader in image] for image in readings], np.int8)
        # [B, 2, 1 + V, 1] to [2, B, 1]: an answer of each reader, then one of both.
        found = consensus(majority(seen, SHAPES_RULE.need).transpose(1, 0, 2))[:, 0]
        logits = np.zeros((len(images), len(OBJECTS) + 1), np.float32)
        logits[np.arange(len(images)), np.where(found == ABSTAIN, len(OBJECTS), found)] = SURE
        return {"logits": logits}


def only_object(reading: Reading) -> int:
    """Return the class of the one object that a reader sees; `ABSTAIN` for none, several, or one of no class."""
    if not reading.clear or len(reading.objects) != 1:
        return ABSTAIN
    (found,) = reading.objects
    return OBJECTS.index((found.colour, found.shape)) if (found.colour, found.shape) in OBJECTS else ABSTAIN
