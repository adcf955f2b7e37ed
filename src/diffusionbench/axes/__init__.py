"""The table of axes and what one sample is: an axis turns a request into the samples to generate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from diffusionbench.registry import Registry

if TYPE_CHECKING:
    from diffusionbench.references import Reference
    from diffusionbench.request import EvalRequest

AXES = Registry(
    "axis",
    {
        "class_conditional": "diffusionbench.axes.class_conditional:ClassConditional",
        "t2i": "diffusionbench.axes.t2i:TextToImage",
    },
    group="diffusionbench.axes",
)


@dataclass(frozen=True)
class Sample:
    """One image to make or to judge.

    Attributes:
        id: place in the evaluation, from 0; the noise of the image depends on (seed, id) only.
        label: class that was asked for, or None where unknown.
        prompt: text that was asked for, or None.
        seed: of the sample's own noise where the prompt set rules it (in 0..2^63-1), else None: see `id`.
        file: where the image lies below a folder of images made for a prompt set, without the suffix; else None.
    """

    id: int
    label: int | None = None
    prompt: str | None = None
    seed: int | None = None
    file: str | None = None


class Axis(Protocol):
    """What is asked of a generator.

    Attributes:
        name: its key in `AXES`.
        asks: what it asks a generator for, and so how images that exist already are told apart: by the classes of a
            folder or archive, or by the file names of a prompt set. An axis that does not say asks for classes.
    """

    name: str
    asks: Literal["classes", "prompts"]

    def samples(
        self, request: EvalRequest, reference: Reference | None, given: Sequence[int | None] | None
    ) -> list[Sample]:
        """Expand a request: a pure function of its arguments, and a shorter request is the start of a longer one.

        Args:
            request: what was asked.
            reference: the real images, or None where no metric needs them.
            given: labels of images that exist already, in order; None for a generator.

        Raises:
            RequestError: if there are fewer images than asked for, or a label is out of range.
        """
        ...

    def full_count(self, request: EvalRequest) -> int:
        """Return images of a complete evaluation of a generator, whatever the request's own count is."""
        ...


def asks_for(name: str) -> Literal["classes", "prompts"]:
    """Return what an axis asks a generator for.

    Raises:
        UserError: if there is no such axis.
    """
    return getattr(AXES.load(name), "asks", "classes")
