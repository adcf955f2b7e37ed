"""The interface of an objective, and the one forward pass of a training step.

A state is a tensor [B, C, h, w] or any value that adds, subtracts and scales like one, such as a pair of an image and
a vector. `x` is a clean state, `eps` noise, `z` the noisy state; t = 0 is data, t = 1 is noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
        x, eps, z: clean latent, noise and noisy latent [B, C, h, w].
        t, r: times float32 [B] of z; `r` is None where the objective has one time.
        pred: raw output of the network, of the same shape.
        x_pred: estimate of x, with gradient.
        features: the taps that were asked for, by name.
        condition: of the B images, after dropping.
        batch: the images, labels and captions behind x, or None.
        logged: values float32 [B] by name, without gradient, that the log tells beside the terms of the loss.
    """

    x: Tensor
    eps: Tensor
    t: Tensor
    r: Tensor | None
    z: Tensor
    pred: Tensor
    x_pred: Tensor
    features: Mapping[str, Tensor]
    condition: Condition
    batch: Any = None
    logged: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Objective:
    """Base class of objectives.

    Attributes:
        options: the checked `objective` section of a config.
        mean, std: of the logit of a training time before the shift.
        shift: of training times, towards noise above 1; see `nanogen.times.shift_time`.
        device: of frozen networks that training needs, which are opened by the first call that reads them.
    """

    options: Any
    mean: float = 0.0
    std: float = 1.0
    shift: float = 1.0
    device: str = "cpu"

    @property
    def digest(self) -> str:
        """SHA-256 over the weights of frozen networks, or ""."""
        return ""

    def loss(
        self,
        net: Network,
        x: Tensor,
        condition: Condition,
        noise: PositionalNoise,
        taps: tuple[str, ...] = (),
        batch: Any = None,
    ) -> tuple[dict[str, Tensor], Pass]:
        """Mix data with noise, call the network once with gradient, compare.

        Args:
            x: latents [B, C, h, w] of B images; the objective itself adds what more its states hold.
            noise: source of every random number: the same noise gives the same loss.
            taps: features that the `Pass` shall hold.
            batch: the images, labels and captions behind x, handed on to the `Pass`.

        Returns:
            Terms by name, float32 [B], each image's own mean over its elements; and the forward pass.
        """
        raise NotImplementedError

    def draw(self, noise: PositionalNoise, shape: tuple[int, ...]) -> tuple[State, Tensor]:
        """Return the noise and the normal numbers behind the times of a step, for latents (B, *shape).

        `loss` takes them from here; a loader process calls it ahead, so it reads nothing but noise and options.
        """
        return noise.normal("noise", shape), noise.normal("time")

    def state(self, x: Tensor, batch: Any) -> State:
        """Return the clean states of latents [B, C, h, w] and the batch behind them."""
        return x

    def velocity(self, net: Network, z: State, t: float, r: float, condition: Condition) -> State:
        """Return dz/dt at time t, of the type and shape of z; a two-time objective returns its mean over [r, t]."""
        raise NotImplementedError

    def velocities(self, net: Network, z: State, t: float, r: float, condition: Condition) -> tuple[State, State]:
        """Return `velocity` and that of the network's early output, from one forward pass."""
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
