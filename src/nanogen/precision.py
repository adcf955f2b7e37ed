"""Which number type the network computes in: decided once, at the start of a run."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import torch
from torch import nn

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


@contextmanager
def tensor_float(allowed: bool) -> Iterator[None]:
    """Let float32 products of CUDA devices round their factors to TensorFloat-32 while it is entered, if allowed."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    if allowed:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def cast_products(net: nn.Module, precision: Precision) -> nn.Module:
    """Return a copy whose products have weights of the precision, as autocast would cast them at every call.

    Norms and what else is no product are shared with the network and stay float32. It serves under `autocast` alone.
    """
    if precision == "float32":
        return net
    products = [part for part in net.modules() if isinstance(part, (nn.Linear, nn.Conv2d))]
    cast = {id(weight) for part in products for weight in part.parameters(recurse=False)}
    made = copy.deepcopy(net, {id(weight): weight for weight in net.parameters() if id(weight) not in cast})
    for part in made.modules():
        if isinstance(part, (nn.Linear, nn.Conv2d)):
            part.to(torch.bfloat16)
    return made


def autocast(precision: Precision, device: str) -> AbstractContextManager[object]:
    """Return the region in which the network runs; weights, optimizer, losses and sampler state stay float32."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.split(":")[0], dtype=torch.bfloat16)
