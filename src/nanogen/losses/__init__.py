"""The table of extra losses: terms beside the objective's, read off the forward pass that is made anyway.

To add a loss: one file here with an `ExtraLoss` (see `loss.py`), its options, and one row in `LOSSES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator

from diffusionbench import bounds
from diffusionbench.judges import EFFLITE0
from diffusionbench.registry import Table, nearest
from diffusionbench.schema import Strict
from nanogen.latents import LATENTS

DINOV2: Final = "rae-dinov2-b"
# Of the map of EfficientNet-Lite0 that alignment reads.
EFFLITE0_WIDTH: Final = 320


class LossOptions(Strict):
    """Options that every extra loss has: `weight` multiplies its terms."""

    weight: float = Field(ge=0, le=bounds.FACTOR)

    @property
    def networks(self) -> tuple[str, ...]:
        """Frozen networks that it reads: judges, and latent spaces whose encoder it is.

        A method is flagged on the metrics of the judges among them.
        """
        return ()


class AlignmentOptions(LossOptions):
    """Options of losses that align features of the network with those of a frozen encoder.

    `target` is a latent space with an encoder, or a judge with a map of features; `depth` the number of encoder blocks
    after which the network is read: "auto" is the share of 8 in 28 blocks, at least one.
    """

    target: str = DINOV2
    depth: Annotated[int, Field(ge=1, le=bounds.DEPTH)] | Literal["auto"] = "auto"

    @field_validator("target")
    @classmethod
    def _known(cls, target: str) -> str:
        known = [EFFLITE0.name, *(name for name, row in LATENTS.items() if "encoder" in row.options)]
        if target not in known:
            raise ValueError(f"unknown encoder '{target}'. {nearest(target, known)}")
        return target

    @property
    def networks(self) -> tuple[str, ...]:
        return (self.target,)

    @property
    def width(self) -> int:
        """Of the target's features."""
        return LATENTS[self.target].channels if self.target in LATENTS else EFFLITE0_WIDTH


class SpatialAlignmentOptions(AlignmentOptions):
    """Options of `irepa`: `gamma` is the share of the mean over positions that is taken from the target."""

    gamma: float = Field(default=0.6, ge=0, le=1)


class PerceptualOptions(LossOptions):
    """Options of perceptual losses: images at times of `before` and above, the noisy end, count 0."""

    before: float = Field(default=0.7, ge=0, le=1)


class LPIPSOptions(PerceptualOptions):
    """Options of `lpips`."""

    @property
    def networks(self) -> tuple[str, ...]:
        return ("lpips",)


class DINOOptions(PerceptualOptions):
    """Options of `dino`."""

    @property
    def networks(self) -> tuple[str, ...]:
        return (DINOV2,)


@dataclass(frozen=True, kw_only=True)
class LossSpec:
    """One extra loss, readable without torch.

    Attributes:
        title: one line for users.
        options: model of its part of the `losses` section of a config.
        load: "module:Class" of the `ExtraLoss`.
        parameters: how many it learns, by its options and the encoder width of the network.
        needs: settings of a config without which it is not defined, by dotted key.
        reason: why, in words.
    """

    title: str
    options: type[LossOptions]
    load: str
    parameters: Callable[[Any, int], int] = lambda options, hidden_size: 0
    needs: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""


_PIXELS = {"objective.predict": "x", "latent.name": "pixel"}
_ESTIMATE = "it compares the network's own estimate of the image with the image"
LOSSES: Table[LossSpec] = Table(
    "extra loss",
    {
        "repa": LossSpec(
            title="squared error of a linear map of an early layer to features of a frozen encoder (REPA)",
            options=AlignmentOptions,
            load="nanogen.losses.repa:Repa",
            parameters=lambda options, hidden_size: (hidden_size + 1) * options.width,
        ),
        "irepa": LossSpec(
            title="cosine between a convolution of an early layer and features without their mean (iREPA)",
            options=SpatialAlignmentOptions,
            load="nanogen.losses.repa:IRepa",
            parameters=lambda options, hidden_size: (9 * hidden_size + 1) * options.width,
        ),
        "lpips": LossSpec(
            title="LPIPS of the estimated image",
            options=LPIPSOptions,
            load="nanogen.losses.perceptual:LpipsLoss",
            needs=_PIXELS,
            reason=_ESTIMATE,
        ),
        "dino": LossSpec(
            title="squared error in the patch tokens of DINOv2 of the estimated image (P-DINO)",
            options=DINOOptions,
            load="nanogen.losses.perceptual:DinoLoss",
            needs=_PIXELS,
            reason=_ESTIMATE,
        ),
    },
    group="nanogen.losses",
)


def frozen_networks(losses: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the frozen networks that the `losses` section of a config reads, see `LossOptions.networks`."""
    options = (LOSSES[name].options.model_validate(values) for name, values in losses.items())
    return tuple(dict.fromkeys(network for one in options if one.weight for network in one.networks))
