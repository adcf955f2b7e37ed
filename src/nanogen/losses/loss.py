"""The interface of an extra loss, and how it joins the objective's terms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from nanogen.losses import LossOptions
from nanogen.model.condition import Condition
from nanogen.objectives.objective import Network, Objective, Pass, State
from nanogen.rng import PositionalNoise

if TYPE_CHECKING:
    from nanogen.build import Components


class ExtraLoss(nn.Module):
    """Base class of extra losses.

    Parameters of its own that require a gradient are trained, averaged and saved with the network's. A frozen network
    that it needs has none that do; `digest` says which network that is.

    Attributes:
        taps: features of the network that it reads, see `nanogen.model.shape.Shape.taps`.
        weight: factor of its terms; the caller applies it.
        digest: SHA-256 over the weights of frozen networks, or "".
    """

    taps: tuple[str, ...] = ()
    digest: str = ""

    def __init__(self, options: LossOptions, components: Components) -> None:
        super().__init__()
        self.weight = options.weight

    def forward(self, p: Pass) -> dict[str, Tensor]:
        """Map a forward pass to terms by name, float32 [B], unweighted."""
        raise NotImplementedError


def weighted_terms(
    objective: Objective,
    losses: Mapping[str, ExtraLoss],
    net: Network,
    x: State,
    condition: Condition,
    noise: PositionalNoise,
    batch: Any = None,
) -> dict[str, Tensor]:
    """Return the terms of an objective and of extra losses over one forward pass, float32 [B], each with its weight.

    What the objective logs beside its terms is among them, without gradient.

    Raises:
        ValueError: if two of them give a term the same name.
    """
    taps = tuple(dict.fromkeys(tap for loss in losses.values() for tap in loss.taps))
    terms, made = objective.loss(net, x, condition, noise, taps, batch)
    for name, loss in losses.items():
        for key, term in loss(made).items():
            if key in terms:
                raise ValueError(f"extra loss '{name}' names a term '{key}', and there is one already")
            terms[key] = loss.weight * term
    return {**terms, **made.logged}
