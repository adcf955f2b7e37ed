"""The settings of a config, section by section, as frozen models; and durations, which carry a unit.

Every default stands in `configs/base.yaml`, with unit and meaning.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field

from diffusionbench import bounds
from diffusionbench.errors import ConfigError, DataError
from diffusionbench.schema import Strict, digest

NEVER = "never"
_DURATION = re.compile(r"(?P<number>\d+(\.\d+)?)\s*((?P<factor>[kM]?)\s*(?P<unit>step|epoch|image)s?|%)")
_FACTORS = {"": 1, "k": 1_000, "M": 1_000_000}
_DIGITS = 32


def _duration(percent: bool = False, never: bool = False) -> BeforeValidator:
    """Return the check of a duration written as text."""
    also = ", or a share of the training such as '50 %'" if percent else f", or '{NEVER}'" if never else ""

    def check(text: Any) -> str:
        if never and text == NEVER:
            return NEVER
        form = _DURATION.fullmatch(text.strip()) if isinstance(text, str) else None
        if form is None or (form["unit"] is None and not percent):
            raise ValueError(
                f"a duration is a number with a unit, such as '600 steps', '80 epochs', '50M images'{also}"
            )
        # The length first: an integer of thousands of digits is refused by Python itself.
        if len(form["number"]) > _DIGITS or Fraction(form["number"]) * _FACTORS[form["factor"] or ""] > bounds.DURATION:
            raise ValueError(f"a duration is at most {bounds.DURATION:.0e} steps, epochs, images or percent")
        return form[0]

    return BeforeValidator(check)


Duration = Annotated[str, _duration()]
# A moment of the training: a duration from its start, or a share of the whole.
Point = Annotated[str, _duration(percent=True)]
# How often something happens, which may be never.
Period = Annotated[str, _duration(never=True)]


def steps_per_epoch(size: int, batch_size: int) -> int:
    """Return the number of whole batches in one pass; the incomplete last one is dropped.

    Raises:
        DataError: if there are fewer images than one batch.
    """
    if size < batch_size:
        raise DataError(
            f"the data set has {size} images, fewer than one batch of {batch_size}. Lower the batch size or add images."
        )
    return size // batch_size


NO_STEP: Final = "train.duration is '{}', which is no step at all. Give it more."


def to_steps(duration: str, batch_size: int, num_images: int, whole: int | None = None) -> int | None:
    """Return the optimizer steps of a duration, rounded down; None for 'never'.

    Args:
        duration: text such as "600 steps", "80 epochs", "50M images", "50 %".
        batch_size: images per step.
        num_images: images per epoch; the incomplete last batch of an epoch is dropped.
        whole: steps of the training, for a share of it.
    """
    if duration == NEVER:
        return None
    form = _DURATION.fullmatch(duration)
    if form is None or (form["unit"] is None and whole is None):
        raise ConfigError(f"duration '{duration}': expected a number and steps, epochs or images.")
    # Exact: as a float, 2.01k would be 2009.
    number = Fraction(form["number"]) * _FACTORS[form["factor"] or ""]
    if form["unit"] == "image":
        number /= batch_size
    elif form["unit"] == "epoch":
        number *= num_images // batch_size
    elif whole is not None and form["unit"] is None:
        number *= Fraction(whole, 100)
    return int(number)


def due(step: int, every: int | None) -> bool:
    """Return whether something with this period happens after `step` updates."""
    return every is not None and step > 0 and step % max(every, 1) == 0


Auto = Literal["auto"]
Share = Annotated[float, Field(ge=0, lt=1)]
Shift = Annotated[float, Field(gt=0, le=bounds.FACTOR)]
Seed = Annotated[int, Field(ge=0, le=bounds.SEED)]
Images = Annotated[int, Field(ge=1, le=bounds.IMAGES)]
Depth = Annotated[int, Field(ge=1, le=bounds.DEPTH)]
Width = Annotated[int, Field(ge=1, le=bounds.WIDTH)]
Heads = Annotated[int, Field(ge=1, le=bounds.HEADS)]
Tokens = Annotated[int, Field(ge=1, le=bounds.TOKENS)]
Batch = Annotated[int, Field(ge=1, le=bounds.BATCH)]
GuidanceScale = Annotated[float, Field(ge=1, le=bounds.GUIDANCE)]
Time01 = Annotated[float, Field(ge=0, le=1)]


def _ordered(interval: tuple[float, float]) -> tuple[float, float]:
    if interval[0] > interval[1]:
        raise ValueError("must be two times 0 <= low <= high <= 1")
    return interval


Interval = Annotated[tuple[Time01, Time01], AfterValidator(_ordered)]


def _kept(images: str) -> str:
    if not re.fullmatch(r"none|first [1-9]\d{0,8}|all", images):
        raise ValueError("must be none, all, or a number such as 'first 24'")
    return images


class Section(Strict):
    """One part of a config; infinity only where it means "off"."""

    model_config = ConfigDict(allow_inf_nan=False)


class LatentConfig(Section):
    name: str
    weights: str | None
    cache: str | None
    cache_mb: int = Field(ge=0, le=bounds.MEMORY)


class ModelConfig(Section):
    encoder_depth: Depth
    encoder_hidden_size: Width
    encoder_num_heads: Heads
    decoder_depth: Annotated[int, Field(ge=0, le=bounds.DEPTH)]
    decoder_hidden_size: Width
    decoder_num_heads: Heads
    num_time_tokens: Tokens
    num_class_tokens: Tokens
    pixel_grid: int = Field(ge=2, le=bounds.SIDE)


class ConditionConfig(Section):
    kind: str
    num_classes: Annotated[int, Field(ge=1, le=bounds.CLASSES)] | Auto
    encoder: str | None
    max_tokens: Tokens
    cache: str | None
    drop_prob: float = Field(ge=0, le=1)


class DataConfig(Section):
    name: str
    path: str | tuple[str, ...] | None
    weights: tuple[Annotated[float, Field(gt=0, le=bounds.DURATION)], ...] | None
    template: str | None
    cache: str | None
    corrupt: Literal["stop", "skip"]
    image_size: int = Field(ge=1, le=bounds.SIDE)
    workers: int = Field(ge=0, le=bounds.WORKERS)


class TimeConfig(Section):
    mu: float = Field(ge=-bounds.FACTOR, le=bounds.FACTOR)
    sigma: float = Field(gt=0, le=bounds.FACTOR)
    shift: Shift | Auto


class OptimConfig(Section):
    name: str
    lr: float = Field(gt=0, le=bounds.LARGEST)
    betas: tuple[Share, Share]
    eps: float = Field(gt=0, le=1)
    weight_decay: float = Field(ge=0, le=bounds.FACTOR)
    warmup: Point
    decay_start: Point
    decay_end: Point
    final_factor: float = Field(ge=0, le=1)


class TrainConfig(Section):
    duration: Duration
    batch_size: Batch
    accumulation: Batch
    grad_clip: float = Field(gt=0, allow_inf_nan=True)
    ema_decay: float = Field(ge=0, lt=1)
    ema_ramp: bool
    precision: Literal["auto", "bfloat16", "float32"]
    compile: bool
    tf32: bool
    shard: Literal["none", "full", "hybrid"]
    checkpointing: Literal["none", "block"]
    nonfinite: Literal["stop", "skip"]
    checkpoint_every: Period
    keep: int = Field(ge=1, le=bounds.REPEATS)
    keep_every: Period


class SamplerConfig(Section):
    name: str
    num_steps: int = Field(ge=1, le=bounds.SOLVER_STEPS)
    shift: Shift | Auto


class InternalGuidanceConfig(Section):
    scale: GuidanceScale
    interval: Interval
    null_scale: GuidanceScale | None

    @property
    def scales(self) -> tuple[float, float]:
        """Of the branch with the condition and of that without."""
        return self.scale, self.scale if self.null_scale is None else self.null_scale


class GuidanceConfig(Section):
    scale: GuidanceScale
    interval: Interval
    internal: InternalGuidanceConfig


class SampleConfig(Section):
    every: Period
    num: Images


class EvalConfig(Section):
    axis: str
    every: Period
    metrics: tuple[str, ...]
    reference: str | tuple[str, ...] | None
    reference_extractors: tuple[str, ...]
    num_samples: Images | Auto
    keep_images: Annotated[str, AfterValidator(_kept)]
    prompt_seed: str
    prompt_layout: str | None
    batch_size: Batch
    seed: Seed
    tuned_scale: GuidanceScale

    @property
    def references(self) -> tuple[str, ...]:
        """What `reference` names, one REF for all judges, or JUDGE=REF for one."""
        if self.reference is None:
            return ()
        return (self.reference,) if isinstance(self.reference, str) else self.reference

    @property
    def num_kept(self) -> int | None:
        """How many images of an evaluation stay; None for all."""
        word, _, number = self.keep_images.partition(" ")
        return {"all": None, "none": 0}[word] if word != "first" else int(number)


class LogConfig(Section):
    every: Period
    sinks: tuple[Literal["tensorboard", "trackio", "wandb"], ...]


class Config(Section):
    """A complete, checked config. `objective` and `losses` hold the settings that the rows of their tables declare."""

    seed: Seed
    noise: Literal["blake2b-1"]
    latent: LatentConfig
    model: ModelConfig
    condition: ConditionConfig
    data: DataConfig
    objective: dict[str, Any]
    time: TimeConfig
    losses: dict[str, dict[str, Any]]
    optim: OptimConfig
    train: TrainConfig
    sampler: SamplerConfig
    guidance: GuidanceConfig
    sample: SampleConfig
    eval: EvalConfig
    log: LogConfig

    @property
    def hash(self) -> str:
        """SHA-256 over every value that acts on a result; one added later counts once it is set: older hashes stay."""
        later = {name for name in ("weights", "cache") if getattr(self.latent, name) is None}
        guidance = {"internal"} if self.guidance.internal.scales == (1, 1) else set()
        unset = {"tf32": False, "shard": "none", "checkpointing": "none", "keep_every": NEVER}
        train = {name for name, value in unset.items() if getattr(self.train, name) == value}
        data = {"cache"} if self.data.cache is None else set()
        exclude = {"latent": later, "guidance": guidance, "train": train, "data": data, "eval": {"keep_images"}}
        return digest(self.model_dump(mode="json", exclude=exclude))
