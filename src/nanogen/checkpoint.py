"""Checkpoints: whole or absent, verified before use, the last N kept; and the weights file that is enough to sample.

A checkpoint is a folder such as `step-00000600` with the sharded training state, `ema.safetensors` (averaged
weights, config in its header) and `manifest.json` (size and SHA-256 of every file), written under a temporary name and
renamed.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from diffusionbench.errors import CheckpointError
from diffusionbench.schema import file_digest, write_atomic
from diffusionbench.shown import few
from nanogen import distributed

_LISTED = 10
MANIFEST, WEIGHTS, STATE = "manifest.json", "ema.safetensors", "state"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk that passed its manifest."""

    path: Path
    step: int

    @property
    def weights(self) -> Path:
        return self.path / WEIGHTS


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: nn.Module,
    header: Mapping[str, str],
    keep: int,
) -> None:
    """Write the state after `step` updates; every process calls it.

    Args:
        folder: the run's checkpoint folder.
        model, optimizer: training state.
        ema: averaged network; also written as `ema.safetensors`.
        header: strings for that file's header (config, step, commit, ...).
        keep: checkpoints to keep.

    Raises:
        CheckpointError: if the disk is full or not writable; older checkpoints are untouched.
    """
    temporary = folder / f".step-{step:08d}.tmp"
    try:
        if distributed.is_main():
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        distributed.barrier()
        with warnings.catch_warnings():
            # Says that one process saves alone, which is what we want.
            warnings.simplefilter("ignore", UserWarning)
            dcp.save(_state(model, optimizer, ema), checkpoint_id=temporary / STATE)
        if distributed.is_main():
            save_file({name: p.contiguous() for name, p in ema.named_parameters()}, temporary / WEIGHTS, dict(header))
            paths = sorted(path for path in temporary.rglob("*") if path.is_file())
            entries = {
                str(path.relative_to(temporary)): {"bytes": path.stat().st_size, "sha256": file_digest(path)}
                for path in paths
            }
            write_atomic(temporary / MANIFEST, json.dumps({"step": step, "files": entries}, indent=1))
            final = folder / f"step-{step:08d}"
            # What has this name already was found damaged, or training would not have come back to this step.
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
            _prune(folder, keep)
    except (OSError, SafetensorError, dcp.api.CheckpointException) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CheckpointError(
            f"checkpoint of step {step} could not be written to {folder}: {_reason(error)}. "
            "Older checkpoints are untouched; make room and start the same command again."
        ) from None
    distributed.barrier()


def _reason(error: BaseException) -> str:
    if isinstance(error, dcp.api.CheckpointException):
        return "; ".join(sorted({str(failure[0]) for failure in error.failures.values()}))
    return str(error)


def _state(model: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module) -> dict[str, Any]:
    weights, moments = get_state_dict(model, optimizer)
    return {"model": weights, "optimizer": moments, "ema": dict(ema.named_parameters())}


def _prune(folder: Path, keep: int) -> None:
    for path in _folders(folder)[:-keep]:
        shutil.rmtree(path)
    for path in folder.glob(".step-*.tmp"):
        shutil.rmtree(path)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest intact checkpoint, and a sentence for each newer one that is damaged."""
    damaged: list[str] = []
    for path in reversed(_folders(folder)):
        problem = _verify(path)
        if problem is None:
            return Checkpoint(path, int(path.name.removeprefix("step-"))), damaged
        damaged.append(f"checkpoint {path} is damaged ({problem})")
    return None, damaged


def _verify(path: Path) -> str | None:
    try:
        entries = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError):
        return f"{MANIFEST} is missing or unreadable"
    for name, entry in entries.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != entry["bytes"]:
            return f"{name} has {file.stat().st_size} of {entry['bytes']} bytes"
        if file_digest(file) != entry["sha256"]:
            return f"{name} has other content than was written"
    return None


def restore(checkpoint: Checkpoint, model: nn.Module, optimizer: torch.optim.Optimizer, ema: nn.Module) -> None:
    """Load the training state in place; every process calls it."""
    state = _state(model, optimizer, ema)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        dcp.load(state, checkpoint_id=checkpoint.path / STATE)
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a weights file.

    Raises:
        CheckpointError: if the file is missing or not one of ours.
    """
    try:
        if not path.is_file():
            raise OSError("no such file" if not path.exists() else "it is no regular file")
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (OSError, RuntimeError, ValueError, LookupError, SafetensorError) as error:
        raise CheckpointError(f"weights {path} cannot be read: {error}.") from None


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Copy tensors into a network of the same architecture.

    Raises:
        CheckpointError: if names, shapes or kinds differ, or a value is not finite; the first are listed, all counted.
    """
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    problems = [f"missing {name} {list(wanted[name])}" for name in wanted if name not in found]
    problems += [f"unknown {name} {list(found[name])}" for name in found if name not in wanted]
    shared = [name for name in wanted if name in found]
    problems += [
        f"{name} is {list(found[name])}, needed {list(wanted[name])}" for name in shared if found[name] != wanted[name]
    ]
    if problems:
        raise CheckpointError(f"{origin} is of another architecture: {few(problems, '; ', _LISTED)}.")
    kinds = {name: str(tensors[name].dtype).removeprefix("torch.") for name in shared}
    problems = [f"{name} holds {kinds[name]}" for name in shared if not tensors[name].is_floating_point()]
    problems = problems or [
        f"{name} holds values that are not finite" for name in shared if not tensors[name].isfinite().all()
    ]
    if problems:
        raise CheckpointError(
            f"{origin} holds no weights: {few(problems, '; ', _LISTED)}. Use a file that nanogen wrote."
        )
    model.load_state_dict(dict(tensors))
