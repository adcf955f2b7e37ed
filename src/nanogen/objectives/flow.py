"""Rectified flow with velocity or data prediction: z = (1 - t) x + t eps, v = eps - x.

Source: Liu et al. 2022 (arXiv 2209.03003), Esser et al. 2024 (arXiv 2403.03206); data prediction with a velocity
loss: Li and He 2025 (arXiv 2511.13720).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nanogen.objectives import FlowOptions
from nanogen.objectives.objective import Network, Objective, Pass, State
from nanogen.rng import PositionalNoise
from nanogen.times import logit_normal, shift_time

if TYPE_CHECKING:
    from nanogen.model.condition import Condition
    from nanogen.model.dit import Output

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
        eps, normal = self.draw(noise, tuple(x.shape[1:]))
        tau = logit_normal(normal, self.mean, self.std)
        return self.loss_at(net, self.state(x, batch), condition, eps, tau, taps, batch)

    def loss_at(
        self,
        net: Network,
        x: State,
        condition: Condition,
        eps: State,
        tau: Tensor,
        taps: tuple[str, ...] = (),
        batch: Any = None,
    ) -> tuple[dict[str, Tensor], Pass]:
        """Return the loss for given noise like x, and given times tau [B] before the shift."""
        t = shift_time(tau, self.shift)
        t_ = t[:, None, None, None]
        z = (1 - t_) * x + t_ * eps
        target = (z - x) / t_.clamp(min=MIN_TIME)
        out = net(z, t, condition, taps=self._taps(taps))
        terms = self._terms(self._velocity(out.pred, z, t_) - target) | self._early(out, z, t_, target)
        x_pred = out.pred if self.options.predict == "x" else z - t_ * out.pred
        x, eps, z, pred, x_pred = map(self.latent, (x, eps, z, out.pred, x_pred))
        return terms, Pass(x, eps, t, None, z, pred, x_pred, out.features, condition, batch)

    def velocity(self, net: Network, z: State, t: float, r: float, condition: Condition) -> State:
        times = self._times(z, t)
        return self._velocity(net(z, times, condition).pred, z, times[:, None, None, None])

    def velocities(self, net: Network, z: State, t: float, r: float, condition: Condition) -> tuple[State, State]:
        times = self._times(z, t)
        t_ = times[:, None, None, None]
        out = net(z, times, condition, taps=("early",))
        return self._velocity(out.pred, z, t_), self._velocity(out.features["early"], self.latent(z), t_)

    def _velocity(self, pred: State, z: State, t_: Tensor) -> State:
        return pred if self.options.predict == "v" else (z - pred) / t_.clamp(min=MIN_TIME)

    def _times(self, z: State, t: float) -> Tensor:
        latent = self.latent(z)
        return latent.new_full((len(latent),), t)

    def _taps(self, taps: tuple[str, ...]) -> tuple[str, ...]:
        return taps if self.options.early_depth is None else (*taps, "early")

    def _terms(self, error: State) -> dict[str, Tensor]:
        """Return the terms [B] of the error of a velocity."""
        return {"flow": self._distance(error)}

    def _early(self, out: Output, z: State, t_: Tensor, target: State) -> dict[str, Tensor]:
        """Return the term of the early output, if there is one; it predicts the latent alone."""
        if self.options.early_depth is None:
            return {}
        early = self._velocity(out.features["early"], self.latent(z), t_)
        return {"early": self.options.early_weight * self._distance(early - self.latent(target))}

    def _distance(self, error: Tensor) -> Tensor:
        return (error**2).flatten(1).mean(1)
