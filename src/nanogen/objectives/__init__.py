"""The table of objectives: the mathematics of a method, as a training loss and the velocity that belongs to it.

To add an objective: one file here with an `Objective` (see `objective.py`), its options, and one row in `OBJECTIVES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from diffusionbench import bounds
from diffusionbench.registry import Table, nearest
from diffusionbench.schema import Strict
from nanogen.latents import LATENTS
from nanogen.settings import Interval, Time01

Factor = Annotated[float, Field(ge=0, le=bounds.FACTOR)]
Positive = Annotated[float, Field(gt=0, le=bounds.FACTOR)]


class FlowOptions(Strict):
    """Options of `flow`, which the others have too.

    `predict`: the network predicts the velocity ("v") or the clean data ("x"). `early_depth`: encoder blocks before an
    early output of its own loss, times `early_weight`, from which internal guidance extrapolates; None is none.
    """

    name: str
    predict: Literal["v", "x"]
    early_depth: int | None = Field(None, ge=1, le=bounds.DEPTH)
    early_weight: Positive = 1.0

    def shape(self) -> dict[str, Any]:
        """Return what the options ask of a network, as fields of `nanogen.model.shape.Shape`."""
        return {"early_depth": self.early_depth}


class RegOptions(FlowOptions):
    """Options of `reg`: `weight` of the vector's loss; `encoder`, a latent space whose encoder has a class token."""

    weight: Factor = 0.03
    encoder: str = "rae-dinov2-b"

    @field_validator("encoder")
    @classmethod
    def _has_class_token(cls, encoder: str) -> str:
        without = (None, "SiglipVisionModel", "ConvNextV2Model")
        known = [name for name, row in LATENTS.items() if row.options.get("encoder") not in without]
        if encoder not in known:
            raise ValueError(f"no latent space '{encoder}' whose encoder has a class token. {nearest(encoder, known)}")
        return encoder

    def networks(self) -> tuple[str, ...]:
        """Return the frozen networks that training reads."""
        return (self.encoder,)

    def shape(self) -> dict[str, Any]:
        return {**super().shape(), "vector_width": LATENTS[self.encoder].channels}


class MeanFlowOptions(FlowOptions):
    """Options of `meanflow`.

    `fm_ratio`: share of the steps at a single time, without a derivative. `kappa`, `omega`, `interval`: guidance that
    is trained in, on a closed interval of times. `power`, `eps`: each image's loss l is divided by (l + eps)^power.
    """

    fm_ratio: Time01 = 0.75
    kappa: float = Field(0.0, ge=0, lt=1)
    omega: Positive = 1.0
    interval: Interval = (0.0, 1.0)
    power: Factor = 1.0
    eps: Positive = 0.01

    def guided(self) -> bool:
        """Return whether guidance is trained in."""
        return self.kappa != 0 or self.omega != 1

    def passes(self) -> float:
        """Return the forward passes that a training step costs, the mean over both kinds of step."""
        guided = self.guided()
        # Forward mode is a second pass; guidance looks at the null branch, and at the other where it is not there yet.
        derived = 4 + guided * (1 + (self.kappa != 0))
        return self.fm_ratio * (3 + guided) + (1 - self.fm_ratio) * derived


@dataclass(frozen=True, kw_only=True)
class ObjectiveSpec:
    """One objective, readable without torch.

    Attributes:
        title: one line for users.
        options: model of the `objective` section of a config; `name` is one of its fields.
        load: "module:Class" of the `Objective`.
        num_times: of its network: 1 for t, 2 for t and an earlier r.
        non_negative: no term of its loss is ever below 0.
        needs_images: its loss looks at the images behind the latents.
        forward_mode: some of its steps differentiate the network in forward mode, which sharded weights cannot.
        shape: what the options ask of a network, as fields of `nanogen.model.shape.Shape`.
        networks: latent spaces whose frozen encoders training reads, by its options.
        passes: forward passes that a training step costs, by its options; a backward pass counts as two.
        guided: whether guidance is trained in, by its options, so that training looks at the null condition.
        max_steps: solver steps that it is meant for; None: any number.
        unguided: why guidance in sampling is not defined; "" where it is.
        excludes: objectives that cannot take its place in a method, each with the reason.
    """

    title: str
    options: type[Strict]
    load: str
    num_times: Literal[1, 2] = 1
    non_negative: bool = True
    needs_images: bool = False
    forward_mode: bool = False
    shape: Callable[[Any], Mapping[str, Any]] = lambda options: {}
    networks: Callable[[Any], tuple[str, ...]] = lambda options: ()
    passes: Callable[[Any], float] = lambda options: 3.0
    guided: Callable[[Any], bool] = lambda options: False
    max_steps: int | None = None
    unguided: str = ""
    excludes: Mapping[str, str] = field(default_factory=dict)


_NO_REG = "a class vector is diffused along one time, and a mean flow has two"
OBJECTIVES: Table[ObjectiveSpec] = Table(
    "objective",
    {
        "flow": ObjectiveSpec(
            title="rectified flow, velocity or data prediction",
            options=FlowOptions,
            load="nanogen.objectives.flow:Flow",
            shape=FlowOptions.shape,
        ),
        "reg": ObjectiveSpec(
            title="rectified flow of the latent together with a class token of a frozen encoder (REG)",
            options=RegOptions,
            load="nanogen.objectives.reg:Reg",
            shape=RegOptions.shape,
            networks=RegOptions.networks,
            needs_images=True,
            excludes={"meanflow": _NO_REG},
        ),
        "meanflow": ObjectiveSpec(
            title="mean velocity between two times, sampled in 1 or 2 steps (MeanFlow)",
            options=MeanFlowOptions,
            load="nanogen.objectives.meanflow:MeanFlow",
            shape=MeanFlowOptions.shape,
            passes=MeanFlowOptions.passes,
            guided=MeanFlowOptions.guided,
            num_times=2,
            forward_mode=True,
            max_steps=2,
            unguided="its guidance is trained in (objective.kappa, objective.omega)",
            excludes={"reg": _NO_REG},
        ),
    },
    group="nanogen.objectives",
)
