"""The table of axes and what one sample is: an axis turns a request into the samples to generate."""

from __future__ import annotations

from dataclasses import dataclass

from diffusionbench.registry import Registry

AXES = Registry(
    "axis",
    {"class_conditional": "diffusionbench.axes.class_conditional:ClassConditional"},
    group="diffusionbench.axes",
)


@dataclass(frozen=True)
class Sample:
    """One image to make or to judge.

    Attributes:
        id: place in the evaluation, from 0; the noise of the image depends on (seed, id) only.
        label: class that was asked for, or None where unknown.
        prompt: text that was asked for, or None.
    """

    id: int
    label: int | None = None
    prompt: str | None = None
