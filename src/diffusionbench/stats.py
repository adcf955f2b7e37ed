"""A value with its uncertainty, and the few ways we form one (`Estimate`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One number with its uncertainty over the draw of images (not over training seeds).

    Attributes:
        value: the number.
        stderr: standard error, or None where only an interval is defined.
        interval: 95 % interval (low, high), or None.
        method: how the uncertainty was formed, such as "jackknife" or "wilson".
        scored: images (or prompts) behind the value.
        unscored: images that could not be judged.
        per_sample: value of each scored image in the order seen, where one exists.
        parts: further values of the same metric under their own final keys (families, tags, variants).
        facts: what a record keeps beside the values, as plain JSON.
    """

    value: float
    stderr: float | None
    interval: tuple[float, float] | None
    method: str
    scored: int
    unscored: int = 0
    per_sample: list[float] | None = None
    parts: Mapping[str, Estimate] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
