"""Exponential moving average of the weights, in float32: one fused operation per step."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from nanogen import parallel

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def decay_at(step: int, decay: float, ramp: bool) -> float:
    """Return the decay of the update number `step` (from 0).

    Args:
        decay: the cap; per step.
        ramp: min(decay, (1 + step) / (10 + step)), so that a short run forgets its initial weights.
    """
    return min(decay, (1 + step) / (10 + step)) if ramp else decay


class EMA(Generic[ModuleT]):
    """Average of the trainable parameters of a module; starts as its copy.

    Buffers follow the module's; frozen parameters are shared with it and keep their number type.

    Attributes:
        module: the averaged copy, in evaluation mode and without gradients.
    """

    def __init__(self, module: ModuleT, decay: float, ramp: bool) -> None:
        frozen = {id(weight): weight for weight in module.parameters() if not weight.requires_grad}
        self.module: ModuleT = copy.deepcopy(module, frozen).requires_grad_(False).eval()
        self.decay = decay
        self.ramp = ramp
        self._pair(module)
        for average in self._averages.values():
            average.data = average.float()
        stored = module.state_dict()
        self._buffers = [
            (copied, buffer)
            for (name, buffer), copied in zip(module.named_buffers(), self.module.buffers(), strict=True)
            if name in stored
        ]

    @torch.no_grad()
    def cut(self, module: ModuleT) -> None:
        """Keep the parts of the averages that this process holds of the weights of a module that was sharded since."""
        wholes = dict(self.module.named_parameters())
        for name, weight in module.named_parameters():
            if parallel.is_part(weight):
                average = nn.Parameter(weight.detach().clone(), requires_grad=False)
                parallel.assign(average, wholes[name])
                place, _, leaf = name.rpartition(".")
                setattr(self.module.get_submodule(place), leaf, average)
        self._pair(module)

    def _pair(self, module: ModuleT) -> None:
        averages = dict(self.module.named_parameters())
        self._weights = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        self._averages = {name: averages[name] for name in self._weights}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Average in the weights after update number `step` (from 0)."""
        averages, weights = ([*map(parallel.part, some.values())] for some in (self._averages, self._weights))
        get_ema_multi_avg_fn(decay_at(step, self.decay, self.ramp))(averages, weights, None)
        for copied, buffer in self._buffers:
            copied.copy_(buffer)
