"""Assembles the record of one evaluation from the request and the findings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

from diffusionbench import provenance
from diffusionbench.imagesets import ImageSet, StoredImage, images_digest
from diffusionbench.metrics import METRICS
from diffusionbench.record import MAX_ID, Protocol, Provenance, Record, Value
from diffusionbench.request import Evaluation
from diffusionbench.schema import digest, identity
from diffusionbench.stats import Estimate


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Findings of an evaluation.

    Attributes:
        estimates: of every metric, by key.
        anchors: the same of image sets that say what a value means, by their names; a metric may be missing.
        notes: what must be said of the anchors.
        judges: digest of every judge that belongs into the protocol, by name.
        selftest: whether the judges that can be tested give here what they were shipped with.
        device: where they ran.
        seconds: time of scoring.
    """

    estimates: dict[str, Estimate]
    anchors: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    judges: dict[str, str]
    selftest: Literal["passed", "failed"] | None
    device: str
    seconds: float


def assemble(evaluation: Evaluation, images: ImageSet, found: Findings) -> Record:
    """Return the record of the first `request.count` images of a set."""
    request, estimates = evaluation.request, found.estimates
    entries, faults = images.entries(request.count), images.unreadable(request.count)
    protocol = _protocol(evaluation, found)
    pixels = images_digest(entries)
    values = _values(estimates, len(faults))
    # Stated of metrics of other packages, so that a board can rank them anywhere.
    for key, row in evaluation.metrics.items():
        if key not in METRICS.own:
            values[key] = values[key].model_copy(update={"higher_is_better": row.higher_is_better})
    unjudged = [
        f"image {sample}: {reason}" for estimate in estimates.values() for sample, reason in estimate.unjudged.items()
    ]
    facts = {key: dict(estimate.facts) for key, estimate in estimates.items() if estimate.facts}
    return Record(
        kind="measured",
        # Other metrics on the same images are another record, and an id is also a file name.
        id=f"{_slug(request.method)}-{digest([identity(protocol, 'noise'), pixels, sorted(estimates)])[:12]}",
        method=request.method,
        title=request.title,
        family=request.family,
        protocol=protocol,
        values=values,
        anchors={name: _values(values, 0) for name, values in found.anchors.items()},
        breakdown=_by_class(estimates, entries),
        unscored=(*faults.values(), *unjudged),
        partial=bool(faults) or any(estimate.unscored for estimate in estimates.values()),
        provenance=_provenance(evaluation, images, pixels, found),
        extra={
            "request": request.model_dump(mode="json"),
            **_duplicates(entries),
            **({"facts": facts} if facts else {}),
        },
    )


def _value(estimate: Estimate, unreadable: int) -> Value:
    return Value(
        value=estimate.value,
        stderr=estimate.stderr,
        interval=estimate.interval,
        method=estimate.method,
        scored=estimate.scored,
        unscored=estimate.unscored + unreadable,
    )


def _values(estimates: dict[str, Estimate], unreadable: int) -> dict[str, Value]:
    """Return values by key, with the numbers that some metrics put beside their own."""
    values = {key: _value(estimate, unreadable) for key, estimate in estimates.items()}
    for estimate in estimates.values():
        values |= {key: Value(value=number, scored=estimate.scored) for key, number in estimate.extra.items()}
        values |= {key: _value(part, unreadable) for key, part in estimate.parts.items()}
    return values


def _by_class(estimates: dict[str, Estimate], entries: Sequence[StoredImage]) -> dict[str, dict[str, Value]]:
    """Return the mean of each metric that judges single images, by the class that was asked for."""
    parts: dict[str, dict[str, Value]] = {}
    for key, estimate in estimates.items():
        if estimate.per_sample is None or len(estimate.per_sample) != len(entries):
            continue
        labels = np.array([-1 if entry.label is None else entry.label for entry in entries])
        scores = np.array(estimate.per_sample)
        for label in sorted(set(labels[labels >= 0].tolist())):
            own = scores[labels == label]
            part = Value(value=float(own.mean()), scored=len(own))
            parts.setdefault(f"class {label}", {})[key] = part
    return parts


def _protocol(evaluation: Evaluation, found: Findings) -> Protocol:
    request, reference, prompts = evaluation.request, evaluation.reference, evaluation.prompts
    return Protocol(
        name=request.protocol or request.axis,
        axis=request.axis,
        reference=reference.name if reference else None,
        reference_digest=reference.digest if reference else None,
        extractors=found.judges,
        count=request.count,
        images_per_prompt=prompts.images_per_prompt if prompts else None,
        prompts=prompts.name if prompts else None,
        prompts_digest=prompts.digest if prompts else None,
        seed=request.seed,
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


def _duplicates(entries: Sequence[StoredImage]) -> dict[str, Any]:
    """Count the images that repeat an earlier one pixel for pixel and name the first pairs; nothing where none does."""
    first: dict[str, int] = {}
    pairs = [
        [first[entry.sha256], entry.id] for entry in entries if first.setdefault(entry.sha256, entry.id) != entry.id
    ]
    return {"duplicates": {"count": len(pairs), "first": pairs[:5]}} if pairs else {}


def _slug(name: str) -> str:
    # A hash follows, and both together are a file name.
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[: MAX_ID // 2] or "unnamed"
