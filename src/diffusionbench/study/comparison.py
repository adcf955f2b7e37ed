"""Compare two records: protocols metric by metric, and values with the error of their difference.

Values of unlike protocols are not compared. Where both records hold the values of single images (`per_sample.json`)
and were asked for the same items, the difference is formed image by image, which leaves out what the items have in
common:

- shares, where each image has its own prompt or none: McNemar 1947, exact: of the images that only one of both got
  right, each side has half if there is no difference.
- means: bootstrap over prompts, whose images belong together, or over images where there are no prompts (Efron 1979).

Distances between sets have no values of single images: their difference has the error of two independent draws.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
from pydantic import Field, ValidationError

from diffusionbench import bounds
from diffusionbench.catalog import direction, metric_info
from diffusionbench.errors import DataError
from diffusionbench.protocol import COMPARED, NOT_COMPARED, protocol_difference
from diffusionbench.record import PER_SAMPLE, Record, attachment, breaches, stderr_of
from diffusionbench.schema import Strict
from diffusionbench.shown import clipped, few, printable, short_hashes
from diffusionbench.stats import NORMAL_975, STUDENT_975
from diffusionbench.study.cells import status_of
from diffusionbench.study.correlate import block_sizes

DRAWS: Final = 10_000
# Another seed or noise rule is another draw under the same protocol; notes are remarks.
_REMARKS: Final = ("seed", "noise", "notes")
# Flipped images that are named in words; JSON has all.
_NAMED: Final = 8


class PerSample(Strict):
    """The attachment of values of single images.

    Attributes:
        samples: (id, key of its item, which of the item's images, SHA-256 of the image).
        values: by metric, one for each sample; None where it was not judged.
    """

    samples: tuple[tuple[Annotated[int, Field(ge=0, lt=bounds.IMAGES)], str, int, str], ...]
    values: dict[str, tuple[float | None, ...]]


@dataclass(frozen=True)
class Flip:
    """One image that is right in one of both records only.

    Attributes:
        item: key of what was asked.
        k: which of the item's images, from 0.
        ids: of the image in either record.
        values: in either record.
    """

    item: str
    k: int
    ids: tuple[int, int]
    values: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One metric in both records.

    Attributes:
        first, second: the values.
        statuses: of both.
        refused: fields in which they cannot be compared, with both contents; then there is no verdict.
        difference: second minus first.
        stderr, interval: of the difference; None where no uncertainty is known.
        p_value: of McNemar's test.
        beyond: whether the difference exceeds its uncertainty (5 %, two-sided); None where there is no verdict.
        how: how the error was formed, in words.
        paired: number of images in common, where values were compared image by image.
        flipped: images of which the values, 0 or 1, differ; of shares only.
    """

    first: float
    second: float
    statuses: tuple[str, str]
    refused: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    difference: float | None = None
    stderr: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    beyond: bool | None = None
    how: str = ""
    paired: int | None = None
    flipped: tuple[Flip, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Two records.

    Attributes:
        protocol: every field in which the protocols differ, with both contents; of judges and references those that a
            shared metric uses.
        sampling: those of them that belong to the methods and keep no values apart.
        values: the metrics that both hold.
        missing: metrics that only the "first" or the "second" holds.
    """

    protocol: dict[str, tuple[Any, Any]]
    sampling: tuple[str, ...]
    values: dict[str, Difference]
    missing: dict[str, str]

    @property
    def differs(self) -> bool:
        """True unless both records hold the same metrics, under one protocol, with equal values."""
        unequal = any(d.beyond or (d.beyond is None and d.first != d.second) for d in self.values.values())
        refused = any(d.refused for d in self.values.values())
        return bool(self.protocol or self.missing) or unequal or refused

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {"differs": self.differs, **asdict(self)}

    def __str__(self) -> str:
        return self.as_text()

    def as_text(self) -> str:
        """Return one line per difference or shared value, and the images that flipped."""
        lines = [
            f"sampled differently, which is part of the method: {name}: {_pair(self.protocol[name])}"
            for name in self.sampling
        ]
        lines += [f"{key}: only in the {which} record" for key, which in self.missing.items()]
        if not self.values:
            lines += [f"protocols differ in {name}: {_pair(one)}" for name, one in self.protocol.items()]
        for key, found in self.values.items():
            lines += _in_words(key, found)
        return "\n".join(map(printable, lines))


def compare(
    first: Record, second: Record, *, paths: Sequence[Path | None] = (None, None), draws: int = DRAWS, seed: int = 0
) -> Comparison:
    """Compare two records; values without a direction are no scores.

    Args:
        paths: files of the records, beside which long attachments lie.
        draws: of the bootstrap, at least 1.
        seed: of the draws.

    Raises:
        DataError: if an attachment is damaged or holds something else.
    """
    records = (first, second)
    scores = [[key for key, value in one.values.items() if direction(key, value) is not None] for one in records]
    shared = [key for key in scores[0] if key in scores[1]]
    missing = {key: "first" for key in scores[0] if key not in shared}
    missing |= {key: "second" for key in scores[1] if key not in shared}
    a, b = (one.protocol for one in records)
    fields = [name for name in (*COMPARED, *NOT_COMPARED) if name not in _REMARKS]
    protocol = {name: (getattr(a, name), getattr(b, name)) for name in fields if getattr(a, name) != getattr(b, name)}
    held = [_per_sample(one, path) for one, path in zip(records, paths, strict=True)]
    values = {}
    for key in shared:
        differing = protocol_difference(first, second, key)
        protocol |= differing
        values[key] = _difference(first, second, key, differing, held, draws, seed)
    plain = {name: (plain_content(one), plain_content(other)) for name, (one, other) in protocol.items()}
    return Comparison(plain, tuple(name for name in plain if name in NOT_COMPARED), values, missing)


def _difference(
    first: Record,
    second: Record,
    key: str,
    differing: Mapping[str, tuple[object, object]],
    held: Sequence[PerSample | None],
    draws: int,
    seed: int,
) -> Difference:
    one, other = first.values[key], second.values[key]
    statuses = status_of(first, key), status_of(second, key)
    refused = {name: (plain_content(a), plain_content(b)) for name, (a, b) in differing.items()}
    same_images = first.id == second.id and first.provenance.images_digest == second.provenance.images_digest
    if "partial" in (statuses[0][0], statuses[1][0]) and not same_images:
        # Which images are missing decides the value.
        one_status, other_status = (f"{status}: {reason}" if reason else status for status, reason in statuses)
        refused["status"] = one_status, other_status
    gap = other.value - one.value
    found = Difference(
        first=one.value, second=other.value, statuses=(statuses[0][0], statuses[1][0]), refused=refused, difference=gap
    )
    if refused or not math.isfinite(gap):
        return found
    reason, paired = _paired(first, second, key, held, draws, seed)
    if paired is not None:
        return replace(found, **paired)
    how = f"unpaired: {reason}"
    errors = stderr_of(one), stderr_of(other)
    if errors[0] is None or errors[1] is None:
        return replace(found, beyond=False if one.value == other.value else None, how=how)
    joint = math.hypot(errors[0], errors[1])
    # Of a jackknife, Student's quantile with nine degrees of freedom.
    half = (STUDENT_975 if "jackknife" in (one.method, other.method) else NORMAL_975) * joint
    return replace(found, stderr=joint, interval=(gap - half, gap + half), beyond=abs(gap) > half, how=how)


# --- Pairs -----------------------------------------------------------------------------------------------------------


def _per_sample(record: Record, path: Path | None) -> PerSample | None:
    content = attachment(record, path or Path(f"{record.id}.json"), PER_SAMPLE)
    if content is None:
        return None
    attached = f"attachment '{PER_SAMPLE}' of record '{record.id}' holds"
    try:
        found = PerSample.model_validate_json(content)
    except ValidationError as error:
        reasons = few(breaches(error), "; ", 3)
        raise DataError(f"{attached} something else: {reasons}. Score the images again.") from None
    count = len(found.samples)
    for key, values in found.values.items():
        if len(values) != count:
            raise DataError(f"{attached} {len(values)} values of '{key}' for {count} images. Score the images again.")
    return found


def _by_item(held: PerSample, key: str) -> dict[tuple[str, int], tuple[int, float]]:
    """Return (id, value) of every judged image by item and which of the item's images it is, in rising order of ids."""
    ranks: Counter[str] = Counter()
    found = {}
    for (number, item, _, _), value in sorted(zip(held.samples, held.values[key], strict=True)):
        if value is not None and math.isfinite(value):
            found[item, ranks[item]] = number, value
        ranks[item] += 1
    return found


def _paired(
    first: Record, second: Record, key: str, held: Sequence[PerSample | None], draws: int, seed: int
) -> tuple[str, dict[str, Any] | None]:
    """Return why a metric cannot be compared image by image, or "" and the fields of its `Difference`."""
    if held[0] is None or held[1] is None or not all(key in one.values for one in held if one is not None):
        return "there are no values of single images in both records", None
    values = [_by_item(one, key) for one in held if one is not None]
    if any(item == "unknown" for item, _ in values[0]):
        return "what the images were made for is not known", None
    common = [place for place in values[0] if place in values[1]]
    grouped = first.protocol.prompts is not None
    # A value is a mean over images or over prompts, or is none, as a score of blocks or a mean over tasks.
    fits = []
    for record, one in zip((first, second), values, strict=True):
        means = _mean(np.array([value for _, value in one.values()]), _units([*one], grouped))
        fits.append([math.isclose(mean, record.values[key].value, rel_tol=1e-9, abs_tol=1e-9) for mean in means])
    over = next((i for i in (0, 1) if fits[0][i] and fits[1][i]), None)
    if over is None:
        return "the metric is no mean over images", None
    unit = _units(common, grouped)
    if len(common) < 2 or unit.max() < 1:
        return f"{len(common)} images in common are too few", None
    a, b = (np.array([one[place][1] for place in common]) for one in values)
    facts: dict[str, Any] = {"paired": len(common), "difference": _mean(b, unit)[over] - _mean(a, unit)[over]}
    shares = bool(np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all())
    if shares:
        facts["flipped"] = tuple(
            Flip(*place, (values[0][place][0], values[1][place][0]), (float(x), float(y)))
            for place, x, y in zip(common, a, b, strict=True)
            if x != y
        )
    if shares and unit.max() + 1 == len(common):
        lost, won = int((a > b).sum()), int((b > a).sum())
        p_value = mcnemar(lost, won)
        error = math.sqrt(max(0.0, won + lost - (won - lost) ** 2 / len(common))) / len(common)
        gap, half = facts["difference"], NORMAL_975 * error
        facts |= {"stderr": error, "interval": (gap - half, gap + half), "p_value": p_value, "beyond": p_value < 0.05}
        facts["how"] = f"paired: McNemar's exact test over {len(common)} images"
        return "", facts
    error, interval = bootstrap(b - a, unit, draws, seed, of_units=over == 1)
    things = f"{unit.max() + 1} prompts" if grouped else f"{len(common)} images"
    facts |= {"stderr": error, "interval": interval, "beyond": not interval[0] <= 0 <= interval[1]}
    facts["how"] = f"paired: bootstrap over {things}, {draws} draws, seed {seed}"
    return "", facts


def _units(places: Sequence[tuple[str, int]], grouped: bool) -> np.ndarray:
    """Return the number of the unit [n] that each image belongs to: its prompt, or itself."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(item if grouped else (item, k), len(numbers)) for item, k in places], dtype=int)


def _mean(values: np.ndarray, units: np.ndarray) -> tuple[float, float]:
    """Return the mean over images and the mean over units of their means; nan of nothing."""
    if not len(values):
        return math.nan, math.nan
    return float(values.mean()), float((np.bincount(units, values) / np.bincount(units)).mean())


def mcnemar(lost: int, won: int) -> float:
    """Return the exact two-sided p-value for two numbers of images that only one of two records got right.

    2 P(X <= min) for X ~ Binomial(lost + won, 1/2), at most 1.

    Source: McNemar 1947, Psychometrika 12(2), in its exact form.
    """
    count = lost + won
    logs = [math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(min(lost, won) + 1)]
    return min(1.0, 2 * math.fsum(math.exp(one - count * math.log(2)) for one in logs))


def bootstrap(
    differences: np.ndarray, units: np.ndarray, draws: int, seed: int, *, of_units: bool = False
) -> tuple[float, tuple[float, float]]:
    """Return the standard error of a mean difference and its 95 % interval, by redrawing whole units.

    Args:
        differences: of single images, float [n].
        units: number of the unit of each image, int [n], from 0 without gaps.
        draws: resamples.
        seed: of the draws; equal seeds give equal numbers.
        of_units: whether every unit counts once, whatever its number of images.

    Source: Efron 1979 (percentile interval).
    """
    sums, sizes = np.bincount(units, differences), np.bincount(units).astype(float)
    if of_units:
        sums, sizes = sums / sizes, np.ones(len(sizes))
    rng = np.random.default_rng(np.random.SeedSequence([seed, 6]))
    means = []
    for size in block_sizes(draws, len(sums)):
        drawn = rng.integers(len(sums), size=(size, len(sums)))
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    found = np.concatenate(means)
    low, high = np.quantile(found, [0.025, 0.975])
    return float(found.std(ddof=1)) if draws > 1 else 0.0, (float(low), float(high))


# --- Words -----------------------------------------------------------------------------------------------------------


def plain_content(content: Any) -> Any:
    """Return a model as plain data, anything else as it is; of a mapping, its values likewise."""
    if isinstance(content, Mapping):
        return {name: plain_content(one) for name, one in content.items()}
    return content.model_dump(mode="json") if hasattr(content, "model_dump") else content


def _pair(contents: tuple[Any, Any]) -> str:
    return " and ".join(clipped(short_hashes(str(one)), 80) for one in contents)


def _in_words(key: str, found: Difference) -> list[str]:
    marks = [f" ({status})" if status != "ok" else "" for status in found.statuses]
    values = f"{key}: {found.first:.6g}{marks[0]} and {found.second:.6g}{marks[1]}"
    if found.refused:
        fields = "; ".join(f"{name}: {_pair(one)}" for name, one in found.refused.items())
        return [f"{values}, not compared: the protocols differ in {fields}"]
    if found.stderr is None or found.interval is None or found.difference is None:
        verdict = "equal" if found.beyond is False else "no uncertainty to compare with"
        return [f"{values}, {verdict}" + (f" ({found.how})" if found.how else "")]
    verdict = "differ" if found.beyond else "agree within their uncertainty"
    test = "" if found.p_value is None else f", p = {found.p_value:.3g}"
    low, high = found.interval
    gap = f"difference {found.difference:+.4g} ± {found.stderr:.2g}, 95 % {low:+.4g} to {high:+.4g}"
    lines = [f"{values}, {verdict} ({gap}{test}; {found.how})"]
    right = (metric_info(key).verdicts or ("0", "1"))[1]
    for which, side in (("first", 0), ("second", 1)):
        names = [f"{one.item} #{one.k}" for one in found.flipped if one.values[side] > one.values[1 - side]]
        if names:
            lines.append(f"  {right} in the {which} only: {few(names, first=_NAMED)}")
    return lines
