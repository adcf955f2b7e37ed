"""SimpleEval in its two worlds as metrics (docs/simpleeval.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from diffusionbench.benchmarks.simpleeval import scorecard
from diffusionbench.benchmarks.simpleeval.answers import collect_answers
from diffusionbench.benchmarks.simpleeval.blocks import PromptSet
from diffusionbench.benchmarks.simpleeval.claims import claim_of
from diffusionbench.benchmarks.simpleeval.evidence import consensus, majority
from diffusionbench.benchmarks.simpleeval.guards import Looks, variety
from diffusionbench.metrics import MetricSpec
from diffusionbench.stats import Estimate

if TYPE_CHECKING:
    from diffusionbench.axes import Sample
    from diffusionbench.benchmarks.simpleeval.evidence import Scorer
    from diffusionbench.judges import Extractor
    from diffusionbench.prompts import Prompts


class SimpleEval:
    """Predicts on every image as it comes; memory is a few hundred bytes an image."""

    def __init__(self, scoring: scorecard.WorldScoring, scorer: Scorer, prompts: Prompts) -> None:
        detail: PromptSet = prompts.opened.detail
        self._scoring, self._scorer, self._claim = scoring, scorer, claim_of(prompts.choice)
        self._set = detail
        self._predictions: dict[str, list[np.ndarray | None]] = {
            prompt.id: [None] * detail.images_per_prompt for prompt in detail.prompts
        }
        self._looks = Looks()

    def update(self, outputs: Mapping[str, np.ndarray], samples: Sequence[Sample]) -> None:
        """Judge a batch; see `Metric.update`."""
        images = list(outputs["images"])
        places = [divmod(sample.id, self._set.images_per_prompt) for sample in samples]
        prompts = [self._set.prompts[place] for place, _ in places]
        found = self._scorer.predict(images, prompts)
        for image, prompt, (_, k), predictions in zip(images, prompts, places, found, strict=True):
            self._predictions[prompt.id][k] = predictions
            self._looks.add(prompt.id, k, image)

    def card(self) -> scorecard.ScoreCard:
        """Return everything about the images seen so far.

        Raises:
            DataError: if no block is complete.
        """
        answers = collect_answers(self._set, self._predictions, self._scorer.spec)
        return scorecard.score_card(answers, self._scoring, self._claim, variety(self._looks, self._set))

    def compute(self) -> Estimate:
        """Return the score; its parts are the other keys, its facts the rest of the card and every prediction."""
        card = self.card()
        # Images that never came are counted by whoever asked for them; seen ones in a broken block are named here.
        values = {
            key: replace(value, unscored=value.unscored - len(card.unscored)) for key, value in card.values().items()
        }
        facts = {
            **card.facts(),
            "verdicts": self._verdicts(),
            "text": card.text(),
            "scorers": dict(self._scorer.digests),
            "networks": self._claim.networks,
            "beacon": self._claim.beacon,
            "predictions": {
                prompt: [None if one is None else one.tolist() for one in images]
                for prompt, images in self._predictions.items()
            },
        }
        return replace(values.pop(card.key), parts=values, facts=facts)

    def _verdicts(self) -> dict[str, list[list[str | None]]]:
        """Return by sample id rows of factor, requested fact, and the fact both scorers saw or None."""
        found: dict[str, list[list[str | None]]] = {}
        for place, prompt in enumerate(self._set.prompts):
            for k, predictions in enumerate(self._predictions[prompt.id]):
                if predictions is None:
                    continue
                answers = consensus(majority(predictions, self._scorer.spec.need))
                found[str(place * self._set.images_per_prompt + k)] = [
                    [asked.slot, asked.options[asked.answer], asked.options[answer] if answer >= 0 else None]
                    for asked, answer in zip(prompt.questions, answers, strict=True)
                    if asked.answer >= 0
                ]
        return found


def _shapes(prompts: Prompts, extractor: Extractor) -> SimpleEval:
    from diffusionbench.benchmarks.simpleeval.shapes_scorer import ShapesScorer

    return SimpleEval(scorecard.SHAPES, ShapesScorer(), prompts)


def _open(prompts: Prompts, extractor: Extractor) -> SimpleEval:
    from diffusionbench.benchmarks.simpleeval.open_scorer import OpenScorer

    return SimpleEval(scorecard.OPEN, OpenScorer.from_hub(device=extractor.device), prompts)  # type: ignore[attr-defined]


def _spec(key: str, title: str, create: Callable[..., SimpleEval]) -> MetricSpec:
    return MetricSpec(
        key=key,
        title=title,
        higher_is_better=True,
        extractor="pixels",
        needs="prompts",
        prompts=key,
        min_samples=8,
        source="docs/simpleeval.md",
        create=create,
    )


OPEN = _spec("simpleeval_v1", "SimpleEval (ours, v1), natural prompts", _open)
SHAPES = _spec("simpleeval_shapes_v1", "SimpleEval (ours, v1), rendered shapes", _shapes)
