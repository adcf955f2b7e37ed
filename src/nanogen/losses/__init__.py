"""The table of extra losses and what one is: terms read off the features of the forward pass that is made anyway.

To add a loss: one file here and one line in `LOSSES`. A class declares its settings as `Options` (with `weight`; 0 is
off) and is constructed with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from diffusionbench.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from nanogen.data import Batch

LOSSES = Registry("extra loss", {}, group="nanogen.losses")


class ExtraLoss(Protocol):
    """Terms beside the objective's; the weight is applied by the loop."""

    def __call__(self, features: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """Map the network's features to name -> float32 [B], unweighted."""
        ...
