"""Copies to a device for which the host does not wait."""

from __future__ import annotations

import torch
from torch import Tensor


def moved(tensor: Tensor, device: str | torch.device) -> Tensor:
    """Return a tensor of the CPU on a device; on the way to a GPU it lies in pinned memory."""
    if torch.device(device).type == "cuda" and tensor.device.type == "cpu" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
