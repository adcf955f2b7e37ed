"""Metrics as the stress harness sees them: a judgement per image, a value per set, a score to select by."""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import Any, ClassVar, Final

import numpy as np
import torch

from diffusionbench.benchmarks.simpleeval.answers import SetAnswers, collect_answers, credit_by_cell, headline
from diffusionbench.benchmarks.simpleeval.blocks import Prompt, PromptSet
from diffusionbench.benchmarks.simpleeval.evidence import SHAPES_RULE, consensus, majority, wanted
from diffusionbench.benchmarks.simpleeval.reading import Reading
from diffusionbench.benchmarks.simpleeval.shapes_scorer import ShapesScorer, predictions_of, read
from diffusionbench.benchmarks.simpleeval.stress.perturbations import to_tensor
from diffusionbench.benchmarks.simpleeval.stress.toy_scorers import FOLDER, ToyScorer, load, tokens
from diffusionbench.schema import file_digest

BATCH: Final = 256


class Target(ABC):
    """One metric under attack.

    Attributes:
        name: its key.
        digests: SHA-256 of its weights, or thresholds and code version, by part.
    """

    name: ClassVar[str]
    digests: Mapping[str, str]

    @abstractmethod
    def judge(self, images: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> list[Any]:
        """Return one judgement an image."""

    @abstractmethod
    def values(self, prompt_set: PromptSet, judged: Sequence[Any], weights: np.ndarray) -> np.ndarray:
        """Return the metric of a set with one image a prompt, float64 [R], under block weights [R, n]."""

    @abstractmethod
    def select(self, judgement: Any, prompt: Prompt) -> float:
        """Return the number by which an attacker picks among images."""


class SimpleEvalTarget(Target):
    """SimpleEval in the shapes world; images are read in parallel, and no image twice."""

    name = "simpleeval_shapes_v1"

    def __init__(self) -> None:
        self._seen: dict[bytes, list[list[Reading]]] = {}
        self.digests = {"judge": ShapesScorer().digest}
        self.pool = ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn"))

    def judge(self, images: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """Return predictions int8 [2, 1 + V, Q] for each image."""
        keys = [hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest() for image in images]
        new = {key: image for key, image in zip(keys, images, strict=True) if key not in self._seen}
        found = self.pool.map(read, new.values(), chunksize=8)
        self._seen.update(zip(new, found, strict=True))
        return [predictions_of(self._seen[key], prompt) for key, prompt in zip(keys, prompts, strict=True)]

    def values(
        self, prompt_set: PromptSet, judged: Sequence[np.ndarray], weights: np.ndarray, without: str = ""
    ) -> np.ndarray:
        """Return the headline, without one of the families."""
        cells = credit_by_cell(answers_of(prompt_set, judged), "consensus", weights)
        return headline(cells, [place for place, name in enumerate(prompt_set.families) if name != without])

    def select(self, judgement: np.ndarray, prompt: Prompt) -> float:
        """Count contrasted questions answered right."""
        return float(right(judgement, prompt)[:2].sum())

    def select_named(self, judgement: np.ndarray, prompt: Prompt) -> float:
        """Count questions on any named fact answered right."""
        return float(right(judgement, prompt).sum())


def answers_of(prompt_set: PromptSet, judged: Sequence[np.ndarray]) -> SetAnswers:
    """Return the answers to one image a prompt."""
    one = replace(prompt_set, images_per_prompt=1)
    predictions = {prompt.id: [found] for prompt, found in zip(prompt_set.prompts, judged, strict=True)}
    return collect_answers(one, predictions, SHAPES_RULE)


def right(predictions: np.ndarray, prompt: Prompt) -> np.ndarray:
    """Return whether the consensus on each question is the requested fact: bool [Q]."""
    asked = wanted(prompt)
    return (consensus(majority(predictions, SHAPES_RULE.need)) == asked) & (asked >= 0)


class ToyTarget(Target):
    """A learned metric: mean score of image and prompt text; its `model` has gradients."""

    model: ToyScorer

    def __init__(self) -> None:
        self.model = load(self.name)
        self.digests = {"weights": file_digest(FOLDER / f"{self.name}.safetensors")}

    @torch.no_grad()
    def judge(self, images: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> list[float]:
        """Return the score of each image with its prompt."""
        out: list[float] = []
        for start in range(0, len(images), BATCH):
            numbers = tokens([prompt.text for prompt in prompts[start : start + BATCH]])
            out += self.model.score(to_tensor(images[start : start + BATCH]), numbers).tolist()
        return out

    def values(self, prompt_set: PromptSet, judged: Sequence[float], weights: np.ndarray) -> np.ndarray:
        """Return the weighted mean over blocks."""
        blocks = np.asarray(judged).reshape(-1, 4).mean(axis=1)
        return weights @ blocks / weights.sum(axis=1)

    def select(self, judgement: float, prompt: Prompt) -> float:
        """Return the score itself."""
        return judgement


class ToyClipTarget(ToyTarget):
    """Cosine of a small dual encoder."""

    name = "toy_clipscore"


class ToyVqaTarget(ToyTarget):
    """P(yes) of a small network."""

    name = "toy_vqascore"


TARGETS: Final[dict[str, type[Target]]] = {kind.name: kind for kind in (SimpleEvalTarget, ToyClipTarget, ToyVqaTarget)}
