"""Which number type the network computes in: decided once, at the start of a run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

Precision = Literal["bfloat16", "float32"]


def native_bfloat16(device: str) -> bool:
    """Return whether the device multiplies bfloat16 natively; elsewhere it is emulated and slower than float32."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def choose(asked: Literal["auto", "bfloat16", "float32"], device: str) -> Precision:
    """Return the precision of a run: what was asked, or bfloat16 where it is native."""
    if asked != "auto":
        return asked
    return "bfloat16" if native_bfloat16(device) else "float32"


def autocast(precision: Precision, device: str) -> AbstractContextManager[object]:
    """Return the region in which the network runs; weights, optimizer, losses and sampler state stay float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.split(":")[0], dtype=torch.bfloat16)
