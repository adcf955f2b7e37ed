"""GenEval's decisions over detections and colour words, and the metrics that count them (arXiv 2310.11513)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from diffusionbench.benchmarks.geneval import TASKS
from diffusionbench.judges import Unjudged
from diffusionbench.judges.judge import Evidence
from diffusionbench.metrics import MetricSpec
from diffusionbench.metrics.metric import Context, Metric
from diffusionbench.metrics.prompt_means import PromptMeans, combined
from diffusionbench.sample import Sample
from diffusionbench.stats import Estimate, wilson

Box = Sequence[float]

# Classes of COCO that GenEval calls otherwise, and the names that the hub's Mask2Former has for some.
RENAMED = {
    "mouse": "computer mouse", "remote": "tv remote", "keyboard": "computer keyboard", "motorbike": "motorcycle",
    "aeroplane": "airplane", "sofa": "couch", "pottedplant": "potted plant", "diningtable": "dining table",
    "tvmonitor": "tv",
}  # fmt: skip


@dataclass(frozen=True)
class Rule:
    """Thresholds of a decision.

    Attributes:
        least, least_counting: scores that a detection must exceed, the latter for the task of counting.
        most: detections of a class that are kept.
        overlap: from this IoU on, the worse of two boxes of a class goes; 1 keeps all.
        decimals: to which scores are rounded first; None leaves them.
        missing_is_wrong: whether an image that cannot be scored counts as wrong.
    """

    least: float = 0.3
    least_counting: float = 0.9
    most: int = 16
    overlap: float = 1.0
    decimals: int | None = None
    missing_is_wrong: bool = False


#: Rules other than the default: of the published system, of the benchmark's authors, and of a detector that suppresses
#: by itself, with one score for every task.
RULES = {
    "geneval_overall_upstream": Rule(decimals=6),
    "geneval_overall_original": Rule(missing_is_wrong=True),
    "geneval_ssd": Rule(least_counting=0.3),
}


@dataclass(frozen=True)
class Verdict:
    """Outcome for one image.

    Attributes:
        reasons: why it is wrong, in words; none where it is correct.
        kept: indices of the detections that counted, by class, best first.
    """

    reasons: tuple[str, ...]
    kept: Mapping[str, tuple[int, ...]]

    @property
    def correct(self) -> bool:
        """Whether nothing failed."""
        return not self.reasons

    def facts(self) -> dict[str, Any]:
        """Return everything as plain JSON."""
        kept = {label: list(places) for label, places in self.kept.items()}
        return {"correct": self.correct, "reasons": list(self.reasons), "kept": kept}


def iou(a: Box, b: Box) -> float:
    """Return the overlap of two boxes x0, y0, x1, y1 with inclusive pixels; 0 where they do not meet."""
    width, height = (min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + 1 for i in (0, 1))
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b)]
    return float(width * height / (sum(areas) - width * height))


def select(boxes: Sequence[Mapping[str, Any]], scores: Sequence[float], least: float, rule: Rule) -> tuple[int, ...]:
    """Return which detections of one class are kept, best first, as places in `boxes`."""
    order = sorted((place for place, score in enumerate(scores) if score > least), key=lambda place: -scores[place])
    kept: list[int] = []
    for place in order[: rule.most]:
        if rule.overlap >= 1 or all(iou(boxes[place]["box"], boxes[one]["box"]) < rule.overlap for one in kept):
            kept.append(place)
    return tuple(kept)


def relations(box: Box, target: Box) -> frozenset[str]:
    """Return how a box lies to a target, both x0, y0, x1, y1 with y downwards; two words on a diagonal, or none."""
    offset, shrunk = [], []
    for i in (0, 1):
        between = (box[i] + box[i + 2] - target[i] - target[i + 2]) / 2
        sizes = box[i + 2] - box[i] + target[i + 2] - target[i]
        offset.append(between)
        shrunk.append(math.copysign(max(abs(between) - 0.1 * sizes, 0.0), between))
    if max(map(abs, shrunk)) < 1e-3:
        return frozenset()
    x, y = (one / math.hypot(*offset) for one in shrunk)
    found = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return frozenset(name for name, holds in found.items() if holds)


def decide(
    detail: Mapping[str, Any],
    boxes: Sequence[Mapping[str, Any]],
    colours: Sequence[str | None],
    counting: bool = False,
    rule: Rule | None = None,
) -> Verdict:
    """Return the verdict on an image from what was found in it.

    Args:
        detail: `include` and, where there are some, `exclude` clauses of its prompt.
        boxes: detections: `label`, `score`, and `box` as x0, y0, x1, y1.
        colours: the colour word of each; None where none was asked for.
        counting: whether the task is to count.
        rule: GenEval's own thresholds where none are given.
    """
    rule = rule or Rule()
    exclude = detail.get("exclude", ())
    places: dict[str, list[int]] = {clause["class"]: [] for clause in (*detail["include"], *exclude)}
    for place, found in enumerate(boxes):
        if (label := RENAMED.get(found["label"], found["label"])) in places:
            places[label].append(place)
    kept: dict[str, tuple[int, ...]] = {}
    for label, own in places.items():
        scores = [boxes[place]["score"] for place in own]
        if rule.decimals is not None:
            scores = [round(score, rule.decimals) for score in scores]
        least = rule.least_counting if counting else rule.least
        kept[label] = tuple(own[one] for one in select([boxes[place] for place in own], scores, least, rule))
    reasons: list[str] = []
    groups: list[tuple[int, ...] | None] = []
    for clause in detail["include"]:
        group = kept[clause["class"]][: clause["count"]]
        reason = _failure(clause, group, groups, boxes, colours)
        groups.append(None if reason else group)
        reasons += [reason] if reason else []
    for clause in exclude:
        if (number := len(kept[clause["class"]])) >= clause["count"]:
            reasons.append(f"too many: {number} of {clause['class']}, fewer than {clause['count']} asked for")
    return Verdict(tuple(reasons), kept)


def _failure(
    clause: Mapping[str, Any],
    group: tuple[int, ...],
    groups: Sequence[tuple[int, ...] | None],
    boxes: Sequence[Mapping[str, Any]],
    colours: Sequence[str | None],
) -> str | None:
    """Return why the best detections of a clause's class do not fulfil it, or None."""
    name, count = clause["class"], clause["count"]
    if len(group) < count:
        return f"missing: {len(group)} of {count} {name}"
    if "color" in clause:
        seen = [colours[place] for place in group]
        if seen.count(clause["color"]) < count:
            return f"wrong colour: {name} is {', '.join(map(str, seen))}, asked for {clause['color']}"
    if "position" in clause:
        relation, other = clause["position"]
        targets = groups[other]
        if targets is None:
            return f"no target: {name} is to be {relation} what is not there"
        for place in group:
            for target in targets:
                found = relations(boxes[place]["box"], boxes[target]["box"])
                if relation not in found:
                    return f"wrong position: {name} is {' and '.join(sorted(found)) or 'beside'}, not {relation}"
    return None


class GenEval(Metric):
    """Mean of the six task scores, each the share of correct images; parts for tasks, images and prompts."""

    def __init__(self, spec: MetricSpec, context: Context) -> None:
        super().__init__(spec, context)
        self._rule = RULES.get(spec.key, Rule())
        self._verdicts: dict[int, Verdict] = {}

    def update(self, evidence: Mapping[str, Evidence], samples: Sequence[Sample]) -> None:
        """Take a batch; see `Metric.update`."""
        boxes, colours = (cast("Sequence[Any]", evidence[name]) for name in self.spec.judges)
        both: list[Mapping[str, Any] | Unjudged] = [
            next((one for one in (a, b) if isinstance(one, Unjudged)), None) or {**a, **b}
            for a, b in zip(boxes, colours, strict=True)
        ]
        for row, sample in self.seen.add_rows(both, samples):
            counting = sample.item.tags == ("counting",)
            self._verdicts[sample.id] = decide(sample.item.detail, row["boxes"], row["colours"], counting, self._rule)

    def compute(self) -> Estimate:
        """See `Metric.compute`; status partial where a task has no image."""
        self.seen.check()
        right = {sample: self._verdicts[sample.id].correct for sample in self.seen.scored}
        if self._rule.missing_is_wrong and self.context.prompts is not None:
            absent = {*range(self.context.count)} - {sample.id for sample in right}
            right |= dict.fromkeys(map(self.context.prompts.sample, absent), False)
        means = PromptMeans({sample: float(correct) for sample, correct in right.items()}, share=True)
        tasks = {task: means.of(tag=task) for task in TASKS}
        there = {task: one for task, one in tasks.items() if one is not None}
        stem, _, suffix = self.spec.key.partition("_overall")
        parts = {f"{stem}_{task}{suffix}": one for task, one in there.items()}
        whole = means.of()
        assert whole is not None
        whole = replace(whole, per_sample={sample.id: float(correct) for sample, correct in right.items()})
        hits = [any(scores) for scores in means.prompts.values()]
        parts[f"{stem}_image_mean{suffix}"] = whole
        parts[f"{stem}_prompt_any{suffix}"] = Estimate(
            value=sum(hits) / len(hits),
            stderr=None,
            interval=wilson(sum(hits), len(hits)),
            method="wilson",
            scored=len(hits),
        )
        lacking = [task for task in TASKS if task not in there]
        return replace(
            combined(list(there.values()), len(right)),
            unscored=len(self.seen.unjudged),
            unjudged=self.seen.unjudged,
            parts=parts,
            facts={"verdicts": {str(key): self._verdicts[key].facts() for key in sorted(self._verdicts)}},
            status="partial" if lacking else "ok",
            reason=f"no image of: {', '.join(lacking)}" if lacking else None,
        )
