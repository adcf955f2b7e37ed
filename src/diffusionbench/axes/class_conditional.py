"""Images of given classes: the axis of ImageNet, CIFAR-10 and the digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from diffusionbench.axes import Sample
from diffusionbench.errors import RequestError

if TYPE_CHECKING:
    from diffusionbench.references import Reference
    from diffusionbench.request import EvalRequest


FULL_COUNT = 50_000


class ClassConditional:
    """Classes in the order of the reference's evaluation set, or those of the images that exist already."""

    name = "class_conditional"
    asks: Literal["classes", "prompts"] = "classes"

    def full_count(self, request: EvalRequest) -> int:
        """50,000, as published ImageNet figures have it (docs/protocol.md)."""
        return FULL_COUNT

    def samples(
        self, request: EvalRequest, reference: Reference | None, given: Sequence[int | None] | None
    ) -> list[Sample]:
        """Return the request's samples; see `Axis.samples`.

        A reference without labels leaves the order 0, 1, ..., C - 1, 0, ... over the request's `num_classes`.
        """
        classes = request.num_classes
        if classes is None and reference is not None:
            classes = reference.num_classes
        if given is not None:
            if request.count > len(given):
                raise RequestError(
                    f"{request.count} images were asked for and there are {len(given)}. "
                    f"Add images or ask for at most {len(given)}."
                )
            labels = list(given[: request.count])
        elif reference is not None and reference.num_classes is not None:
            labels = reference.labels(request.count)
        elif classes is not None:
            labels = [sample % classes for sample in range(request.count)]
        else:
            labels = [None] * request.count
        for sample, label in enumerate(labels):
            if label is not None and not 0 <= label < (classes or label + 1):
                raise RequestError(
                    f"image {sample} has the label {label}; the {classes} classes of this request are "
                    f"0..{classes - 1 if classes else 0}. Correct the labels or choose another reference."
                )
        return [Sample(id=sample, label=label) for sample, label in enumerate(labels)]
