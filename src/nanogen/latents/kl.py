"""Variational autoencoders of latent diffusion: one codec over the classes of diffusers, with the mode as the latent.

images -> 2 image - 1 -> encoder -> mode of the posterior -> (packing) -> (z - shift) scale, and back; the decoded image
is clamped to [0, 1].

Source: Rombach et al. 2022 (arXiv 2112.10752).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusionbench.errors import CheckpointError
from diffusionbench.limits import parse_json, read_small
from diffusionbench.registry import require
from diffusionbench.schema import digest, file_digest
from diffusionbench.shown import few, first_line
from nanogen import parallel
from nanogen.latents import Latent, LatentSpec
from nanogen.latents.weights import obtain, open_pretrained
from nanogen.log import say

# FLUX.2's own layer has 1e-4; diffusion models of the published study were trained with this one.
BATCH_NORM_EPS: Final = 1e-5


class KL(Latent):
    """One variational autoencoder.

    Options of a row: `model`, the class of diffusers; `shift` and `scale`, or `mean` and `std` per channel, where its
    own configuration states none per channel; `packed`: 2x2 positions become channels, channel 4c + 2dy + dx from
    offset (dy, dx), normalised by the running statistics of the model's batch norm; `frames`: a video model, which
    takes an image as one frame.
    """

    def __init__(self, spec: LatentSpec, device: str) -> None:
        config_file, weights = obtain(spec, "vae")
        owner = f"latent space '{spec.name}'"
        config = read_config(config_file, owner)
        self._packed, self._frames = bool(spec.options.get("packed")), bool(spec.options.get("frames"))
        found = config.get("latent_channels", config.get("z_dim"))
        if found not in (None, expected := spec.channels // 4 if self._packed else spec.channels):
            raise CheckpointError(
                f"{owner}: {config_file} describes a latent of {found} channels, expected {expected}. Use the files of "
                f"{spec.weights[0].hub}."
            )
        self._net = open_model(config_file.parent, config, spec.options["model"], owner).to(device)
        if self._packed:
            shift, variance = self._net.bn.running_mean, self._net.bn.running_var
            scale = torch.where(variance > 0, (variance + BATCH_NORM_EPS).rsqrt(), math.inf)
        else:
            shift, scale = (torch.tensor(values, device=device) for values in normalisation(config, spec.options))
        origin = f"{owner}: {config_file.parent}"
        self._shift, self._scale = (checked(values.float(), spec.channels, origin) for values in (shift, scale))
        if (self._scale <= 0).any():
            raise CheckpointError(f"{origin} states a scale that is not positive. Get the files again.")
        described = {key: value for key, value in config.items() if not key.startswith("_")}
        self.digest = digest([spec.options["model"], described, file_digest(weights)])
        if parallel.is_main():
            say(f"{owner}: shift {shown(self._shift)}, scale {shown(self._scale)}")

    def encode(self, images: Tensor) -> Tensor:
        x = 2 * images - 1
        z = self._net.encode(x[:, :, None] if self._frames else x).latent_dist.mode()
        z = z[:, :, 0] if self._frames else z
        z = F.pixel_unshuffle(z, 2) if self._packed else z
        return (z - self._shift) * self._scale

    def decode(self, latents: Tensor) -> Tensor:
        z = latents / self._scale + self._shift
        z = F.pixel_shuffle(z, 2) if self._packed else z
        y = self._net.decode(z[:, :, None] if self._frames else z).sample
        y = y[:, :, 0] if self._frames else y
        return ((y + 1) / 2).clamp(0, 1)


def read_config(path: Path, owner: str) -> dict[str, Any]:
    """Return the configuration of a model as its file states it, without the defaults of its class.

    Raises:
        CheckpointError: if it is no JSON object.
    """
    try:
        config = parse_json(read_small(path))
        if not isinstance(config, dict):
            raise ValueError("no object")
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{owner}: {path} holds no JSON object ({first_line(error)}). Get it again.") from None
    return config


def normalisation(config: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Return shift and scale, one or one per channel: of the model per channel, else the row's, else the model's.

    Args:
        config: the model's own.
        options: those of the row.
    """
    for place, mean, std in ((config, "latents_mean", "latents_std"), (options, "mean", "std")):
        if place.get(mean) and place.get(std):
            return list(place[mean]), [1 / value if value else math.inf for value in place[std]]
    if "scale" in options:
        return [options["shift"]], [options["scale"]]
    shift, scale = config.get("shift_factor"), config.get("scaling_factor")
    return [0.0 if shift is None else shift], [1.0 if scale is None else scale]


def checked(values: Tensor, channels: int, origin: str) -> Tensor:
    """Return one value or one per channel as [1, 1, 1, 1] or [1, channels, 1, 1].

    Raises:
        CheckpointError: if they are as many as no channels of the space, or not finite.
    """
    if len(values) not in (1, channels):
        raise CheckpointError(f"{origin} states {len(values)} values of shift or scale, expected {channels}.")
    if not values.isfinite().all():
        raise CheckpointError(f"{origin} states a deviation of 0 or a value that is not finite. Get the files again.")
    return values[None, :, None, None]


def open_model(folder: Path, config: Mapping[str, Any], name: str, owner: str) -> Any:
    """Return a frozen model of diffusers from a folder, float32, on the CPU.

    Args:
        config: what its configuration states.
        name: of the expected class.

    Raises:
        CheckpointError: if the files are damaged, of another class, or hold other tensors; differing names are listed.
    """
    diffusers = require("diffusers", "vae", owner[0].upper() + owner[1:])
    found = config.get("_class_name", name)
    if found != name:
        raise CheckpointError(f"{owner}: {folder} describes a {found}, expected {name}. Get the right files.")
    options = {"torch_dtype": torch.float32, "use_safetensors": True, "low_cpu_mem_usage": False}
    model, loaded = open_pretrained(diffusers, name, folder, owner, **options)
    problems = [f"missing {key}" for key in loaded["missing_keys"]]
    problems += [f"unknown {key}" for key in loaded["unexpected_keys"]]
    problems += [f"{error}" for error in loaded["error_msgs"]]
    if problems:
        raise CheckpointError(f"{owner}: {folder} holds another model: {few(problems, '; ')}.")
    return model.eval().requires_grad_(False)


def shown(values: Tensor) -> str:
    """Return one number, or the range of several, as text."""
    low, high = values.min().item(), values.max().item()
    return f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g} over {values.numel()} channels"
