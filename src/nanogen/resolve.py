"""Latent shape, patch, network and time shifts that follow from a config. Derived, never written; no torch."""

from __future__ import annotations

from dataclasses import dataclass

from diffusionbench import bounds
from diffusionbench.errors import ConfigError
from diffusionbench.metrics import METRICS
from diffusionbench.prompts import PromptChoice
from nanogen.conditions import CONDITIONS
from nanogen.config import Config
from nanogen.latents import LATENTS, LatentSpec
from nanogen.model.shape import Shape
from nanogen.objectives import OBJECTIVES
from nanogen.times import time_shift


@dataclass(frozen=True)
class Derived:
    """Values that a config implies.

    Attributes:
        image_size: pixels a side.
        latent: the latent space.
        shape: the network.
        train_shift, sampler_shift: of the time distribution and of the sampling grid.
    """

    image_size: int
    latent: LatentSpec
    shape: Shape
    train_shift: float
    sampler_shift: float


def pixel_patch(size: int, pixel_grid: int) -> int:
    """Return the smallest patch, of 2 pixels or more, that cuts `size` pixels into at most `pixel_grid` patches."""
    fitting = (patch for patch in range(2, size + 1) if size % patch == 0 and size // patch <= pixel_grid)
    return next(fitting, size)


def resolve(config: Config) -> Derived:
    """Derive latent shape, network and shifts; ConfigError if the parts do not fit each other."""
    latent = LATENTS[config.latent.name]
    size = config.data.image_size
    latent_shape = latent.shape(size)
    _, rows, columns = latent_shape
    patch = latent.patch_size or pixel_patch(rows, config.model.pixel_grid)
    condition = CONDITIONS[config.condition.kind].shape(config.condition.model_dump())
    model, objective = config.model, OBJECTIVES[config.objective["name"]]
    if rows % patch or columns % patch or min(rows, columns) < 2 * patch:
        raise ConfigError(
            f"images of {size} px give a {rows}x{columns} latent in '{config.latent.name}', which cannot be cut into "
            f"at least 2x2 patches of {patch}. Choose another method, data.image_size or model.pixel_grid."
        )
    try:
        shape = Shape(
            latent_shape=latent_shape,
            patch_size=patch,
            num_times=objective.num_times,
            **{"num_classes": None, "text_width": None, **condition},
            **objective.shape(objective.options.model_validate(config.objective)),
            **model.model_dump(exclude={"pixel_grid"}),
        )
    except ValueError as error:
        raise ConfigError(f"model: {error}. Change model.*.") from None
    for what, number, most in (
        ("parameters", shape.num_parameters(), bounds.PARAMETERS),
        ("image tokens", shape.num_image_tokens, bounds.IMAGE_TOKENS),
    ):
        if number > most:
            raise ConfigError(f"model: {number:,} {what}; {most:,} are allowed. Change model.* or data.image_size.")
    if config.train.batch_size % config.train.accumulation:
        raise ConfigError(
            f"train.batch_size {config.train.batch_size} cannot be split into train.accumulation "
            f"{config.train.accumulation} equal micro-batches. Choose a multiple."
        )
    natural = time_shift(shape.latent_shape)
    time, sampler = config.time.shift, config.sampler.shift
    return Derived(
        image_size=size,
        latent=latent,
        shape=shape,
        train_shift=natural if time == "auto" else time,
        sampler_shift=natural if sampler == "auto" else sampler,
    )


def prompt_choice(config: Config) -> PromptChoice | None:
    """Return the prompt set whose images the metrics judge, or None if they need none.

    Raises:
        ConfigError: if they judge images of different sets.
    """
    names = sorted({spec.prompts for spec in map(METRICS.__getitem__, config.eval.metrics) if spec.prompts is not None})
    if len(names) > 1:
        raise ConfigError(
            f"eval.metrics judge images of different prompt sets ({', '.join(names)}). Choose metrics of one set; "
            "`nanogen eval --metrics` scores the others afterwards."
        )
    if not names:
        return None
    return PromptChoice(name=names[0], seed=config.eval.prompt_seed, layout=config.eval.prompt_layout)
