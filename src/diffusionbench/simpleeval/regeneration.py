"""Guard G9: a few images sampled again from the weights, so that choosing the best of many shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from diffusionbench.simpleeval.blocks import PromptSet
from diffusionbench.simpleeval.guards import regeneration_choice

if TYPE_CHECKING:
    from diffusionbench.axes import Sample
    from diffusionbench.source import Source
    from diffusionbench.store import ImageSet


def differences(
    prompt_set: PromptSet, samples: Sequence[Sample], images: ImageSet, generator: Source
) -> dict[str, float]:
    """Sample 2 % of a set's images again from their ruled noise seeds and compare.

    Args:
        prompt_set: the set.
        samples: all its samples, as the axis expands them; sample id = prompt * K + k.
        images: what was submitted.
        generator: the weights, as a source.

    Returns:
        Mean absolute difference in 8-bit levels by `<prompt id>/<k>`; 255 where the sizes differ. Images that could not
        be read are left out.
    """
    place = {prompt.id: number for number, prompt in enumerate(prompt_set.prompts)}
    wanted = {
        place[prompt] * prompt_set.images_per_prompt + k: f"{prompt}/{k}"
        for prompt, k in regeneration_choice(prompt_set)
    }
    wanted = {sample: name for sample, name in wanted.items() if sample < len(samples)}
    given: dict[int, np.ndarray] = {}
    for batch, pixels in images.batches(len(samples)):
        given |= {sample.id: image for sample, image in zip(batch, pixels, strict=True) if sample.id in wanted}
    out = {}
    for sample, image in sorted(given.items()):
        (again,) = generator.images([samples[sample]])
        same_size = again.shape == image.shape
        out[wanted[sample]] = float(np.abs(again.astype(float) - image).mean()) if same_size else 255.0
    return out
