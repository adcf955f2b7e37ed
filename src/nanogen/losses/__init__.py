"""The table of extra losses: terms beside the objective's, read off the forward pass that is made anyway.

To add a loss: one file here with an `ExtraLoss` (see `loss.py`), its options, and one row in `LOSSES`.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import Field

from diffusionbench import bounds
from diffusionbench.registry import Table
from diffusionbench.schema import Strict


class LossOptions(Strict):
    """Options that every extra loss has: `weight` multiplies its terms."""

    weight: float = Field(ge=0, le=bounds.FACTOR)


@dataclass(frozen=True, kw_only=True)
class LossSpec:
    """One extra loss, readable without torch.

    Attributes:
        title: one line for users.
        options: model of its part of the `losses` section of a config.
        load: "module:Class" of the `ExtraLoss`.
        judges: names in `diffusionbench ls judges` whose networks it trains with; their metrics flag such methods.
    """

    title: str
    options: type[LossOptions]
    load: str
    judges: tuple[str, ...] = ()


LOSSES: Table[LossSpec] = Table("extra loss", {}, group="nanogen.losses")
