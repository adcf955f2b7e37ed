"""Batches that are copied to the device, and given their condition, while the device uses the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext

import torch
from torch import Tensor

from nanogen.data import Batch
from nanogen.moving import moved


def prepared_ahead(loader: Iterator[Batch], device: torch.device, prepare: Callable[[Batch], Batch]) -> Iterator[Batch]:
    """Give the batches of a loader on a device, each copied and prepared while the one before is used.

    On CUDA that happens on another stream, and what is not in pinned memory is pinned first, so that the host waits for
    nothing. A CPU does the same in the same order.

    Args:
        prepare: called once for each batch, with its tensors on the device.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def following() -> Batch | None:
        batch = next(loader, None)
        if batch is None:
            return None
        with nullcontext() if stream is None else torch.cuda.stream(stream):
            return prepare(batch.tensors(lambda tensor: moved(tensor, device)))

    batch = following()
    while batch is not None:
        ready = batch
        if stream is not None:
            current = torch.cuda.current_stream(device)
            current.wait_stream(stream)

            # Its memory was taken on the other stream, and shall not be given away while this one reads it.
            def held(tensor: Tensor, by: torch.cuda.Stream = current) -> Tensor:
                tensor.record_stream(by)
                return tensor

            ready = batch.tensors(held)
        batch = following()
        yield ready
