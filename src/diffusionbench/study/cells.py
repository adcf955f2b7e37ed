"""Cells of a board: the status of a value, and repeats of one method as one mean."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Final

from diffusionbench.metrics import METRICS
from diffusionbench.record import SEVERITY, Record, Status, Value, printed_digits, stderr_of, worst
from diffusionbench.schema import canonical_json

# How a method samples. Results that differ here, or in the training step, are no repeats.
_SETTING: Final = frozenset(("sampler", "num_steps", "shift", "guidance", "ema", "precision"))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One value and the records that hold it.

    Attributes:
        value: of the record, or the mean over repeats.
        record: id of the first record.
        stderr: as the record states it; of a mean, see `cell_of`.
        interval: 95 % interval, where the record states one.
        noise: standard error for ranks, also where the record states an interval only.
        printed: digits of a published table.
        status, reason: why a value may take no place.
        n: repeats (evaluation or training seeds) behind the value.
        spread: their standard deviation, with n - 1; None for a single one.
        records: ids of all of them.
    """

    value: float
    record: str
    stderr: float | None = None
    interval: tuple[float, float] | None = None
    noise: float | None = None
    printed: str | None = None
    status: Status = "ok"
    reason: str | None = None
    n: int = 1
    spread: float | None = None
    records: tuple[str, ...] = ()


def judges_of(key: str, value: Value) -> tuple[str, ...]:
    """Return the names of the judges whose evidence a value reduces, as it states them or else by its metric."""
    return value.judges or (METRICS[key].judges if key in METRICS else ())


def status_of(record: Record, key: str) -> tuple[Status, str | None]:
    """Return the status of a value and the reason for it.

    The gravest holds of what the value states and what the record gives away: images without a score, a failed
    self-test, a judge of the metric among the networks that the method was trained with.
    """
    value = record.values[key]
    doubts: list[tuple[Status, str]] = []
    if value.status != "ok":
        doubts.append((value.status, value.reason or "no reason is stated"))
    if value.unscored and value.status != "partial":
        doubts.append(("partial", f"{value.unscored} could not be scored"))
    if used := sorted({key, *judges_of(key, value)} & {*record.trained_with}):
        doubts.append(("flagged", f"trained on the metric ({', '.join(used)})"))
    if record.provenance.selftest == "failed":
        doubts.append(("flagged", "a judge failed its self-test"))
    return worst(doubts)


def setting_of(record: Record) -> str:
    """Return what results of one method must share to be repeats: how it samples, and the training step."""
    fields = record.protocol.model_dump(mode="json", include=set(_SETTING))
    if record.protocol.tuning is not None and fields["guidance"] is not None:
        # Found anew for each training, so that it differs between seeds of one method.
        fields["guidance"]["scale"] = "tuned"
    return canonical_json([fields, record.provenance.step])


def best_status(records: Sequence[Record], key: str) -> tuple[list[Record], list[Record]]:
    """Return the records whose value has the best status there is among them, and the others."""
    ranks = [SEVERITY.index(status_of(record, key)[0]) for record in records]
    best = min(ranks)
    pairs = list(zip(records, ranks, strict=True))
    return [record for record, rank in pairs if rank == best], [record for record, rank in pairs if rank > best]


def cell_of(records: Sequence[Record], key: str) -> Cell:
    """Return the cell of one value, or the mean over repeats of one status.

    Records of the same images count once. The error of a mean is the larger one of the two that the repeats give: their
    spread, and the records' own errors, each over sqrt(n). The first covers training and noise, but is itself uncertain
    where n is small.
    """
    first = records[0]
    status, reason = status_of(first, key)
    ids = tuple(record.id for record in records)
    values = [record.values[key] for record in distinct(records)]
    if len(values) == 1:
        one = values[0]
        return Cell(
            value=one.value,
            record=first.id,
            stderr=one.stderr,
            interval=one.interval,
            noise=stderr_of(one),
            printed=printed_digits(first, key),
            status=status,
            reason=reason,
            records=ids,
        )
    numbers = [one.value for one in values]
    finite = all(map(math.isfinite, numbers))
    spread = stdev(numbers) if finite else None
    own = [error for one in values if (error := stderr_of(one)) is not None]
    errors = [spread, math.sqrt(fmean(error**2 for error in own)) if len(own) == len(values) else None]
    known = [error for error in errors if error is not None]
    error = max(known) / math.sqrt(len(values)) if known else None
    return Cell(
        value=fmean(numbers) if finite else math.nan,
        record=first.id,
        stderr=error,
        noise=error,
        status=status,
        reason=reason,
        n=len(values),
        spread=spread,
        records=ids,
    )


def distinct(records: Iterable[Record]) -> list[Record]:
    """Return the first record of each set of images; records that do not state their images all count.

    Of a network whose guidance was tuned more than once the first counts: another search is no other training.
    """
    found: dict[str, Record] = {}
    for record in records:
        tuned = record.provenance.checkpoint_digest if record.protocol.tuning is not None else None
        found.setdefault(tuned or record.provenance.images_digest or record.id, record)
    return list(found.values())
