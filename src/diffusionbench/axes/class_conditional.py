"""Images of given classes: the axis of ImageNet, CIFAR-10 and the digits."""

from __future__ import annotations

from collections import Counter

from diffusionbench.axes.axis import Asked, Axis
from diffusionbench.errors import RequestError
from diffusionbench.prompts import PromptList
from diffusionbench.sample import Sample, plain_item

FULL_COUNT = 50_000


class ClassConditional(Axis):
    """Classes in the order of the reference's evaluation set, or those of the images that exist already."""

    def full_count(self, prompts: PromptList | None) -> int:
        """Return 50,000, as published ImageNet figures have it (docs/protocol.md)."""
        return FULL_COUNT

    def samples(self, asked: Asked) -> list[Sample]:
        """See `Axis.samples`.

        A reference without labels leaves the order 0, 1, ..., C - 1, 0, ... over the request's `num_classes`.
        """
        count, reference, classes = asked.count, asked.reference, asked.num_classes
        if classes is None and reference is not None:
            classes = reference.num_classes
        if asked.given is not None:
            if count > len(asked.given):
                raise RequestError(
                    f"{count} images were asked for and there are {len(asked.given)}. "
                    f"Add images or ask for at most {len(asked.given)}."
                )
            labels = list(asked.given[:count])
        elif reference is not None and reference.num_classes is not None:
            labels = reference.labels(count)
        elif classes is not None:
            labels = [sample % classes for sample in range(count)]
        else:
            labels = [None] * count
        ranks: Counter[int | None] = Counter()
        samples = []
        for place, label in enumerate(labels):
            if label is not None and not 0 <= label < (classes or label + 1):
                raise RequestError(
                    f"image {place} has the label {label}; the {classes} classes of this request are "
                    f"0..{classes - 1 if classes else 0}. Correct the labels or choose another reference."
                )
            samples.append(Sample(place, plain_item(label), ranks[label]))
            ranks[label] += 1
        return samples
