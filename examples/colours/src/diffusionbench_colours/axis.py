"""The axis `colours`: label i asks for `NAMES[i]`."""

from diffusionbench.axes.axis import Asked, Axis
from diffusionbench.errors import RequestError
from diffusionbench.prompts import PromptList
from diffusionbench.sample import Sample, plain_item
from diffusionbench_colours import NAMES


class Colours(Axis):
    def full_count(self, prompts: PromptList | None) -> int:
        return 300

    def samples(self, asked: Asked) -> list[Sample]:
        """Return the samples; see `Axis.samples`."""
        if asked.given is not None and asked.count > len(asked.given):
            raise RequestError(f"{asked.count} images were asked for and there are {len(asked.given)}. Add images.")
        given = asked.given or [place % len(NAMES) for place in range(asked.count)]
        samples = []
        for place, label in enumerate(given[: asked.count]):
            if label is None or not 0 <= label < len(NAMES):
                raise RequestError(f"image {place} has the label {label}; labels are 0 (red), 1 (green) and 2 (blue).")
            samples.append(Sample(place, plain_item(label), place // len(NAMES)))
        return samples
