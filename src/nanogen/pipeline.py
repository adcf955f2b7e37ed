"""From conditions to 8-bit images: noise, sampler, guidance, decoder. Image i depends on (seed, i) only."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._pytree import tree_map

from diffusionbench import bounds
from diffusionbench.errors import CheckpointError
from diffusionbench.images import to_uint8
from diffusionbench.limits import parse_json
from diffusionbench.shown import clipped
from nanogen import checkpoint, hub
from nanogen.build import Components, build_components, build_network
from nanogen.conditions import SampleSpec
from nanogen.config import Config, changed, reload
from nanogen.guidance import Both, classifier_free, internal, parts
from nanogen.log import say
from nanogen.model.condition import Condition
from nanogen.model.dit import DDT
from nanogen.precision import Precision, autocast, cast_products, choose
from nanogen.resolve import resolve
from nanogen.rng import SeededNoise, sampling_noise
from nanogen.run import Run, ensure_same_config, read
from nanogen.samplers import SAMPLERS, time_grid
from nanogen.times import Velocity


@dataclass(frozen=True)
class ImagePipeline:
    """A network ready to make images.

    Attributes:
        net: trained network in evaluation mode.
        components: what it was trained with.
        config: whose sampler and guidance are used, which may be others than those of the training.
    """

    net: nn.Module
    components: Components
    config: Config

    @torch.no_grad()
    def __call__(
        self, condition: Condition, noise: SeededNoise, watch: Callable[[Any, float], object] | None = None
    ) -> np.ndarray:
        """Make one batch.

        Args:
            condition: for B images.
            noise: of the B samples, each from a stream of its own.
            watch: called with each state at which the solver asks for a velocity, and its time.

        Returns:
            uint8 [B, H, W, 3]; decoder output clamped to [0, 1], times 255, truncated.
        """
        components, objective = self.components, self.components.objective
        sampler, guidance = self.config.sampler, self.config.guidance
        scale, null_scale = guidance.internal.scales
        velocity = classifier_free(
            self._velocity(condition, scale),
            self._velocity(condition.null(), null_scale),
            guidance.scale,
            guidance.interval,
            self._both(condition) if scale == null_scale == 1 else None,
        )
        solved = velocity
        if watch is not None:

            def solved(z: Any, t: float, r: float) -> Any:
                watch(z, t)
                return velocity(z, t, r)

        times = time_grid(sampler.num_steps, resolve(self.config).sampler_shift)
        initial = objective.initial(noise, components.derived.shape.latent_shape)
        with autocast(components.precision, components.device):
            state = SAMPLERS.load(sampler.name)(solved, initial, times)
            images = components.latent.decode(objective.latent(state))
        return to_uint8(images.float())

    @cached_property
    def _net(self) -> nn.Module:
        """The network that is called: weights cast once and not at every call, and compiled as in training."""
        net = cast_products(self.net, self.components.precision)
        if self.config.train.compile and isinstance(net, DDT):
            net.compile_blocks()
        return net

    def _both(self, condition: Condition) -> Both | None:
        """Return the velocities with the condition and without, from one batch; None where two batches cost less."""
        joined = condition.with_null()
        if joined is None:
            return None

        def both(z: Any, t: float, r: float) -> tuple[Any, Any]:
            twice = tree_map(lambda part: torch.cat([part, part]), z)
            v = self.components.objective.velocity(self._net, twice, t, r, joined)
            return tree_map(lambda part: part.chunk(2)[0], v), tree_map(lambda part: part.chunk(2)[1], v)

        return both

    def _velocity(self, condition: Condition, internal_scale: float) -> Velocity:
        """Return the velocity under a condition, with internal guidance of this strength."""
        net, objective, interval = self._net, self.components.objective, self.config.guidance.internal.interval
        if internal_scale == 1:
            return lambda z, t, r: objective.velocity(net, z, t, r, condition)
        full, early = parts(lambda z, t, r: objective.velocities(net, z, t, r, condition))
        return internal(full, early, internal_scale, interval)

    def in_batches(self, specs: Sequence[SampleSpec], seed: int, batch_size: int, first: int = 0) -> np.ndarray:
        """Make images first, first + 1, ... of classes or captions, uint8 [n, H, W, 3], `batch_size` at a time."""
        made = []
        for start in range(0, len(specs), batch_size):
            batch = specs[start : start + batch_size]
            captions = [spec.caption for spec in batch if spec.caption is not None]
            condition = self.components.conditioner([spec.label for spec in batch], captions)
            indices = range(first + start, first + start + len(batch))
            made.append(self(condition, sampling_noise(seed, indices, self.components.device)))
        return np.concatenate(made)


@dataclass(frozen=True)
class Loaded:
    """Averaged weights from a file, with the config in its header and the run whose folder they lie in."""

    config: Config
    net: DDT
    components: Components
    step: int
    path: Path
    run: Run | None = None

    def pipeline(self, overrides: Iterable[str]) -> ImagePipeline:
        """Return the network ready to make images, with other values of sampler.*, guidance.* and eval.*.

        Raises:
            ConfigError: for any other change.
        """
        config = changed(self.config, overrides, ("sampler", "guidance", "eval"), f"{self.path} is trained")
        return ImagePipeline(self.net, self.components, config)


def load(weights: Path, expected: Config | None, device: str, precision: Precision) -> Loaded:
    """Return a network from a weights file.

    Args:
        weights: `ema.safetensors` of a checkpoint, anywhere.
        expected: the config that the caller believes in; None takes the file's.

    Raises:
        CheckpointError: if the file is unreadable, of another config or of another architecture.
    """
    tensors, header = checkpoint.read_weights(weights)
    # What extra losses learned serves training alone.
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("losses.")}
    config, step = _config_and_step(weights, header)
    if expected is not None:
        ensure_same_config(weights, config, expected, "in the run folder")
    components = build_components(config, device, precision)
    trained_with = header.get("condition_digest", "")
    if trained_with != components.conditioner.digest:
        raise CheckpointError(
            f"weights {weights} were trained with text encoder {trained_with[:12]}, found "
            f"{components.conditioner.digest[:12]}. Install or restore the one it was trained with."
        )
    latent_digest = header.get("latent_digest", components.latent.digest)
    if latent_digest != components.latent.digest:
        raise CheckpointError(
            f"weights {weights} were trained in latent space '{config.latent.name}' with weights {latent_digest[:12]}, "
            f"found {components.latent.digest[:12]}. Restore those it was trained with."
        )
    held, needed = sum(map(torch.numel, tensors.values())), components.derived.shape.num_parameters()
    if needed > 10 * held:
        # It is not built for a comparison: a config may ask for a network that no memory holds.
        raise CheckpointError(
            f"weights {weights} is of another architecture: its config has {needed:,} parameters, it holds {held:,}."
        )
    with torch.random.fork_rng(devices=[]):
        net = build_network(components)
    checkpoint.load_weights(net, tensors, f"weights {weights}")
    return Loaded(config, net.to(device).eval().requires_grad_(False), components, step, weights)


def _config_and_step(weights: Path, header: Mapping[str, str]) -> tuple[Config, int]:
    """Read from the header of a weights file of which network it is and how long that was trained."""
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


def open_weights(path: Path, device: str, step: int | None = None) -> Loaded:
    """Return the newest intact weights of a run folder, or those of a step that it keeps, or those in a file.

    Args:
        path: the folder or file, or `hf:OWNER/NAME` for a network on the hub.

    Raises:
        CheckpointError: if there are none, or they do not belong to the run's config.
    """
    if hub.is_hub(path):
        path = hub.weights_of(str(path))
    if path.is_file():
        _, header = checkpoint.read_weights(path)
        asked = header.get("precision", "auto")
        return load(path, None, device, choose(asked, device))  # type: ignore[arg-type]
    run = read(path)
    if step is None:
        newest, damaged = checkpoint.newest(run.checkpoints, weights_only=True)
    else:
        newest, damaged = checkpoint.at(run.checkpoints, step), []
    for problem in damaged:
        say(f"{problem}; using {newest.path.name if newest else 'none'}")
    if newest is None:
        raise CheckpointError(f"{path} has no intact checkpoint yet. Start its `nanogen train` command again.")
    return replace(load(newest.weights, run.config, device, run.facts["precision"]), path=path, run=run)
