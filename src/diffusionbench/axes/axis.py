"""The base class of axes, and their argument."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffusionbench.prompts import PromptList
from diffusionbench.references.reference import Reference
from diffusionbench.sample import Sample


@dataclass(frozen=True)
class Asked:
    """Facts of a request that an axis turns into samples.

    Attributes:
        count: images to score.
        num_classes: classes to ask for in turn where the reference has no labels, or None.
        reference: the real images, or None where no metric needs them.
        prompts: the opened prompt set, or None.
        given: labels of images that exist already, in order; None for a generator.
    """

    count: int
    num_classes: int | None = None
    reference: Reference | None = None
    prompts: PromptList | None = None
    given: Sequence[int | None] | None = None


class Axis:
    """What is asked of a generator."""

    def samples(self, asked: Asked) -> list[Sample]:
        """Return the samples: a pure function of its argument, and a shorter request is the start of a longer one.

        Raises:
            RequestError: if there are fewer images than asked for, or a label is out of range.
        """
        raise NotImplementedError

    def full_count(self, prompts: PromptList | None) -> int:
        """Return the images of a complete evaluation of a generator."""
        raise NotImplementedError
