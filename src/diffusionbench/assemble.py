"""Assembles the record of one evaluation from the request and the findings."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

from diffusionbench import provenance
from diffusionbench.imagesets import ImageSet, StoredImage, images_digest
from diffusionbench.metrics import METRICS, MetricSpec
from diffusionbench.record import (
    PER_SAMPLE,
    Attachment,
    JudgeUsed,
    Protocol,
    Provenance,
    Record,
    ReferenceUsed,
    Status,
    Value,
    record_id,
    worst,
)
from diffusionbench.request import Evaluation, judge_order
from diffusionbench.sample import Sample, items_digest
from diffusionbench.schema import canonical_json
from diffusionbench.stats import Estimate

# Grey levels of mean absolute difference up to which two images count as the same: a function that exceeds them between
# two images of one sample is not deterministic.
REPEAT_LIMIT: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Findings of an evaluation.

    Attributes:
        estimates: of every metric, by key.
        anchors: the same of image sets that say what a value means, by their names; a metric may be missing.
        notes: what must be said of the anchors.
        judges: every judge that belongs into the protocol, by name.
        self_tests: outcomes of the judges' self-tests in words, by name.
        attachments: files beside the record, by name.
        selftest: "passed" where judges can be tested; one that fails ends the evaluation.
        device: where they ran.
        seconds: time of scoring.
    """

    estimates: dict[str, Estimate]
    anchors: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    judges: dict[str, JudgeUsed]
    self_tests: dict[str, str] = field(default_factory=dict)
    attachments: dict[str, str] = field(default_factory=dict)
    selftest: Literal["passed"] | None
    device: str
    seconds: float


def assemble(evaluation: Evaluation, images: ImageSet, found: Findings) -> Record:
    """Return the record of the first `request.count` images of a set."""
    request, estimates = evaluation.request, found.estimates
    entries, faults = images.entries(request.count), images.unreadable(request.count)
    samples = [entry.sample() for entry in entries]
    values = _values(evaluation, found, estimates, len(faults))
    # Stated of metrics of other packages, so that a board can rank them anywhere.
    for key, row in evaluation.metrics.items():
        if key not in METRICS.own:
            values[key] = values[key].model_copy(update={"higher_is_better": row.higher_is_better})
    unjudged = [
        f"image {sample}: {reason}" for estimate in estimates.values() for sample, reason in estimate.unjudged.items()
    ]
    facts = {key: dict(estimate.facts) for key, estimate in estimates.items() if estimate.facts}
    # Images that repeat an earlier one pixel for pixel.
    first: dict[str, int] = {}
    pairs = [
        [first[entry.sha256], entry.id] for entry in entries if first.setdefault(entry.sha256, entry.id) != entry.id
    ]
    record = Record(
        kind="measured",
        id="unnamed",
        method=request.method,
        title=request.title,
        family=request.family,
        protocol=_protocol(evaluation, images, found, samples),
        values=values,
        anchors={name: _values(evaluation, found, anchor) for name, anchor in found.anchors.items()},
        breakdown=_by_class(evaluation, found, entries),
        unscored=(*faults.values(), *unjudged),
        provenance=_provenance(evaluation, images, images_digest(entries), found),
        evidence=_per_sample(estimates, entries, samples)
        | {name: _attached(text) for name, text in found.attachments.items()},
        trained_with=request.trained_with,
        extra={
            "request": request.model_dump(mode="json"),
            **({"duplicates": {"count": len(pairs), "first": pairs[:5]}} if pairs else {}),
            **({"facts": facts} if facts else {}),
            **({} if request.repeat_error is None else {"deterministic": request.repeat_error <= REPEAT_LIMIT}),
            **({"self_tests": found.self_tests} if found.self_tests else {}),
        },
    )
    return record.model_copy(update={"id": record_id(record)})


def _values(
    evaluation: Evaluation, found: Findings, estimates: Mapping[str, Estimate], unreadable: int | None = None
) -> dict[str, Value]:
    """Return values by key, with the numbers beside them; `unreadable` images are None where all are real."""
    values: dict[str, Value] = {}
    for key, estimate in estimates.items():
        spec = evaluation.metrics[key]
        shared, known = _doubts(evaluation, spec, unreadable is not None), _judges(found, spec)

        def value(one: Estimate, shared: list[tuple[Status, str]] = shared, judges: tuple[str, ...] = known) -> Value:
            doubts = [*shared]
            if one.status != "ok":
                doubts.append((one.status, one.reason or one.status))
            if lost := one.unscored + (unreadable or 0):
                doubts.append(("partial", f"{lost} could not be judged"))
            status, reason = worst(doubts)
            return Value(
                value=one.value,
                stderr=one.stderr,
                interval=one.interval,
                method=one.method,
                scored=one.scored,
                unscored=lost,
                status=status,
                reason=reason,
                judges=judges,
            )

        values[key] = value(estimate)
        beside = values[key].model_copy(update={"stderr": None, "interval": None, "method": None})
        values |= {name: beside.model_copy(update={"value": number}) for name, number in estimate.extra.items()}
        values |= {name: value(part) for name, part in estimate.parts.items()}
    return values


def _judges(found: Findings, spec: MetricSpec) -> tuple[str, ...]:
    """Return the judges behind a metric that stand in the protocol, those whose evidence others use among them."""
    return tuple(row.name for row in judge_order([spec]) if row.name in found.judges)


def _doubts(evaluation: Evaluation, spec: MetricSpec, generated: bool) -> list[tuple[Status, str]]:
    """Return what keeps every value of a metric from a place on a leaderboard."""
    doubts: list[tuple[Status, str]] = []
    if generated and (apart := evaluation.request.repeat_error or 0) > REPEAT_LIMIT:
        doubts.append(("asserted", f"not deterministic: images of one sample are {apart:.3g} grey levels apart"))
    if generated and {row.name for row in judge_order([spec])} & {*evaluation.request.trained_with}:
        doubts.append(("flagged", "trained on the metric"))
    for judge in spec.reference:
        if (reference := evaluation.references.get(judge)) and (asserted := reference.asserted(judge)):
            doubts.append(("asserted", asserted))
    return doubts


def _by_class(evaluation: Evaluation, found: Findings, entries: Sequence[StoredImage]) -> dict[str, dict[str, Value]]:
    """Return the mean of each metric that judges single images, by the class that was asked for."""
    ids: dict[int, list[int]] = {}
    for entry in entries:
        if entry.label is not None and entry.label >= 0:
            ids.setdefault(entry.label, []).append(entry.id)
    parts: dict[str, dict[str, Value]] = {}
    for key, estimate in found.estimates.items():
        scores = estimate.per_sample or {}
        for label in sorted(ids):
            own = [scores[sample] for sample in ids[label] if sample in scores]
            if own:
                lost = len(ids[label]) - len(own)
                parts.setdefault(f"class {label}", {})[key] = Value(
                    value=math.fsum(own) / len(own),
                    scored=len(own),
                    unscored=lost,
                    status="partial" if lost else "ok",
                    reason=f"{lost} could not be judged" if lost else None,
                    judges=_judges(found, evaluation.metrics[key]),
                )
    return parts


def _per_sample(
    estimates: Mapping[str, Estimate], entries: Sequence[StoredImage], samples: Sequence[Sample]
) -> dict[str, Attachment]:
    """Return the attachment of the values of single images, by which two records are compared image by image."""
    every = {**estimates, **{key: part for one in estimates.values() for key, part in one.parts.items()}}
    held = {key: estimate.per_sample for key, estimate in every.items() if estimate.per_sample is not None}
    if not held:
        return {}
    text = canonical_json(
        {
            "samples": [
                [sample.id, sample.item.key, sample.k, entry.sha256]
                for sample, entry in zip(samples, entries, strict=True)
            ],
            "values": {key: [scores.get(sample.id) for sample in samples] for key, scores in held.items()},
        }
    )
    return {PER_SAMPLE: _attached(text)}


def _attached(text: str) -> Attachment:
    return Attachment(sha256=hashlib.sha256(text.encode()).hexdigest(), text=text)


def _protocol(evaluation: Evaluation, images: ImageSet, found: Findings, samples: Sequence[Sample]) -> Protocol:
    request, prompts = evaluation.request, evaluation.prompts
    return Protocol(
        name=request.protocol or request.axis,
        axis=request.axis,
        judges=found.judges,
        references={
            judge: ReferenceUsed(
                name=reference.name, digest=reference.digest, role=reference.role, made_by=reference.made_by(judge)
            )
            for judge, reference in sorted(evaluation.references.items())
        },
        items_digest=items_digest(samples),
        count=request.count,
        images_per_prompt=prompts.images_per_prompt if prompts else None,
        prompts=prompts.name if prompts else None,
        prompts_digest=prompts.digest if prompts else None,
        # Only a generator's samples have seeds; of images that exist already nobody knows it.
        seed=request.seed if any(sample.seed is not None for sample in samples) else None,
        image_format=images.image_format,
        tuning=request.tuning,
        notes=found.notes,
        **request.sampling.model_dump(),
    )


def _provenance(evaluation: Evaluation, images: ImageSet, pixels: str, found: Findings) -> Provenance:
    request = evaluation.request
    commit, dirty = provenance.commit()
    return Provenance(
        source=images.description,
        config_hash=request.config_hash,
        checkpoint_digest=request.checkpoint_digest,
        images_digest=pixels,
        step=request.step,
        command=request.command,
        commit=commit,
        dirty=dirty,
        packages=provenance.packages(),
        hardware=provenance.hardware(found.device),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        wall_seconds=round(images.seconds() + found.seconds, 3),
        selftest=found.selftest,
    )
