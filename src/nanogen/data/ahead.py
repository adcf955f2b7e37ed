"""Batches that are copied to the device while it computes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from nanogen.data import Batch


def copied_ahead(loader: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Give the batches of a loader on a CUDA device, each copied while the one before is used; elsewhere as they are.

    What is not in pinned memory is pinned first, so that the host waits for no copy.
    """
    if device.type != "cuda":
        yield from loader
        return
    stream = torch.cuda.Stream(device)

    def copied(tensor: Tensor) -> Tensor:
        return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)

    def following() -> Batch | None:
        batch = next(loader, None)
        if batch is None:
            return None
        with torch.cuda.stream(stream):
            return batch.tensors(copied)

    batch = following()
    while batch is not None:
        current = torch.cuda.current_stream(device)
        current.wait_stream(stream)

        # Its memory was taken on the other stream, and shall not be given away while this one reads it.
        def held(tensor: Tensor, by: torch.cuda.Stream = current) -> Tensor:
            tensor.record_stream(by)
            return tensor

        ready = batch.tensors(held)
        batch = following()
        yield ready
