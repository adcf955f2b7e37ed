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
    from diffusionbench.prompts import PromptList
    from diffusionbench.sample import Sample
    from diffusionbench.source import ImageSource


def drawn(prompts: PromptList) -> str:
    """2 % of a set's images, drawn by the operating system's randomness, as JSON Lines: file, text and noise seed."""
    chosen = sorted(secrets.SystemRandom().sample(range(prompts.count), num_regenerated(prompts.count)))
    samples = map(prompts.sample, chosen)
    rows = [{"file": f"{sample.file}.png", "text": sample.prompt, "seed": sample.seed} for sample in samples]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def differences(samples: Sequence[Sample], images: ImageSource, again: ImageSource) -> dict[str, float]:
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
        out[sample.file] = float(np.abs(first.astype(float) - second).mean()) if same_size else 255.0
    return out
