"""Estimates: values with their uncertainty, and the few ways to form one.

Every uncertainty here covers the draw of images only: neither training seeds nor the bias of a finite number of images.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from diffusionbench.sample import Sample

GROUPS = 10
"""Groups of the delete-one-group jackknife."""

# 97.5 % quantiles: standard normal, and Student's t with GROUPS - 1 = 9 degrees of freedom.
NORMAL_975 = 1.959963984540054
STUDENT_975 = 2.262157162854099


def groups_of(samples: Iterable[Sample]) -> dict[int, int]:
    """Return the jackknife group of each sample, 0..GROUPS - 1, by its id, in rising order of ids.

    Labels are strata: the group is (rank within the label + label) mod `GROUPS`, so that leaving a group out leaves
    out a like share of every class, whatever the order of the classes, and classes of one image spread. A sample
    without label or prompt counts as of class 0. Where prompts are drawn instead of classes, the group is the place of
    the prompt mod `GROUPS`: images of one prompt are alike and stay together. Both places count the samples at hand, so
    a gap in the ids shifts nothing apart.
    """
    groups: dict[int, int] = {}
    ranks: Counter[int] = Counter()
    prompts: dict[str, int] = {}
    for sample in sorted(samples, key=lambda sample: sample.id):
        if sample.label is None and sample.prompt is not None:
            place = prompts.setdefault(sample.prompt, len(prompts))
        else:
            label = sample.label or 0
            place = ranks[label] + label
            ranks[label] += 1
        groups[sample.id] = place % GROUPS
    return groups


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One number with its uncertainty over the draw of images (not over training seeds).

    Attributes:
        value: the number.
        stderr: standard error, or None where only an interval is defined.
        interval: 95 % interval (low, high), or None.
        method: how the uncertainty was formed, such as "jackknife" or "wilson"; "none" where there is none.
        scored: images (or prompts) behind the value.
        unscored: images that could not be judged.
        unjudged: why not, by sample id, where that is known of single images.
        per_sample: value of each scored image by sample id, where one exists.
        extra: numbers that belong beside the value, by record key, such as {"kid_std": 0.0004}.
        parts: further values of the same metric under their own final keys (families, tags, variants).
        facts: what a record keeps beside the values, as plain JSON.
        status, reason: what the metric itself says against a place on a leaderboard; unscored images count without it.
    """

    value: float
    stderr: float | None
    interval: tuple[float, float] | None
    method: str
    scored: int
    unscored: int = 0
    unjudged: Mapping[int, str] = field(default_factory=dict)
    per_sample: Mapping[int, float] | None = None
    extra: dict[str, float] = field(default_factory=dict)
    parts: Mapping[str, Estimate] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    status: Literal["ok", "partial", "provisional", "flagged", "asserted"] = "ok"
    reason: str | None = None


def jackknife(replicates: Sequence[float]) -> float | None:
    """Return the standard error by the delete-one-group jackknife.

    Args:
        replicates: the value without group 0, without group 1, ...; nan where it is not defined.

    Returns:
        sqrt((g - 1) / g * sum (replicate - mean)^2) over g replicates, or None with fewer than two replicates or
        where one of them is not finite: a part of the groups would give a wrong number.

    Source: Efron and Tibshirani 1993, An Introduction to the Bootstrap, chapter 11.
    """
    count = len(replicates)
    if count < 2 or not all(math.isfinite(value) for value in replicates):
        return None
    mean = math.fsum(replicates) / count
    return math.sqrt((count - 1) / count * math.fsum((value - mean) ** 2 for value in replicates))


def jackknife_interval(value: float, stderr: float) -> tuple[float, float]:
    """95 % interval (low, high) around a value whose standard error comes from `GROUPS` groups (Student's t)."""
    return value - STUDENT_975 * stderr, value + STUDENT_975 * stderr


def wilson(successes: int, count: int) -> tuple[float, float]:
    """95 % interval (low, high) of a share in 0..1 of independent images.

    Args:
        successes: images that count, 0..count.
        count: all images, at least 1.

    Raises:
        ValueError: if there is no image, or the successes lie outside 0..count.

    Source: Wilson 1927, JASA 22(158).
    """
    if not 0 <= successes <= count or count == 0:
        raise ValueError(f"a share needs 0 <= successes <= count and count > 0, got {successes} of {count}")
    share, square = successes / count, NORMAL_975**2
    centre = (share + square / (2 * count)) / (1 + square / count)
    half = NORMAL_975 / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count**2))
    # Exactly 0 and 1 at the ends, where rounding would leave 1e-17.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == count else centre + half)
