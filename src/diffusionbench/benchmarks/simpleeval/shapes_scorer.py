"""The judges of the `shapes` world: two hand-written readers on three damaged views, of which two must agree."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from diffusionbench.benchmarks.simpleeval import OBJECTS_JUDGE, SHAPES_JUDGE, bands
from diffusionbench.benchmarks.simpleeval.blocks import Prompt
from diffusionbench.benchmarks.simpleeval.evidence import ABSTAIN, SHAPES_RULE, Scorer, consensus, majority
from diffusionbench.benchmarks.simpleeval.image_ops import SIDE, box_mean, resize
from diffusionbench.benchmarks.simpleeval.reader_components import read_components
from diffusionbench.benchmarks.simpleeval.reader_filters import read_filters
from diffusionbench.benchmarks.simpleeval.reading import Reading, answer
from diffusionbench.benchmarks.simpleeval.shapes_facts import OBJECTS
from diffusionbench.benchmarks.simpleeval.stream import octets
from diffusionbench.judges.judge import Evidence, Judge
from diffusionbench.sample import Item

READERS: Final = {"components": read_components, "filters": read_filters}
#: Of the readers' code: another number where they may answer otherwise on some image.
READERS_VERSION: Final = 1
#: Logit of the class that is read; that of the others is 0. Certain, as the readers give no probabilities.
SURE: Final = 20.0


def views(image: np.ndarray) -> list[np.ndarray]:
    """Return three damaged copies of uint8 [64, 64, 3]; noise and shift follow from the image's own bytes.

    Returns:
        v1: 3 x 3 box mean and noise -12..12; v2: mirrored, 4 bits a channel; v3: shifted by -3..3 px, noise -16..16.
    """
    key = hashlib.sha256(image.tobytes()).hexdigest()
    noise = np.frombuffer(octets(key, "views", 2 * image.size + 2), np.uint8).astype(np.int64)
    first, second = noise[: image.size].reshape(image.shape), noise[image.size : -2].reshape(image.shape)
    dy, dx = noise[-2] % 7, noise[-1] % 7
    smooth = np.rint(box_mean(image)).astype(np.int64) + first % 25 - 12
    padded = np.pad(image, ((3, 3), (3, 3), (0, 0)), mode="edge").astype(np.int64)
    shifted = padded[dy : dy + SIDE, dx : dx + SIDE] + second % 33 - 16
    return [
        np.clip(smooth, 0, 255).astype(np.uint8),
        image[:, ::-1] // 16 * 16 + 8,
        np.clip(shifted, 0, 255).astype(np.uint8),
    ]


def mirrored(reading: Reading) -> Reading:
    """Return the reading of an image from that of its mirror image."""
    objects = tuple(replace(found, x=SIDE - 1 - found.x) for found in reading.objects)
    return replace(reading, objects=objects)


def read(image: np.ndarray, undamaged: bool = True) -> list[list[Reading]]:
    """Read the undamaged image and each view with each reader: [2][1 + V], or [2][V] without it.

    Args:
        image: uint8 [H, W, 3].
        undamaged: whether the image itself is read, which only guard G3 needs.
    """
    native = min(image.shape[:2])
    image = np.ascontiguousarray(resize(image))
    copies, flips = views(image), SHAPES_RULE.mirrored
    if undamaged:
        copies, flips = [image, *copies], (False, *flips)
    out = []
    for reader in READERS.values():
        seen = [reader(copy, native) for copy in copies]
        out.append([mirrored(one) if flip else one for one, flip in zip(seen, flips, strict=True)])
    return out


def predictions_of(readings: Sequence[Sequence[Reading]], prompt: Prompt) -> np.ndarray:
    """Answer a prompt's questions from all readings: int8 [2, copies, Q]."""
    answers = [
        [[answer(one, question, prompt.facts) for question in prompt.questions] for one in reader]
        for reader in readings
    ]
    return np.asarray(answers, np.int8)


def _readers() -> list[object]:
    """Return what decides how the readers answer, for digests."""
    return [*READERS, READERS_VERSION, {name: value for name, value in vars(bands).items() if name.isupper()}]


class ShapesScorer(Scorer):
    """Both readers on all views."""

    spec = SHAPES_JUDGE
    rule = SHAPES_RULE

    def __init__(self, device: str = "cpu", options: Mapping[str, Any] | None = None) -> None:
        super().__init__(device, options)
        self.digest = self.digest_of(_readers())

    def predict(self, images: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """See `Scorer.predict`."""
        return [predictions_of(read(image), prompt) for image, prompt in zip(images, prompts, strict=True)]


class ObjectsJudge(Judge):
    """Maps an image to the class of its only object; to the last class where the readers do not agree on one."""

    spec = OBJECTS_JUDGE
    preprocessing = "enlarged or reduced to 64 x 64; three damaged views, of which two must agree, for both readers"

    def __init__(self, device: str = "cpu", options: Mapping[str, Any] | None = None) -> None:
        super().__init__(device, options)
        self.digest = self.digest_of([*_readers(), self.spec.classes, SURE])

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
