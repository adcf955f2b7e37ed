"""SimpleEval in its two worlds as metrics (docs/simpleeval.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from diffusionbench.benchmarks.simpleeval import credit, worlds
from diffusionbench.benchmarks.simpleeval.answers import Answerer, agreed, joint
from diffusionbench.benchmarks.simpleeval.blocks import PromptSet
from diffusionbench.benchmarks.simpleeval.guards import Evidence
from diffusionbench.benchmarks.simpleeval.open_answerer import OpenAnswerer
from diffusionbench.benchmarks.simpleeval.report import Report, SeedClaim, World, report
from diffusionbench.benchmarks.simpleeval.shapes_answerer import ShapesAnswerer
from diffusionbench.benchmarks.simpleeval.variety import Looks, variety
from diffusionbench.metrics import MetricSpec
from diffusionbench.metrics.metric import Context, Metric
from diffusionbench.sample import Sample
from diffusionbench.stats import Estimate


class SimpleEval(Metric):
    """Votes on every image as it comes; memory is a few hundred bytes an image."""

    def __init__(self, world: World, answerer: Answerer, spec: MetricSpec, context: Context) -> None:
        super().__init__(spec, context)
        assert context.prompts is not None
        assert context.choice is not None
        detail: PromptSet = context.prompts.detail
        self._world, self._answerer, self._choice = world, answerer, context.choice
        self._set = detail
        self._votes: dict[str, list[np.ndarray | None]] = {
            prompt.id: [None] * detail.images_per_prompt for prompt in detail.prompts
        }
        self._looks = Looks()

    def update(self, evidence: Mapping[str, Any], samples: Sequence[Sample]) -> None:
        """Judge a batch; see `Metric.update`."""
        images = list(evidence["pixels"]["images"])
        places = [divmod(sample.id, self._set.images_per_prompt) for sample in samples]
        prompts = [self._set.prompts[place] for place, _ in places]
        for image, prompt, (_, k), votes in zip(
            images, prompts, places, self._answerer.votes(images, prompts), strict=True
        ):
            self._votes[prompt.id][k] = votes
            self._looks.add(prompt.id, k, image)

    def report(self) -> Report:
        """Everything about the images seen so far.

        Raises:
            DataError: if no block is complete.
        """
        result = credit.tally(self._set, self._votes, self._answerer.panel)
        choice = self._choice
        claim = SeedClaim(self._set.seed, choice.weights_digest, choice.beacon)
        evidence = Evidence(
            public=choice.public, variety=variety(self._looks, self._set), networks=choice.networks, again=choice.again
        )
        return report(result, self._world, claim, evidence)

    def compute(self) -> Estimate:
        """The score; its parts are the other keys, its facts the rest of the report and every vote."""
        found = self.report()
        # Images that never came are counted by whoever asked for them; seen ones in a broken block are named here.
        values = {
            key: replace(value, unscored=value.unscored - len(found.unscored)) for key, value in found.values().items()
        }
        votes = {
            prompt: [None if one is None else one.tolist() for one in images] for prompt, images in self._votes.items()
        }
        facts = {
            **found.facts(),
            "verdicts": self._verdicts(),
            "text": found.text(),
            "scorers": dict(self._answerer.digests),
            "networks": self._choice.networks,
            "beacon": self._choice.beacon,
            "votes": votes,
        }
        return replace(values.pop(found.key), parts=values, facts=facts)

    def _verdicts(self) -> dict[str, list[list[str | None]]]:
        """What was asked and what both scorers saw, by sample id: rows of factor, asked fact, seen fact or None."""
        found: dict[str, list[list[str | None]]] = {}
        for place, prompt in enumerate(self._set.prompts):
            for k, votes in enumerate(self._votes[prompt.id]):
                if votes is None:
                    continue
                answers = joint(agreed(votes, self._answerer.panel.need))
                found[str(place * self._set.images_per_prompt + k)] = [
                    [asked.slot, asked.options[asked.answer], asked.options[answer] if answer >= 0 else None]
                    for asked, answer in zip(prompt.questions, answers, strict=True)
                    if asked.answer >= 0
                ]
        return found


class ShapesSimpleEval(SimpleEval):
    """The score in the world of drawn shapes."""

    def __init__(self, spec: MetricSpec, context: Context) -> None:
        super().__init__(worlds.SHAPES, ShapesAnswerer(), spec, context)


class OpenSimpleEval(SimpleEval):
    """The score on natural prompts."""

    def __init__(self, spec: MetricSpec, context: Context) -> None:
        super().__init__(worlds.OPEN, OpenAnswerer.from_hub(device=context.device), spec, context)
