"""Guard G9: some images sampled again from the weights, so that choosing the best of many shows.

Whoever checks draws at random which ones, after all images were handed in: who knows them before can leave those alone.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from diffusionbench.benchmarks.simpleeval.guards import num_regenerated
from diffusionbench.source import UnreadableImages

if TYPE_CHECKING:
    from diffusionbench.axes import Sample
    from diffusionbench.prompts import PromptList
    from diffusionbench.source import Source


def drawn(prompts: PromptList) -> str:
    """2 % of a set's images, drawn by the operating system's randomness, as JSON Lines: file, text and noise seed."""
    files = prompts.files_of_images()
    chosen = sorted(secrets.SystemRandom().sample(range(len(files)), num_regenerated(len(files))))
    rows = []
    for place in chosen:
        prompt, k = divmod(place, prompts.images_per_prompt)
        seed = None if prompts.noise_seeds is None else prompts.noise_seeds[prompt][k]
        rows.append({"file": f"{files[place]}.png", "text": prompts.texts[prompt], "seed": seed})
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def differences(samples: Sequence[Sample], images: Source, again: Source) -> dict[str, float]:
    """Compare images with the same samples made again from their ruled noise seeds.

    Args:
        samples: of the set; those that either source lacks are left out.
        images: what was handed in.
        again: the weights as a source, or a folder of what they made.

    Returns:
        Mean absolute difference in 8-bit levels by `<prompt id>/<k>`; 255 where the sizes differ.
    """
    out = {}
    for sample in samples:
        try:
            (second,), (first,) = again.images([sample]), images.images([sample])
        except UnreadableImages:
            continue
        same_size = first.shape == second.shape
        out[str(sample.file)] = float(np.abs(first.astype(float) - second).mean()) if same_size else 255.0
    return out
