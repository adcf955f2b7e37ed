"""The axis `colours`: plain red, green and blue images in turn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from diffusionbench.axes import Sample
from diffusionbench.errors import RequestError
from diffusionbench_colours import COLOURS, TEXTS

if TYPE_CHECKING:
    from diffusionbench.references import Reference
    from diffusionbench.request import EvalRequest


class Colours:
    """Label i asks for `COLOURS[i]`, in the words of `TEXTS[i]`."""

    name = "colours"
    asks: Literal["classes", "prompts"] = "classes"

    def samples(
        self, request: EvalRequest, reference: Reference | None, given: Sequence[int | None] | None
    ) -> list[Sample]:
        """The request's samples; see `diffusionbench.axes.Axis.samples`."""
        if given is not None and request.count > len(given):
            raise RequestError(f"{request.count} images were asked for and there are {len(given)}. Add images.")
        labels = [i % len(COLOURS) for i in range(request.count)] if given is None else list(given[: request.count])
        samples = []
        for place, label in enumerate(labels):
            if label is None or not 0 <= label < len(COLOURS):
                raise RequestError(f"image {place} has the label {label}; labels are 0 (red), 1 (green) and 2 (blue).")
            samples.append(Sample(id=place, label=label, prompt=TEXTS[label]))
        return samples
