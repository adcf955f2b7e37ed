"""Data and conditioning apart: what each does to the correlation of two tasks that differ in both.

Three tasks, of which the middle one shares the conditioning with the first (classes) and the data with the last. What
is missing of the correlation of the first and the last, 1 - r, is divided among the two changes by their Shapley values
(Shapley 1953): the mean over both orders of what a change takes away when it is made.

    data          = ((1 - r(first, middle)) + (r(middle, last) - r(first, last))) / 2
    conditioning  = ((1 - r(middle, last)) + (r(first, middle) - r(first, last))) / 2

The two add up to 1 - r(first, last). Noise of scoring and of training takes away from every r, so a part of both is
noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffusionbench.study.correlate import DRAWS, Array, pearson
from diffusionbench.study.seeds import Runs, drawn_means, means_of, percentiles, rows_r


@dataclass(frozen=True)
class Estimated:
    """A number with its 95 % interval by the bootstrap over methods and seeds."""

    value: float
    interval: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Apart:
    """Correlations of three tasks, and how 1 - r of the outer two is divided.

    Attributes:
        first_middle, middle_last, first_last: Pearson's r, signs turned so that + means better on both.
        data, conditioning: parts of `missing`; negative where a change brings the tasks closer.
        missing: 1 - r(first, last).
        difference: data - conditioning; an interval without 0 says which takes away more.
    """

    methods: int
    first_middle: Estimated
    middle_last: Estimated
    first_last: Estimated
    data: Estimated
    conditioning: Estimated
    missing: Estimated
    difference: Estimated
    draws: int
    seed: int


def divide(first_middle: Array, middle_last: Array, first_last: Array) -> tuple[Array, Array]:
    """Return the parts of data and of conditioning in 1 - r(first, last)."""
    data = ((1 - first_middle) + (middle_last - first_last)) / 2
    return data, 1 - first_last - data


def apart(tasks: Sequence[Runs], signs: Sequence[int], *, draws: int = DRAWS, seed: int = 0) -> Apart | None:
    """Return what changes of data and of conditioning do, or None for fewer than 4 methods or a constant score.

    Args:
        tasks: runs by method of the first, the middle and the last task, of the same methods.
        signs: 1 where a higher score is better, else -1.
    """
    means = [sign * means_of(runs) for sign, runs in zip(signs, tasks, strict=True)]
    if len(means[0]) < 4 or any(np.ptp(one) == 0 for one in means):
        return None
    drawn = [[sign * one for sign, one in zip(signs, block, strict=True)] for block in drawn_means(tasks, draws, seed)]
    pairs = ((0, 1), (1, 2), (0, 2))
    values = [np.array(float(pearson(means[i], means[j], draws=0))) for i, j in pairs]
    spread = [np.concatenate([rows_r(block[i], block[j]) for block in drawn]) for i, j in pairs]
    found = []
    for own, draw in zip(_numbers(*values), _numbers(*spread), strict=True):
        found.append(Estimated(float(own), percentiles(draw)))
    names = ("first_middle", "middle_last", "first_last", "data", "conditioning", "missing", "difference")
    return Apart(methods=len(means[0]), draws=draws, seed=seed, **dict(zip(names, found, strict=True)))


def _numbers(first_middle: Array, middle_last: Array, first_last: Array) -> list[Array]:
    data, conditioning = divide(first_middle, middle_last, first_last)
    return [first_middle, middle_last, first_last, data, conditioning, 1 - first_last, data - conditioning]
