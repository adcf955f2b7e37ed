"""Rectified flow with velocity or data prediction: z = (1 - t) x + t eps, v = eps - x.

Source: Liu et al. 2022 (arXiv 2209.03003), Esser et al. 2024 (arXiv 2403.03206); data prediction with a velocity
loss: Li and He 2025 (arXiv 2511.13720).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nanogen.objectives import FlowOptions
from nanogen.objectives.objective import Network, Objective, Pass
from nanogen.rng import PositionalNoise
from nanogen.times import logit_normal, shift_time

if TYPE_CHECKING:
    from nanogen.model.condition import Condition

# Division by t is bounded here in target, conversion and sampling alike, as in the released models.
MIN_TIME = 0.05


@dataclass(frozen=True)
class Flow(Objective):
    """Rectified flow; the option `predict` says what the network outputs: "v", the velocity, or "x", the clean data."""

    options: FlowOptions

    def loss(
        self,
        net: Network,
        x: Tensor,
        condition: Condition,
        noise: PositionalNoise,
        taps: tuple[str, ...] = (),
        batch: Any = None,
    ) -> tuple[dict[str, Tensor], Pass]:
        tau = logit_normal(noise.normal("time"), self.mean, self.std)
        return self.loss_at(net, x, condition, noise.normal("noise", tuple(x.shape[1:])), tau, taps, batch)

    def loss_at(
        self,
        net: Network,
        x: Tensor,
        condition: Condition,
        eps: Tensor,
        tau: Tensor,
        taps: tuple[str, ...] = (),
        batch: Any = None,
    ) -> tuple[dict[str, Tensor], Pass]:
        """Return the loss for given noise [B, C, h, w] and given times tau [B] before the shift."""
        t = shift_time(tau, self.shift)
        t_ = t[:, None, None, None]
        z = (1 - t_) * x + t_ * eps
        target = (z - x) / t_.clamp(min=MIN_TIME)
        out = net(z, t, condition, taps=taps)
        error = (self._velocity(out.pred, z, t_) - target) ** 2
        x_pred = out.pred if self.options.predict == "x" else z - t_ * out.pred
        made = Pass(x, eps, t, None, z, out.pred, x_pred, out.features, condition, batch)
        return {"flow": error.flatten(1).mean(1)}, made

    def velocity(self, net: Network, z: Tensor, t: float, r: float, condition: Condition) -> Tensor:
        times = z.new_full((z.shape[0],), t)
        return self._velocity(net(z, times, condition).pred, z, times[:, None, None, None])

    def _velocity(self, pred: Tensor, z: Tensor, t: Tensor) -> Tensor:
        return pred if self.options.predict == "v" else (z - pred) / t.clamp(min=MIN_TIME)
