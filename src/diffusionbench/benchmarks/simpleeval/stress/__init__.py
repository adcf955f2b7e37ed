"""Attacks on SimpleEval and on two small learned metrics (`diffusionbench stress`), and the table of their targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from diffusionbench.registry import Table


@dataclass(frozen=True)
class TargetSpec:
    """One metric that can be attacked.

    Attributes:
        load: "module:Class" of its `targets.Target`.
    """

    load: str


_CODE: Final = "diffusionbench.benchmarks.simpleeval.stress.targets"
TARGETS: Final = Table(
    "metric of the stress harness",
    {
        "simpleeval_shapes_v1": TargetSpec(f"{_CODE}:SimpleEvalTarget"),
        "toy_clipscore": TargetSpec(f"{_CODE}:ToyClipTarget"),
        "toy_vqascore": TargetSpec(f"{_CODE}:ToyVqaTarget"),
    },
    group="diffusionbench.stress",
)
