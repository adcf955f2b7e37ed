"""Means over prompts: the images of one prompt are alike, so the prompt is the unit of every uncertainty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from diffusionbench.sample import Item, Sample
from diffusionbench.stats import NORMAL_975, Estimate, wilson


class PromptMeans:
    """Scores of images, grouped by the items they were made for.

    Args:
        scores: of each image.
        share: whether scores are 0 or 1 and the mean is over images, as of a share of correct images; else it is over
            prompts, each the mean of its images.

    Attributes:
        prompts: scores of each item's images, by rising id, by the item's key.
    """

    def __init__(self, scores: Mapping[Sample, float], share: bool = False) -> None:
        self.prompts: dict[str, list[float]] = {}
        self._items: dict[str, Item] = {}
        self._share = share
        for sample in sorted(scores, key=lambda sample: sample.id):
            self.prompts.setdefault(sample.item.key, []).append(scores[sample])
            self._items[sample.item.key] = sample.item

    @property
    def tags(self) -> list[str]:
        """Tags of the items, in the order in which they first stand."""
        return list(dict.fromkeys(tag for item in self._items.values() for tag in item.tags))

    def of(self, tag: str | None = None) -> Estimate | None:
        """Return the mean over the items of a tag, or all, with its standard error over prompts.

        None where no image is of one.
        A share with one image a prompt has Wilson's interval instead.
        """
        groups = [scores for key, scores in self.prompts.items() if tag is None or tag in self._items[key].tags]
        if not groups:
            return None
        sums = [(math.fsum(scores), len(scores)) for scores in groups]
        images = sum(number for _, number in sums)
        if not self._share:
            return replace(ratio([(total / number, 1) for total, number in sums]), scored=images)
        if images > len(groups):
            return ratio(sums)
        right = round(math.fsum(total for total, _ in sums))
        interval = wilson(right, images)
        return Estimate(value=right / images, stderr=None, interval=interval, method="wilson", scored=images)


def ratio(prompts: Sequence[tuple[float, int]]) -> Estimate:
    """Return the mean over all that prompts hold, with its standard error over prompts.

    Args:
        prompts: of each the sum and the number of what is averaged, at least one of them.

    Source: Cochran 1977, Sampling Techniques, section 2.11; for equal numbers it is the error of the mean of means.
    """
    number, many = sum(count for _, count in prompts), len(prompts)
    value = math.fsum(total for total, _ in prompts) / number
    squares = math.fsum((total - value * count) ** 2 for total, count in prompts)
    stderr = math.sqrt(squares * many / (many - 1)) / number if many > 1 else None
    return _estimate(value, stderr, number)


def combined(parts: Sequence[Estimate], scored: int) -> Estimate:
    """Return the unweighted mean of independent shares, with the error that follows from theirs."""
    errors = [_error(part) for part in parts]
    value = math.fsum(part.value for part in parts) / len(parts)
    known = [error for error in errors if error is not None]
    stderr = math.hypot(*known) / len(parts) if len(known) == len(parts) else None
    found = _estimate(value, stderr, scored)
    return replace(found, interval=found.interval and (max(found.interval[0], 0.0), min(found.interval[1], 1.0)))


def _error(part: Estimate) -> float | None:
    if part.method == "wilson":
        # Of independent images, by their number alone.
        return math.sqrt(part.value * (1 - part.value) / max(part.scored - 1, 1))
    return part.stderr


def _estimate(value: float, stderr: float | None, scored: int) -> Estimate:
    half = None if stderr is None else NORMAL_975 * stderr
    return Estimate(
        value=value,
        stderr=stderr,
        interval=None if half is None else (value - half, value + half),
        method="none" if stderr is None else "prompts",
        scored=scored,
    )
