"""Released files, read by the restricted loader and written once as safetensors: weights of networks and of latents."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from diffusionbench.bounds import DURATION
from diffusionbench.errors import CheckpointError
from diffusionbench.shown import few
from diffusionbench.writing import check_place, make_folder, write_atomic, write_errors
from nanogen.checkpoint import no_weights
from nanogen.conditions import CONDITIONS
from nanogen.config import Config
from nanogen.latents import LATENTS
from nanogen.latents.files import home
from nanogen.latents.weights import obtain, read_tensors
from nanogen.model.released import from_released
from nanogen.resolve import resolve


def import_network(file: Path, config: Config, out: Path) -> int:
    """Write the averaged weights of a released checkpoint as a file that `nanogen sample` takes.

    Args:
        file: a state dict in the released layout, alone or as the "ema" of a training file; pickled or safetensors.

    Returns:
        The step of a training file; 0 where the file does not say.

    Raises:
        CheckpointError: if the file is damaged, of another architecture, or holds no weights; the names are listed.
    """
    check_place(out)
    if not file.is_file():
        raise CheckpointError(f"{file} is not a file. Give a released checkpoint.")
    content = read_tensors(file, "nanogen import")
    weights, step = content.get("ema", content), content.get("step", 0)
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CheckpointError(f"{file} holds more than tensors and no 'ema' with tensors. Give a released checkpoint.")
    if isinstance(step, Tensor) and step.numel() == 1:
        step = step.item()
    if type(step) is not int or not 0 <= step <= DURATION:
        raise CheckpointError(
            f"{file} states the step {step!r:.80}, expected a whole number. Give a released checkpoint."
        )
    try:
        tensors = from_released(weights, resolve(config).shape)
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}. Choose the task, method and scale it was trained with.") from None
    if problems := no_weights(tensors):
        raise CheckpointError(f"{file} holds no weights: {few(problems, '; ')}. Give a released checkpoint.")
    header = {
        "config": json.dumps(config.model_dump(mode="json")),
        "config_hash": config.hash,
        "step": str(step),
        "condition_digest": CONDITIONS.load(config.condition.kind)(config.condition.model_dump(), "cpu").digest,
    }
    _write(out, tensors, header)
    return step


def prepare_weights(name: str, folder: Path | None = None) -> dict[str, list[Path]]:
    """Find or fetch the files of a latent space, and write those that are pickled once more as safetensors.

    Args:
        folder: where the user has the files; None: the usual places.

    Returns:
        The paths by part; a converted file is found before the original from then on.
    """
    spec = replace(LATENTS[name], folder=folder)
    found = {}
    for weights in spec.weights:
        paths = obtain(spec, weights.part)
        for place, path in enumerate(paths):
            if path.suffix == ".pt" and path.name not in weights.sha256:
                content = read_tensors(path, f"latent space '{name}'")
                content = content.get("state_dict", content)
                tensors = {key: value for key, value in content.items() if isinstance(value, Tensor)}
                paths[place] = home(name) / weights.part / path.with_suffix(".safetensors").name
                _write(paths[place], tensors, {"source": weights.origin})
        found[weights.part] = paths
    return found


def _write(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write a whole file or none; tensors that share memory are stored apart."""
    with write_errors(path):
        make_folder(path.parent)
        write_atomic(path, save({name: torch.clone(tensor).contiguous() for name, tensor in tensors.items()}, header))
