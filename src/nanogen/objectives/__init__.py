"""The table of objectives and what one objective is: a training loss and the velocity that belongs to it.

To add an objective: one file here and one line in `OBJECTIVES`. A class declares its settings as `Options`; files
import no torch at the top, so that a config can be checked without it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from diffusionbench.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from nanogen.model.condition import Condition
    from nanogen.rng import PositionalNoise

OBJECTIVES = Registry("objective", {"flow": "nanogen.objectives.flow:Flow"}, group="nanogen.objectives")

Network = Callable[[Any, Any, Any], Any]


@dataclass(frozen=True)
class Loss:
    """What one forward pass costs, unreduced.

    Attributes:
        terms: name -> float32 [B]; each image's own mean over its elements.
        features: hidden states for extra losses, see `nanogen.model.dit.Output`.
    """

    terms: dict[str, Tensor]
    features: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """The mathematics of one method; constructed with (options, mean, std, shift) of its time distribution."""

    def loss(self, net: Network, x: Tensor, condition: Condition, noise: PositionalNoise) -> Loss:
        """Mix data x float32 [B, C, h, w] with noise, call the network once, compare."""
        ...

    def velocity(self, net: Network, z: Any, t: float, r: float, condition: Condition) -> Any:
        """dz/dt at time t (two-time methods: the mean over [r, t]), of the state's own type and shape."""
        ...
