"""The table of objectives: the mathematics of a method, as a training loss and the velocity that belongs to it.

To add an objective: one file here with an `Objective` (see `objective.py`), its options, and one row in `OBJECTIVES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from diffusionbench.registry import Table
from diffusionbench.schema import Strict


@dataclass(frozen=True, kw_only=True)
class ObjectiveSpec:
    """One objective, readable without torch.

    Attributes:
        title: one line for users.
        options: model of the `objective` section of a config; `name` is one of its fields.
        load: "module:Class" of the `Objective`.
        num_times: of its network: 1 for t, 2 for t and an earlier r.
        non_negative: no term of its loss is ever below 0.
    """

    title: str
    options: type[Strict]
    load: str
    num_times: Literal[1, 2] = 1
    non_negative: bool = True


class FlowOptions(Strict):
    """Options of `flow`: the network predicts the velocity ("v") or the clean data ("x")."""

    name: str
    predict: Literal["v", "x"]


OBJECTIVES: Table[ObjectiveSpec] = Table(
    "objective",
    {
        "flow": ObjectiveSpec(
            title="rectified flow, velocity or data prediction",
            options=FlowOptions,
            load="nanogen.objectives.flow:Flow",
        ),
    },
    group="nanogen.objectives",
)
