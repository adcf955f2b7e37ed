"""The interface of an objective, and the one forward pass of a training step.

A state is a tensor [B, C, h, w] or any value that adds, subtracts and scales like one, such as a pair of an image and
a vector. `x` is a clean state, `eps` noise, `z` the noisy state; t = 0 is data, t = 1 is noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from nanogen.rng import PositionalNoise

if TYPE_CHECKING:
    from nanogen.model.condition import Condition
    from nanogen.model.dit import Head, Output
    from nanogen.model.shape import Shape

State = Any
Network = Callable[..., "Output"]
"""Called as `net(z, t, condition, r=None, taps=())`, with t and r float32 [B]; see `nanogen.model.dit.DDT`."""


@dataclass(frozen=True)
class Pass:
    """One forward pass of training, as extra losses see it.

    Attributes:
        x, eps, z: clean state, noise and noisy state.
        t, r: times float32 [B] of z; `r` is None where the objective has one time.
        pred: raw output of the network.
        x_pred: estimate of x, with gradient.
        features: the taps that were asked for, by name.
        condition: of the B images, after dropping.
        batch: the images, labels and captions behind x, or None.
    """

    x: State
    eps: State
    t: Tensor
    r: Tensor | None
    z: State
    pred: State
    x_pred: State
    features: Mapping[str, Tensor]
    condition: Condition
    batch: Any = None


@dataclass(frozen=True)
class Objective:
    """Base class of objectives.

    Attributes:
        options: the checked `objective` section of a config.
        mean, std: of the logit of a training time before the shift.
        shift: of training times, towards noise above 1; see `nanogen.times.shift_time`.
    """

    options: Any
    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0

    def loss(
        self,
        net: Network,
        x: State,
        condition: Condition,
        noise: PositionalNoise,
        taps: tuple[str, ...] = (),
        batch: Any = None,
    ) -> tuple[dict[str, Tensor], Pass]:
        """Mix data with noise, call the network once with gradient, compare.

        Args:
            x: clean states of B images.
            noise: source of every random number: the same noise gives the same loss.
            taps: features that the `Pass` shall hold.
            batch: handed on to the `Pass`.

        Returns:
            Terms by name, float32 [B], each image's own mean over its elements; and the forward pass.
        """
        raise NotImplementedError

    def velocity(self, net: Network, z: State, t: float, r: float, condition: Condition) -> State:
        """Return dz/dt at time t, of the type and shape of z; a two-time objective returns its mean over [r, t]."""
        raise NotImplementedError

    def initial(self, noise: Any, shape: tuple[int, ...]) -> State:
        """Return the states at t = 1 for latents of a shape (C, h, w)."""
        return noise.normal("image", shape)

    def latent(self, state: State) -> Tensor:
        """Return the latents [B, C, h, w] that the decoder turns into images."""
        return state

    def heads(self, shape: Shape) -> dict[str, Head]:
        """Return further outputs of a network of this shape, by the name of their tap; see `DDT.heads`."""
        return {}
