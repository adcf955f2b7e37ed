"""Several processes, started by torchrun; with one process there is no process group and every call is a no-op."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this process writes files and talks."""
    return rank() == 0


@contextmanager
def processes() -> Iterator[str]:
    """Join the group that torchrun describes, if it describes one; gives the device of this process."""
    local = int(os.environ.get("LOCAL_RANK", 0))
    device = f"cuda:{local}" if torch.cuda.is_available() else "cpu"
    if device != "cpu":
        torch.cuda.set_device(local)
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield device
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if device != "cpu" else "gloo", timeout=timedelta(hours=2))
    try:
        yield device
    finally:
        dist.destroy_process_group()


def wrap(model: nn.Module, device: str) -> nn.Module:
    """The model with averaged gradients; itself where there is one process."""
    if world_size() == 1:
        return model
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(model, device_ids=None if device == "cpu" else [device])


@contextmanager
def local_gradients(model: nn.Module, local: bool) -> Iterator[None]:
    """Hold both passes of a micro-batch; while `local`, gradients are summed in this process only: all but the last."""
    if local and world_size() > 1:
        with model.no_sync():  # type: ignore[operator]
            yield
    else:
        yield


def barrier() -> None:
    """Wait for all processes."""
    if dist.is_initialized():
        dist.barrier()


def all_max(value: Tensor) -> Tensor:
    """The largest value over the processes, everywhere."""
    if dist.is_initialized():
        dist.all_reduce(value, dist.ReduceOp.MAX)
    return value


def all_mean(value: Tensor) -> Tensor:
    """The mean over the processes, everywhere."""
    if dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value, dist.ReduceOp.SUM)
        value /= world_size()
    return value


def gather(mine: dict[int, Any]) -> dict[int, Any] | None:
    """The entries of all processes together, in the main process; None in the others."""
    if not dist.is_initialized():
        return mine
    parts: list[Any] | None = [None] * world_size() if is_main() else None
    dist.gather_object(mine, parts)
    return None if parts is None else {key: value for part in parts for key, value in part.items()}
