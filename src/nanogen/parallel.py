"""Several processes, started by torchrun; with one process there is no process group and every call is a no-op."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from diffusionbench.errors import ConfigError, RunError, Stopped, Told, UserError
from diffusionbench.shown import first_line

T = TypeVar("T")


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Return whether this process writes files and talks."""
    return rank() == 0


# How launchers that start several processes say how many; torchrun alone says how they find each other.
_TASKS = ("SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


@contextmanager
def processes() -> Iterator[str]:
    """Join the group that torchrun describes, if it describes one; gives the device of this process.

    Raises:
        ConfigError: if several processes were started without a way to find each other.
        RunError: if another process of the group ends before its time.
    """
    local, world = _number("LOCAL_RANK", 0), _number("WORLD_SIZE", 1)
    if "WORLD_SIZE" not in os.environ:
        _check_alone()
    device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    if device != "cpu":
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"process {local} of this machine needs a GPU of its own, and there are {torch.cuda.device_count()}. "
                "Start as many processes as GPUs (--nproc-per-node)."
            )
        torch.cuda.set_device(local)
    if world == 1:
        yield device
        return
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device != "cpu" else "gloo", timeout=timedelta(hours=2))
    except (ValueError, RuntimeError) as error:
        reason = first_line(error)
        raise RunError(f"{world} processes cannot find each other: {reason} Start them with torchrun.") from None
    try:
        yield device
    except (UserError, RunError) as error:
        # What all meet alike went through `agreed`, and a signal goes to all.
        error.everywhere = isinstance(error, Stopped)
        raise
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise RunError(
            "another process of this run has ended; if it had a reason, it said so. The same command continues."
        ) from None
    finally:
        dist.destroy_process_group()


def _number(name: str, default: int) -> int:
    text = os.environ.get(name) or str(default)
    if not text.isdecimal():
        raise ConfigError(f"{name} is '{text}' in the environment; a whole number is needed. Start with torchrun.")
    return int(text)


def _check_alone() -> None:
    for name in _TASKS:
        if _number(name, 1) > 1:
            raise ConfigError(
                f"{name} is {os.environ[name]}: each of these processes would do all the work. Start one a machine, "
                "and torchrun in it (srun --ntasks-per-node 1 torchrun --nproc-per-node N -m nanogen ...); for a "
                f"single process unset {name}."
            )


@contextmanager
def agreed() -> Iterator[None]:
    """Hold a part of the work after which all processes go on, or all end: the first that failed says why.

    Once one process may fail, the part calls no other function of this module.

    Raises:
        UserError, RunError: its own, in the first process that failed.
        Told: in the others.
    """
    failure: UserError | RunError | None = None
    try:
        yield
    except (UserError, RunError) as error:
        failure = error
    if dist.is_initialized():
        codes: list[int | None] = [None] * world_size()
        dist.all_gather_object(codes, failure and failure.exit_code)
        first = next((number for number, code in enumerate(codes) if code is not None), None)
        if first is not None and first != rank():
            raise Told(codes[first] or 1) from None
    if failure is not None:
        raise failure


def from_main(make: Callable[[], T]) -> T:
    """Return what the main process makes, in every process; where it fails, all end as in `agreed`."""
    made: list[Any] = [None]
    with agreed():
        if is_main():
            made = [make()]
    if dist.is_initialized():
        dist.broadcast_object_list(made)
    return made[0]


def wrap(module: nn.Module) -> nn.Module:
    """Return the module with gradients averaged over the processes; itself where there is one process."""
    if world_size() == 1:
        return module
    device = next(module.parameters()).device
    return DistributedDataParallel(module, device_ids=None if device.type == "cpu" else [device])


@contextmanager
def local_gradients(model: nn.Module, local: bool) -> Iterator[None]:
    """Hold both passes of a micro-batch; while `local`, gradients are summed in this process only: all but the last."""
    if local and world_size() > 1:
        with model.no_sync():  # type: ignore[operator]
            yield
    else:
        yield


def all_max(value: Tensor) -> Tensor:
    """Return the largest value over the processes, everywhere."""
    if dist.is_initialized():
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return value


def all_mean(value: Tensor) -> Tensor:
    """Return the mean over the processes, everywhere."""
    if dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value, dist.ReduceOp.SUM)
        value /= world_size()
    return value


def gather(mine: dict[int, Any]) -> dict[int, Any] | None:
    """Return the entries of all processes together, in the main process; None in the others."""
    if not dist.is_initialized():
        return mine
    parts: list[Any] | None = [None] * world_size() if is_main() else None
    dist.gather_object(mine, parts)
    return None if parts is None else {key: value for part in parts for key, value in part.items()}


def full(tensor: Tensor) -> Tensor:
    """Return a tensor whole where each process holds a part of it; itself otherwise. Every process calls it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


# Training state on disk: every process writes its part, under names that do not depend on how it was cut.


def optimizer_state(module: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> dict[str, Any]:
    """Return the state of a module's optimizers: "state" by parameter name, and "param_groups"."""
    return get_optimizer_state_dict(module, optimizers)


def set_optimizer_state(module: nn.Module, optimizers: Sequence[torch.optim.Optimizer], state: dict[str, Any]) -> None:
    """Load what `optimizer_state` returned."""
    set_optimizer_state_dict(module, optimizers, state)


def save(state: dict[str, Any], folder: Path) -> None:
    """Write nested tensors and plain values.

    Raises:
        OSError: if that is not possible; the reasons of all processes are in its message.
    """
    with _told():
        dcp.save(state, checkpoint_id=folder)


def load(state: dict[str, Any], folder: Path) -> None:
    """Read into the tensors of a state as `save` was given; its plain values are replaced.

    Raises:
        OSError: if the files are damaged or hold something else.
    """
    with _told():
        dcp.load(state, checkpoint_id=folder)


@contextmanager
def _told() -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            # Says that one process saves alone, which is what we want.
            warnings.simplefilter("ignore", UserWarning)
            yield
    except dcp.api.CheckpointException as error:
        raise OSError("; ".join(sorted({str(failure[0]) for failure in error.failures.values()}))) from None
