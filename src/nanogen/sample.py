"""From conditions to 8-bit images: noise, sampler, guidance, decoder. Image i depends on (seed, i) only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from diffusionbench import bounds
from diffusionbench.errors import CheckpointError, RequestError
from diffusionbench.images import to_uint8
from diffusionbench.limits import parse_json
from diffusionbench.shown import clipped
from nanogen import checkpoint
from nanogen.conditions import CONDITIONS, Ask, Conditioner
from nanogen.config import Config, reload
from nanogen.guidance import classifier_free
from nanogen.latents import Latent
from nanogen.model.condition import Condition
from nanogen.model.dit import DDT
from nanogen.objectives import OBJECTIVES, Objective
from nanogen.precision import Precision, autocast
from nanogen.resolve import Derived, resolve
from nanogen.rng import PositionalNoise, SeededNoise
from nanogen.run import check_same
from nanogen.samplers import SAMPLERS, time_grid


@dataclass(frozen=True)
class Parts:
    """What a config says beside the weights: built once for training, and once for sampling.

    Attributes:
        derived: latent shape, network numbers, shifts.
        objective, latent, conditioner: the named plugins, constructed.
        device, precision: where and in which number type the network runs.
    """

    derived: Derived
    objective: Objective
    latent: Latent
    conditioner: Conditioner
    device: str
    precision: Precision


def build_parts(config: Config, device: str, precision: Precision) -> Parts:
    """Construct everything but the network.

    Raises:
        ConfigError: if the parts do not fit each other.
        RequestError: if the latent space cannot run.
    """
    derived = resolve(config)
    if derived.latent.create is None:
        raise RequestError(f"latent space '{config.latent.name}' cannot run: {derived.latent.unavailable}.")
    return assemble(config, derived, derived.latent.create(device), device, precision)


def assemble(
    config: Config,
    derived: Derived,
    latent: Latent,
    device: str,
    precision: Precision,
    conditioner: Conditioner | None = None,
) -> Parts:
    """Return the parts around a given latent space, and a conditioner where the config's own is not wanted."""
    objective = OBJECTIVES.load(config.objective["name"])
    options = objective.Options.model_validate(config.objective)
    return Parts(
        derived=derived,
        objective=objective(options, config.time.mu, config.time.sigma, derived.train_shift),
        latent=latent,
        conditioner=conditioner or CONDITIONS.load(config.condition.kind).create(config.condition.model_dump(), device),
        device=device,
        precision=precision,
    )


@dataclass(frozen=True)
class Generator:
    """A network ready to make images.

    Attributes:
        net: trained network in evaluation mode.
        sampler, num_steps, shift: solver of the flow and its grid of times.
        scale, interval: classifier-free guidance.
    """

    net: nn.Module
    parts: Parts
    sampler: str
    num_steps: int
    shift: float
    scale: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, net: nn.Module, parts: Parts, config: Config) -> Generator:
        """With the sampler and guidance of a config, which may be others than those of the parts."""
        sampler, guidance = config.sampler, config.guidance
        shift = resolve(config).sampler_shift
        return cls(net, parts, sampler.name, sampler.num_steps, shift, guidance.scale, guidance.interval)

    @torch.no_grad()
    def __call__(self, condition: Condition, noise: PositionalNoise | SeededNoise) -> np.ndarray:
        """Make one batch.

        Args:
            condition: for B images.
            noise: of the B samples, each from a stream of its own.

        Returns:
            uint8 [B, H, W, 3]; decoder output clamped to [0, 1], times 255, truncated.
        """
        parts, objective = self.parts, self.parts.objective
        times = time_grid(self.num_steps, self.shift)
        null = condition.null()
        velocity = classifier_free(
            lambda z, t, r: objective.velocity(self.net, z, t, r, condition),
            lambda z, t, r: objective.velocity(self.net, z, t, r, null),
            self.scale,
            self.interval,
        )
        with autocast(parts.precision, parts.device):
            z = SAMPLERS[self.sampler](velocity, noise.normal("image", parts.derived.shape.latent_shape), times)
            images = parts.latent.decode(z)
        return to_uint8(images.float())


def in_batches(generator: Generator, asks: Sequence[Ask], seed: int, ids: Sequence[int], batch_size: int) -> np.ndarray:
    """Return images of classes or captions, uint8 [n, H, W, 3], `batch_size` at a time."""
    made = []
    for start in range(0, len(ids), batch_size):
        part = slice(start, start + batch_size)
        condition = generator.parts.conditioner(
            [ask.label for ask in asks[part]], [ask.caption for ask in asks[part] if ask.caption is not None]
        )
        made.append(generator(condition, PositionalNoise(seed, ids[part], generator.parts.device)))
    return np.concatenate(made)


@dataclass(frozen=True)
class Loaded:
    """Averaged weights from a file, with the config in its header."""

    config: Config
    net: DDT
    parts: Parts
    step: int
    path: Path


def load(weights: Path, expected: Config | None, device: str, precision: Precision) -> Loaded:
    """Return a network from a weights file.

    Args:
        weights: `ema.safetensors` of a checkpoint, anywhere.
        expected: the config that the caller believes in; None takes the file's.

    Raises:
        CheckpointError: if the file is unreadable, of another config or of another architecture.
    """
    tensors, header = checkpoint.read_weights(weights)
    config, step = _config_and_step(weights, header)
    if expected is not None:
        check_same(weights, config, expected, "in the run folder")
    parts = build_parts(config, device, precision)
    trained_with = header.get("condition_digest", "")
    if trained_with != parts.conditioner.digest:
        raise CheckpointError(
            f"weights {weights} were trained with text encoder {trained_with[:12]}, found "
            f"{parts.conditioner.digest[:12]}. Install or restore the one it was trained with."
        )
    held, needed = sum(map(torch.numel, tensors.values())), parts.derived.shape.num_parameters()
    if needed > 10 * held:
        # Not even built to be compared: a config may ask for a network that no memory holds.
        raise CheckpointError(
            f"weights {weights} is of another architecture: its config has {needed:,} parameters, it holds {held:,}."
        )
    with torch.random.fork_rng(devices=[]):
        net = DDT(parts.derived.shape)
    checkpoint.load_weights(net, tensors, f"weights {weights}")
    return Loaded(config, net.to(device).eval().requires_grad_(False), parts, step, weights)


def _config_and_step(weights: Path, header: Mapping[str, str]) -> tuple[Config, int]:
    """What the header of a weights file says of the network and of how long it was trained."""
    for key in ("config", "step"):
        if key not in header:
            raise CheckpointError(f"weights {weights} carry no {key} in their header. Use a file that nanogen wrote.")
    try:
        values, step = parse_json(header["config"]), int(header["step"])
        if not isinstance(values, dict) or not 0 <= step <= bounds.DURATION:
            raise ValueError("another kind of value")
    except ValueError as error:
        raise CheckpointError(
            f"weights {weights}: their header holds no config and step ({clipped(str(error), 200)}). Use a file that "
            "nanogen wrote."
        ) from None
    return reload(values, str(weights)), step
