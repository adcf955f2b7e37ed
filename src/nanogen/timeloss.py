"""Loss by time on fixed images and noise: from one evaluation to the next nothing changes but the network."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Final

import torch
from torch import Tensor, nn

from nanogen.build import Components
from nanogen.data import Batch
from nanogen.model.condition import Condition
from nanogen.objectives.objective import State
from nanogen.precision import autocast
from nanogen.rng import PositionalNoise

NUM_IMAGES: Final = 64
NUM_BINS: Final = 5
# Prefix of its keys in the log.
PREFIX: Final = "fixed_loss/"


class LossByTime:
    """Mean squared error of the velocity in the middle of each of `NUM_BINS` equal bins of the times.

    It compares networks of all objectives: those of two times are asked for the velocity at one.

    Args:
        components: with which the network is trained.
        read: returns some images as latents [B, C, h, w], and their batch; called once, before the first loss.
    """

    def __init__(self, components: Components, read: Callable[[], tuple[Tensor, Batch]]) -> None:
        self._components, self._read = components, read

    @cached_property
    def _fixed(self) -> tuple[State, State, Condition]:
        """Clean states, noise and condition of the images."""
        (x, batch), objective = self._read(), self._components.objective
        noise = PositionalNoise(0, range(len(x)), self._components.device)
        condition = self._components.conditioner(batch.label, batch.caption)
        return objective.state(x, batch), objective.initial(noise, tuple(x.shape[1:])), condition

    @torch.no_grad()
    def __call__(self, net: nn.Module) -> dict[str, float]:
        """Return the losses of a network by bin, such as "0.2-0.4"; 0 is data, 1 is noise."""
        (x, eps, condition), objective = self._fixed, self._components.objective
        found = {}
        for number in range(NUM_BINS):
            t = (number + 0.5) / NUM_BINS
            with autocast(self._components.precision, self._components.device):
                v = objective.velocity(net, (1 - t) * x + t * eps, t, t, condition)
            error = objective.latent(v - (eps - x))
            found[f"{number / NUM_BINS:g}-{(number + 1) / NUM_BINS:g}"] = error.float().square().mean().item()
        return found
