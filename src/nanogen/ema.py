"""Exponential moving average of the weights, in float32: one fused operation per step."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


def decay_at(step: int, decay: float, ramp: bool) -> float:
    """Decay of the update number `step` (from 0).

    Args:
        decay: the cap; per step.
        ramp: min(decay, (1 + step) / (10 + step)), so that a short run forgets its initial weights.
    """
    return min(decay, (1 + step) / (10 + step)) if ramp else decay


class EMA:
    """Average of a model; starts as its copy.

    Attributes:
        model: the averaged network, in evaluation mode and without gradients.
    """

    def __init__(self, model: nn.Module, decay: float, ramp: bool) -> None:
        self.model = copy.deepcopy(model).float().requires_grad_(False).eval()
        self.decay = decay
        self.ramp = ramp
        self._averages = list(self.model.parameters())
        self._weights = list(model.parameters())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Average in the weights after update number `step` (from 0)."""
        get_ema_multi_avg_fn(decay_at(step, self.decay, self.ramp))(self._averages, self._weights, None)
