"""Checklists: yes/no questions about an image with parents, whose children are moot where they are answered no.

Sources: Davidsonian Scene Graph (arXiv 2310.18235) for the graph; GenEval 2 (arXiv 2512.16853) for Soft-TIFA, the
arithmetic and geometric means of the probabilities of all questions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final

from diffusionbench.metrics import MetricSpec
from diffusionbench.metrics.metric import Context, Metric
from diffusionbench.metrics.prompt_means import PromptMeans, ratio
from diffusionbench.sample import Sample
from diffusionbench.stats import Estimate

# Floor of a probability in a geometric mean, so that its logarithm is finite.
_FLOOR: Final = 1e-12

Question = Mapping[str, Any]
"""`id`, `question`, `parents` (ids) and `category` of a question."""


def adjusted(questions: Sequence[Question], raw: Sequence[bool]) -> list[bool]:
    """Return which answers count: a yes under a parent that does not count is none.

    Questions are walked through in their order, so a child that stands before its parent sees the parent's own answer.
    A parent that is no question here counts as answered yes.
    """
    counts = {question["id"]: answer for question, answer in zip(questions, raw, strict=True)}
    result = []
    for question, answer in zip(questions, raw, strict=True):
        counts[question["id"]] = answer and all(counts.get(parent, True) for parent in question["parents"])
        result.append(counts[question["id"]])
    return result


@dataclass(frozen=True)
class Answered:
    """The answers on one image.

    Attributes:
        questions: that count, in their order.
        raw, counted: whether each is answered yes, and still counts under its parents.
        odds: probability of a yes for each; None where the judge gave none.
    """

    questions: tuple[Question, ...]
    raw: tuple[bool, ...]
    counted: tuple[bool, ...]
    odds: tuple[float, ...] | None

    @property
    def score(self) -> float:
        """Share of questions that count."""
        return sum(self.counted) / len(self.counted)


class ChecklistMetric(Metric):
    """Mean over prompts of the share of questions that count; parts for categories and for probabilities.

    A category's part is the mean of plain answers over all its questions, as the benchmarks have it; there is one for
    its whole name and one for what stands before its first dash.
    """

    last_only: ClassVar[bool] = False

    def __init__(self, spec: MetricSpec, context: Context) -> None:
        super().__init__(spec, context)
        self._answered: dict[Sample, Answered] = {}

    def chosen(self, sample: Sample) -> range | None:
        """Return the places of the questions that count among an item's; None where it cannot be scored."""
        return range(len(sample.item.detail["questions"]))

    def update(self, evidence: Mapping[str, Any], samples: Sequence[Sample]) -> None:
        """Take a batch; see `Metric.update`. A yes is exactly the answer "yes"."""
        for row, sample in self.seen.add_rows(evidence[self.spec.judges[0]], samples):
            places = self.chosen(sample)
            if not places:
                self.seen.drop(sample, "its questions cannot be scored")
                continue
            questions = [sample.item.detail["questions"][place] for place in places]
            answers = [row["answers"][place] for place in places]
            raw = [answer["answer"] == "yes" for answer in answers]
            odds = [answer.get("probability") for answer in answers]
            known = None if None in odds else tuple(map(float, odds))
            self._answered[sample] = Answered(tuple(questions), tuple(raw), tuple(adjusted(questions, raw)), known)

    def compute(self) -> Estimate:
        """See `Metric.compute`."""
        self.seen.check()
        scores = {sample: one.score for sample, one in self._answered.items()}
        whole = PromptMeans(scores).of()
        assert whole is not None
        parts = {f"{self.spec.key}_{name}": one for name, one in (self._categories() | self._soft()).items()}
        return replace(
            whole,
            unscored=len(self.seen.unjudged),
            unjudged=self.seen.unjudged,
            per_sample={sample.id: score for sample, score in scores.items()},
            parts=parts,
            facts=self._facts(),
        )

    def _categories(self) -> dict[str, Estimate]:
        last: dict[str, int] = {}
        for sample in self._answered:
            last[sample.item.key] = max(sample.k, last.get(sample.item.key, 0))
        tallies: dict[str, dict[str, tuple[float, int]]] = {}
        for sample, one in self._answered.items():
            if self.last_only and sample.k != last[sample.item.key]:
                continue
            for question, answer in zip(one.questions, one.raw, strict=True):
                category = question.get("category", "")
                for name in {category, category.partition("-")[0]} - {""}:
                    prompts = tallies.setdefault(slug(name), {})
                    total, number = prompts.get(sample.item.key, (0.0, 0))
                    prompts[sample.item.key] = total + answer, number + 1
        return {name: ratio(list(prompts.values())) for name, prompts in sorted(tallies.items())}

    def _soft(self) -> dict[str, Estimate]:
        odds = {sample: one.odds for sample, one in self._answered.items() if one.odds}
        if len(odds) < len(self._answered):
            return {}
        arithmetic = PromptMeans({sample: math.fsum(p) / len(p) for sample, p in odds.items()}).of()
        logs = {sample: math.fsum(math.log(max(one, _FLOOR)) for one in p) / len(p) for sample, p in odds.items()}
        geometric = PromptMeans({sample: math.exp(value) for sample, value in logs.items()}).of()
        return {name: one for name, one in (("soft_am", arithmetic), ("soft_gm", geometric)) if one is not None}

    def _facts(self) -> dict[str, Any]:
        """Return verdicts by sample id, and the graphs that are not as they should be."""
        odd = {}
        for sample, one in self._answered.items():
            known = {question["id"] for question in one.questions}
            listed = [q["id"] for q in one.questions if q.get("unreadable") or not known.issuperset(q["parents"])]
            if listed:
                odd[sample.item.key] = listed
        verdicts = {
            str(sample.id): {
                "correct": all(one.counted),
                "reasons": [
                    f"{'no' if not raw else 'moot'}: {question['question']}"
                    for question, raw, counts in zip(one.questions, one.raw, one.counted, strict=True)
                    if not counts
                ],
            }
            for sample, one in sorted(self._answered.items(), key=lambda pair: pair[0].id)
        }
        return {"verdicts": verdicts, **({"unreadable_questions": odd} if odd else {})}


def slug(category: str) -> str:
    """Return the ending of a key for a category: "entity - whole" as "entity_whole"."""
    return re.sub(r"[^a-z0-9]+", "_", category.lower()).strip("_")
