"""The axis `colours`: plain red, green and blue images in turn."""

from __future__ import annotations

from diffusionbench.axes.axis import Asked, Axis
from diffusionbench.errors import RequestError
from diffusionbench.prompts import PromptList
from diffusionbench.sample import Item, Sample
from diffusionbench_colours import COLOURS, TEXTS


class Colours(Axis):
    """Label i asks for `COLOURS[i]`, in the words of `TEXTS[i]`."""

    def full_count(self, prompts: PromptList | None) -> int:
        """Return 300: a hundred images of each colour."""
        return 300

    def samples(self, asked: Asked) -> list[Sample]:
        """See `diffusionbench.axes.axis.Axis.samples`."""
        if asked.given is not None and asked.count > len(asked.given):
            raise RequestError(f"{asked.count} images were asked for and there are {len(asked.given)}. Add images.")
        labels = [i % len(COLOURS) for i in range(asked.count)] if asked.given is None else asked.given[: asked.count]
        samples = []
        for place, label in enumerate(labels):
            if label is None or not 0 <= label < len(COLOURS):
                raise RequestError(f"image {place} has the label {label}; labels are 0 (red), 1 (green) and 2 (blue).")
            item = Item(f"colour/{COLOURS[label]}", label=label, text=TEXTS[label])
            samples.append(Sample(place, item, k=labels[:place].count(label)))
        return samples
