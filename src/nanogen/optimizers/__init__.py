"""The table of optimizers: which parameter is updated by which rule.

To add an optimizer: one file here with a function like `adamw.adamw`, and one row in `OPTIMIZERS`.
"""

from __future__ import annotations

from dataclasses import dataclass

from diffusionbench.registry import Table


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
    """One optimizer, readable without torch.

    Attributes:
        title: one line for users.
        load: "module:function". The function maps trainable parameters by name and the `optim` section of a config to
            torch optimizers that hold each parameter once. The rate of a parameter group is set at every step, to the
            scheduled rate times the group's "lr_scale" (1 if absent). Each optimizer leaves weights and state as they
            are where its `found_inf` is 1, as torch's fused ones do, and says so by `_step_supports_amp_scaling`.
        moments: values that it keeps for each parameter, about.
        whole_matrices: an update of a matrix needs all of it, so weights cannot be sharded.
    """

    title: str
    load: str
    moments: int = 2
    whole_matrices: bool = False


OPTIMIZERS: Table[OptimizerSpec] = Table(
    "optimizer",
    {
        "adamw": OptimizerSpec(title="AdamW over all parameters", load="nanogen.optimizers.adamw:adamw"),
        "muon": OptimizerSpec(
            title="Muon for parameters of two axes, AdamW for the others",
            load="nanogen.optimizers.muon:muon",
            moments=1,
            whole_matrices=True,
        ),
        "gram-muon": OptimizerSpec(
            title="the same with Polar Express coefficients, in the Gram form",
            load="nanogen.optimizers.muon:gram_muon",
            moments=1,
            whole_matrices=True,
        ),
    },
    group="nanogen.optimizers",
)
