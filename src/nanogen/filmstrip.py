"""One sample on its way from noise to image, as small pictures."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffusionbench.images import to_uint8
from nanogen.conditions import SampleSpec
from nanogen.pipeline import ImagePipeline
from nanogen.rng import sampling_noise

FRAMES = 9


def filmstrip(pipeline: ImagePipeline, spec: SampleSpec, seed: int) -> list[tuple[float, np.ndarray]]:
    """Return at most `FRAMES` states of sample 0 with their times, 1 to 0, decoded to uint8 [H, W, 3].

    Args:
        spec: its class or caption.
        seed: of the noise, as in `nanogen sample --seed`.
    """
    components = pipeline.components
    states: list[tuple[float, Tensor]] = []
    condition = components.conditioner([spec.label], [] if spec.caption is None else [spec.caption])
    final = pipeline(condition, sampling_noise(seed, [0], components.device), lambda z, t: states.append((t, z)))[0]
    # A solver of second order asks twice at a time; the first state of each counts.
    by_time = dict(reversed(states))
    times = sorted(by_time, reverse=True)
    chosen = {times[round(place)] for place in np.linspace(0, len(times) - 1, min(FRAMES - 1, len(times)))}
    with torch.no_grad():
        found = [
            (t, to_uint8(components.latent.decode(components.objective.latent(by_time[t])).float())[0])
            for t in sorted(chosen, reverse=True)
        ]
    return [*found, (0.0, final)]
