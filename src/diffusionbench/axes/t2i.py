"""Images of given texts: the axis of text-to-image generators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from diffusionbench.axes import Sample
from diffusionbench.errors import RequestError
from diffusionbench.prompts import PROMPTS, PromptList

if TYPE_CHECKING:
    from diffusionbench.references import Reference
    from diffusionbench.request import EvalRequest


def open_prompts(request: EvalRequest) -> PromptList:
    """Return the prompt set a request names.

    Raises:
        RequestError: if it names none, the set, its seed or its layout is unknown, or a prompt stands in it twice.
    """
    if request.prompts is None:
        raise RequestError(
            f"axis '{request.axis}' needs a prompt set, and neither a metric nor the request names one. Known: "
            f"{', '.join(sorted(PROMPTS))}."
        )
    found: PromptList = PROMPTS.load(request.prompts.name).open(request.prompts.seed, request.prompts.layout)
    repeated = [text for text, times in Counter(found.texts).items() if times > 1]
    if repeated:
        raise RequestError(
            f"prompt set '{found.name}' has {len(repeated)} prompts more than once, the first: '{repeated[0]}'. "
            "Remove the repeats: every prompt counts once."
        )
    return found


class TextToImage:
    """The prompts of a set in its order, K images each: sample id = prompt * K + k."""

    name = "t2i"
    asks: Literal["classes", "prompts"] = "prompts"

    def full_count(self, request: EvalRequest) -> int:
        """Return every image of the prompt set."""
        return len(open_prompts(request).files_of_images())

    def samples(
        self, request: EvalRequest, reference: Reference | None, given: Sequence[int | None] | None
    ) -> list[Sample]:
        """The request's samples; see `Axis.samples`. Images that exist already are found by the set's file names.

        Raises:
            RequestError: if more images are asked for than the set has, or the images have no names of prompts.
        """
        prompts = open_prompts(request)
        K = prompts.images_per_prompt
        total = K * len(prompts.texts)
        if request.count > total:
            raise RequestError(
                f"{request.count} images were asked for, and prompt set '{prompts.name}' has {len(prompts.texts)} "
                f"prompts with {K} images each. Ask for at most {total}, or choose a larger layout."
            )
        if given is not None:
            raise RequestError(
                f"axis '{request.axis}' must know the prompt of each image, and a folder of unnamed images does not "
                f"tell. Name them as the prompt set does: {prompts.files[0]}/0.png and so on."
            )
        return [self._sample(prompts, place) for place in range(request.count)]

    @staticmethod
    def _sample(prompts: PromptList, place: int) -> Sample:
        prompt, k = divmod(place, prompts.images_per_prompt)
        return Sample(
            id=place,
            prompt=prompts.texts[prompt],
            seed=None if prompts.noise_seeds is None else prompts.noise_seeds[prompt][k],
            file=f"{prompts.files[prompt]}/{k}",
        )
