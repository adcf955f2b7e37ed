"""Metrics as the stress harness sees them: a judgement per image, a value per set, a score to select by."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any, Final, Protocol

import numpy as np

from diffusionbench.benchmarks.simpleeval import credit
from diffusionbench.benchmarks.simpleeval.answers import agreed, joint
from diffusionbench.benchmarks.simpleeval.blocks import Prompt, PromptSet
from diffusionbench.benchmarks.simpleeval.reading import Reading
from diffusionbench.benchmarks.simpleeval.shapes_answerer import ShapesAnswerer, readings, votes_of
from diffusionbench.registry import Registry
from diffusionbench.schema import file_digest

TARGETS = Registry(
    "metric of the stress harness",
    {
        "simpleeval_shapes_v1": "diffusionbench.benchmarks.simpleeval.stress_targets:SimpleEvalTarget",
        "toy_clipscore": "diffusionbench.benchmarks.simpleeval.stress_targets:ToyClipTarget",
        "toy_vqascore": "diffusionbench.benchmarks.simpleeval.stress_targets:ToyVqaTarget",
    },
    group="diffusionbench.stress",
)
BATCH: Final = 256


class Target(Protocol):
    """One metric under attack.

    Attributes:
        name: its key.
        differentiable: whether it has a `model` with gradients.
        digests: SHA-256 of what defines it, by part.
    """

    name: str
    differentiable: bool
    digests: dict[str, str]

    def judge(self, images: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> list[Any]:
        """One judgement an image."""
        ...

    def values(self, prompt_set: PromptSet, judged: Sequence[Any], weights: np.ndarray) -> np.ndarray:
        """The metric of a set with one image a prompt, float64 [R], under block weights [R, n]."""
        ...

    def select(self, judgement: Any, prompt: Prompt) -> float:
        """What an attacker who picks among images would go by."""
        ...


class SimpleEvalTarget:
    """SimpleEval in the shapes world; images are read in parallel, and no image twice."""

    name = "simpleeval_shapes_v1"
    differentiable = False

    def __init__(self) -> None:
        self._seen: dict[bytes, list[list[Reading]]] = {}
        self.digests = ShapesAnswerer().digests
        self.pool = ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn"))

    def judge(self, images: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """Votes int8 [2, 1 + V, Q] an image."""
        keys = [hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest() for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in self._seen}
        found = self.pool.map(readings, new.values(), chunksize=8)
        self._seen.update(zip(new, found, strict=True))
        return [votes_of(self._seen[key], prompt) for key, prompt in zip(keys, prompts, strict=True)]

    def values(self, prompt_set: PromptSet, judged: Sequence[np.ndarray], weights: np.ndarray) -> np.ndarray:
        """Headline of a set with one image a prompt."""
        result = tally_of(prompt_set, judged)
        credits = credit.pair_credit(result.right["joint"], result.options)
        return credit.headline(credit.by_cell(result, credits, weights), range(len(prompt_set.families)))

    def select(self, judgement: np.ndarray, prompt: Prompt) -> float:
        """Contrasted questions answered right."""
        return float(right(judgement, prompt)[:2].sum())

    def select_named(self, judgement: np.ndarray, prompt: Prompt) -> float:
        """Questions on any named fact answered right."""
        return float(right(judgement, prompt).sum())

    def without_background(self, prompt_set: PromptSet, judged: Sequence[np.ndarray]) -> float:
        """Headline without the family background."""
        result = tally_of(prompt_set, judged)
        cells = credit.by_cell(
            result, credit.pair_credit(result.right["joint"], result.options), np.ones((1, prompt_set.num_blocks))
        )
        rest = [place for place, name in enumerate(prompt_set.families) if name != "background"]
        return float(credit.headline(cells, rest)[0])


def tally_of(prompt_set: PromptSet, judged: Sequence[np.ndarray]) -> credit.Tally:
    """Tally of one image a prompt."""
    one = replace(prompt_set, images_per_prompt=1)
    votes = {prompt.id: [vote] for prompt, vote in zip(prompt_set.prompts, judged, strict=True)}
    return credit.tally(one, votes, ShapesAnswerer.panel)


def right(votes: np.ndarray, prompt: Prompt) -> np.ndarray:
    """Whether the joint answer to each question is the requested one: bool [Q]."""
    wanted = np.asarray([question.answer for question in prompt.questions])
    return (joint(agreed(votes, ShapesAnswerer.panel.need)) == wanted) & (wanted >= 0)


class _ToyTarget:
    """A learned metric: mean score of image and prompt text."""

    name: str
    differentiable = True

    def __init__(self) -> None:
        from diffusionbench.benchmarks.simpleeval.toy_scorers import FOLDER, load

        self.model = load(self.name)
        self.digests = {"weights": file_digest(FOLDER / f"{self.name}.safetensors")}

    def judge(self, images: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> list[float]:
        """Score of each image with its prompt."""
        import torch

        from diffusionbench.benchmarks.simpleeval.toy_scorers import tokens

        out: list[float] = []
        with torch.no_grad():
            for start in range(0, len(images), BATCH):
                pixels = torch.from_numpy(np.stack(images[start : start + BATCH])).permute(0, 3, 1, 2).float() / 255
                numbers = tokens([prompt.text for prompt in prompts[start : start + BATCH]])
                out += self.model.score(pixels, numbers).tolist()
        return out

    def values(self, prompt_set: PromptSet, judged: Sequence[float], weights: np.ndarray) -> np.ndarray:
        """Weighted mean over blocks."""
        blocks = np.asarray(judged).reshape(-1, 4).mean(axis=1)
        return weights @ blocks / weights.sum(axis=1)

    def select(self, judgement: float, prompt: Prompt) -> float:
        """The score itself."""
        return judgement


class ToyClipTarget(_ToyTarget):
    """Cosine of a small dual encoder."""

    name = "toy_clipscore"


class ToyVqaTarget(_ToyTarget):
    """P(yes) of a small network."""

    name = "toy_vqascore"
