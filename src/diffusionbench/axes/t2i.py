"""Images of given texts: the axis of text-to-image generators."""

from __future__ import annotations

from diffusionbench.axes.axis import Asked, Axis
from diffusionbench.errors import RequestError
from diffusionbench.prompts import PromptList
from diffusionbench.sample import Sample


class TextToImage(Axis):
    """The prompts of a set in its order, K images each: sample id = prompt * K + k."""

    def full_count(self, prompts: PromptList | None) -> int:
        """Return every image of the prompt set."""
        assert prompts is not None
        return prompts.count

    def samples(self, asked: Asked) -> list[Sample]:
        """See `Axis.samples`. Images that exist already are found by the set's file names.

        Raises:
            RequestError: if more images are asked for than the set has, or the images have no names of prompts.
        """
        prompts = asked.prompts
        assert prompts is not None
        if asked.count > prompts.count:
            raise RequestError(
                f"{asked.count} images were asked for, and prompt set '{prompts.name}' has {len(prompts.items)} "
                f"prompts with {prompts.images_per_prompt} images each. Ask for at most {prompts.count}, or choose a "
                "larger layout."
            )
        if asked.given is not None:
            raise RequestError(
                "an axis of prompts must know the prompt of each image, and a folder of unnamed images does not tell. "
                f"Name them as the prompt set does: {prompts.sample(0).file}.png and so on."
            )
        return [prompts.sample(place) for place in range(asked.count)]
