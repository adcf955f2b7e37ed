"""MeanFlow: the network predicts the mean velocity u(z, r, t) over [r, t], so that one step leads from noise to data.

It learns from (t - r) u = int_r^t v ds, differentiated by t: u = v - (t - r) du/dt along the path, dz/dt = v. Guidance
is trained in: v is replaced by g = omega v + (1 - omega - kappa) v_null + kappa v_cond, where v_null and v_cond are
the network's own u at r = t.

Source: Geng et al. 2025 (arXiv 2505.13447).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from nanogen.objectives import MeanFlowOptions
from nanogen.objectives.flow import MIN_TIME, Flow
from nanogen.objectives.forward_mode import ForwardRules
from nanogen.objectives.objective import Network, Pass
from nanogen.rng import PositionalNoise
from nanogen.times import shift_time

if TYPE_CHECKING:
    from nanogen.model.condition import Condition
    from nanogen.model.dit import Output


@dataclass(frozen=True)
class MeanFlow(Flow):
    """Mean velocity between two times; a share `fm_ratio` of the steps is at r = t, where it is the velocity."""

    options: MeanFlowOptions

    def draw(self, noise: PositionalNoise, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        # A step is of one kind in every process and micro-batch.
        times = () if noise.shared("kind") < self.options.fm_ratio else (2,)
        return noise.normal("noise", shape), noise.normal("time", times)

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
        """Return the loss for given noise and times before the shift: tau [B] with r = t, or [B, 2] for r < t."""
        low, high = torch.aminmax(tau.view(len(tau), -1), dim=1)
        t, r = shift_time(high, self.shift), shift_time(low, self.shift)
        t_ = t[:, None, None, None]
        z = (1 - t_) * x + t_ * eps
        v = (z - x) / t_.clamp(min=MIN_TIME)
        logged = {}
        if tau.ndim == 1:
            out = net(z, t, condition, r=t, taps=self._taps(taps))
            u = self._velocity(out.pred, z, t_)
            g = self._guided(net, z, t, v, condition, u.detach())
            error = u - g
        else:
            g = self._guided(net, z, t, v, condition)
            out, u, dudt = self._derivative(net, (z, t, r), g, condition, self._taps(taps))
            error = u + (t - r)[:, None, None, None] * dudt - g
            logged["dudt_norm"] = dudt.flatten(1).norm(dim=1)
        logged["meanflow_raw"] = error.detach().square().flatten(1).sum(1)
        terms = {"meanflow": self._distance(error), **self._early(out, z, t_, v)}
        made = Pass(x, eps, t, r, z, out.pred, z - t_ * u, out.features, condition, batch, logged)
        return terms, made

    def velocity(self, net: Network, z: Tensor, t: float, r: float, condition: Condition) -> Tensor:
        times = self._times(z, t)
        out = net(z, times, condition, r=self._times(z, r))
        return self._velocity(out.pred, z, times[:, None, None, None])

    def _guided(
        self, net: Network, z: Tensor, t: Tensor, v: Tensor, condition: Condition, v_cond: Tensor | None = None
    ) -> Tensor:
        """Return the target g; v* outside the interval and for images whose condition was dropped."""
        kappa, omega, (low, high) = self.options.kappa, self.options.omega, self.options.interval
        if not self.options.guided():
            return v
        t_ = t[:, None, None, None]
        with torch.no_grad():
            v_null = self._velocity(net(z, t, condition.null(), r=t).pred, z, t_)
            if v_cond is None:
                v_cond = self._velocity(net(z, t, condition, r=t).pred, z, t_) if kappa else v_null
        # Autocast keeps its copies of the weights, and older torch would train with those that have no gradient.
        torch.clear_autocast_cache()
        g = omega * v + (1 - omega - kappa) * v_null + kappa * v_cond
        guided = (low <= t) & (t <= high) & ~condition.is_null()
        return torch.where(guided[:, None, None, None], g, v)

    def _derivative(
        self,
        net: Network,
        at: tuple[Tensor, Tensor, Tensor],
        g: Tensor,
        condition: Condition,
        taps: tuple[str, ...],
    ) -> tuple[Output, Tensor, Tensor]:
        """Return the network's output at (z, t, r), u, and without gradient du/dt along (g, 1, 0), in forward mode."""
        z, t, r = at
        with torch.compiler.set_stance("force_eager"), forward_ad.dual_level(), ForwardRules():
            z, t = forward_ad.make_dual(z, g), forward_ad.make_dual(t, torch.ones_like(t))
            out = net(z, t, condition, r=r, taps=taps)
            u, dudt = forward_ad.unpack_dual(self._velocity(out.pred, z, t[:, None, None, None]))
            features = {name: forward_ad.unpack_dual(feature).primal for name, feature in out.features.items()}
            out = replace(out, pred=forward_ad.unpack_dual(out.pred).primal, features=features)
            return out, u, dudt.detach()

    def _distance(self, error: Tensor) -> Tensor:
        """Return l / (sg(l) + eps)^power of the squared norm l."""
        l = error.square().flatten(1).sum(1)  # noqa: E741
        return l / (l.detach() + self.options.eps) ** self.options.power
