"""REG: a class token c of the image from a frozen encoder is diffused along with the latent, at the same time t.

The state is the pair (x, c) with noise of its own for each part; both follow the formulas of `flow`. In sampling the
vector has its own start and is dropped at the end.

Source: Wu et al. 2025 (arXiv 2507.01467).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nanogen.latents import LATENTS
from nanogen.latents.encoders import Encoder
from nanogen.objectives import RegOptions
from nanogen.objectives.flow import Flow
from nanogen.objectives.objective import Network
from nanogen.pair import Pair
from nanogen.rng import PositionalNoise

if TYPE_CHECKING:
    from nanogen.model.condition import Condition


@dataclass(frozen=True)
class Reg(Flow):
    """Rectified flow of latent and class token; the early output, if there is one, predicts the latent alone."""

    options: RegOptions

    @cached_property
    def encoder(self) -> Encoder:
        """The frozen encoder; sampling needs none."""
        return Encoder(LATENTS[self.options.encoder], self.device)

    @property
    def digest(self) -> str:
        return self.encoder.digest

    @property
    def _width(self) -> int:
        return LATENTS[self.options.encoder].channels

    def state(self, x: Tensor, batch: Any) -> Pair:
        return Pair(x, self.encoder.class_token(batch.image.to(x.device, non_blocking=True).float() / 255))

    def draw(self, noise: PositionalNoise, shape: tuple[int, ...]) -> tuple[Pair, Tensor]:
        eps, normal = super().draw(noise, shape)
        return Pair(eps, noise.normal("vector", (self._width,))), normal

    def velocities(self, net: Network, z: Pair, t: float, r: float, condition: Condition) -> tuple[Pair, Pair]:
        v, early = super().velocities(net, z, t, r, condition)
        # Where both are equal internal guidance changes nothing.
        return v, Pair(early, v.vector)

    def initial(self, noise: Any, shape: tuple[int, ...]) -> Pair:
        return Pair(noise.normal("image", shape), noise.normal("vector", (self._width,)))

    def latent(self, state: Pair) -> Tensor:
        return state.image

    def _terms(self, error: Pair) -> dict[str, Tensor]:
        return {"flow": self._distance(error.image), "reg": self.options.weight * self._distance(error.vector)}
