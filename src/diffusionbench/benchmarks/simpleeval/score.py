"""SimpleEval in its two worlds as metrics that reduce the predictions of their judges (docs/simpleeval.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from diffusionbench.benchmarks.simpleeval import scorecard
from diffusionbench.benchmarks.simpleeval.answers import collect_answers
from diffusionbench.benchmarks.simpleeval.blocks import PromptSet
from diffusionbench.benchmarks.simpleeval.claims import claim_of
from diffusionbench.benchmarks.simpleeval.evidence import consensus, majority
from diffusionbench.benchmarks.simpleeval.guards import variety
from diffusionbench.metrics import MetricSpec
from diffusionbench.metrics.metric import Context, Metric
from diffusionbench.record import simpleeval_status
from diffusionbench.sample import Sample
from diffusionbench.stats import Estimate


class SimpleEval(Metric):
    """The score in one world; memory is a few hundred bytes an image."""

    scoring: ClassVar[scorecard.WorldScoring]

    def __init__(self, spec: MetricSpec, context: Context) -> None:
        super().__init__(spec, context)
        assert context.prompts is not None
        assert context.choice is not None
        self._set: PromptSet = context.prompts.detail
        self._claim = claim_of(context.choice)
        self._predictions: dict[str, list[np.ndarray | None]] = {
            prompt.id: [None] * self._set.images_per_prompt for prompt in self._set.prompts
        }
        self._looks: dict[str, dict[int, tuple[np.ndarray, np.ndarray]]] = {}

    def update(self, evidence: Mapping[str, Any], samples: Sequence[Sample]) -> None:
        """Take a batch; see `Metric.update`."""
        for row, sample in self.seen.add_rows(evidence[self.spec.judges[0]], samples):
            self._predictions[sample.item.key][sample.k] = np.asarray(row["predictions"], np.int8)
            look = np.asarray(row["thumbnail"], np.float32), np.asarray(row["hash"], bool)
            self._looks.setdefault(sample.item.key, {})[sample.k] = look

    def card(self) -> scorecard.ScoreCard:
        """Return everything about the images seen so far.

        Raises:
            DataError: if no block is complete.
        """
        answers = collect_answers(self._set, self._predictions, self.scoring.rule)
        return scorecard.score_card(answers, self.scoring, self._claim, variety(self._looks, self._set))

    def compute(self) -> Estimate:
        """Return the score; its parts are the other keys, its facts the rest of the card and every prediction."""
        card = self.card()
        # The runner counts images that were not seen; unscored here are those seen, unjudged or in incomplete blocks.
        unseen = len(card.answers.missing) - len(self.seen.unjudged)
        status, reason = simpleeval_status(card.status), "; ".join([card.status, *card.doubts])
        values = {
            key: replace(value, unscored=value.unscored - unseen, status=status, reason=reason)
            for key, value in card.values().items()
        }
        facts = {
            **card.facts(),
            "verdicts": self._verdicts(),
            "text": card.text(),
            "networks": self._claim.networks,
            "beacon": self._claim.beacon,
            "predictions": {
                prompt: [None if one is None else one.tolist() for one in images]
                for prompt, images in self._predictions.items()
            },
        }
        # What a block adds stands with its first image.
        first = 4 * self._set.images_per_prompt
        blocks = {block * first: added for block, added in card.by_block().items()}
        return replace(
            values.pop(self.spec.key), parts=values, facts=facts, unjudged=self.seen.unjudged, per_sample=blocks
        )

    def _verdicts(self) -> dict[str, list[list[str | None]]]:
        """Return by sample id rows of factor, requested fact, and the fact both scorers saw or None."""
        found: dict[str, list[list[str | None]]] = {}
        for place, prompt in enumerate(self._set.prompts):
            for k, predictions in enumerate(self._predictions[prompt.id]):
                if predictions is None:
                    continue
                answers = consensus(majority(predictions, self.scoring.rule.need))
                found[str(place * self._set.images_per_prompt + k)] = [
                    [asked.slot, asked.options[asked.answer], asked.options[answer] if answer >= 0 else None]
                    for asked, answer in zip(prompt.questions, answers, strict=True)
                    if asked.answer >= 0
                ]
        return found


class OpenSimpleEval(SimpleEval):
    """The score on natural prompts."""

    scoring = scorecard.OPEN


class ShapesSimpleEval(SimpleEval):
    """The score in the world of drawn shapes."""

    scoring = scorecard.SHAPES
