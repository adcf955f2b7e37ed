"""The region in which judges run: float32 proper, whatever the program around it has chosen for speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import numpy as np
import torch

from diffusionbench.judges.judge import Judge

PRECISION: Final = "float32 products, no TensorFloat-32, no autocast"
"""Part of a judge's digest, and of the name under which its features are kept."""


@contextmanager
def in_float32() -> Iterator[None]:
    """Hold products and convolutions at float32; all settings are as before afterwards, also where something fails.

    By itself torch convolves in TensorFloat-32 on a GPU (10 bits of 23), and a program may ask for it in products, or
    for bfloat16, by either of torch's two sets of switches or by autocast.
    """
    backends: Any = torch.backends
    whole: tuple[Any, ...] = (backends, backends.cudnn)
    parts: tuple[Any, ...] = (
        backends.cuda.matmul,
        backends.cudnn.conv,
        backends.cudnn.rnn,
        backends.mkldnn.matmul,
        backends.mkldnn.conv,
        backends.mkldnn.rnn,
    )
    shown = [switch.fp32_precision for switch in parts]
    # Outer switches first: an inner one that was never set shows the outer one's value.
    outer = [_swapped(switch, "none") for switch in whole]
    inner = [_swapped(switch, "ieee") for switch in parts]
    products, convolutions = torch.get_float32_matmul_precision(), True
    # torch shows the older switch only while it agrees with the newer ones.
    with suppress(RuntimeError):
        convolutions = bool(torch.backends.cudnn.allow_tf32)
    try:
        _set(products="highest", convolutions=False)
        for switch in parts:
            switch.fp32_precision = "ieee"
        with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
            yield
    finally:
        # The older switches move the newer ones too, which therefore come last.
        _set(products, convolutions)
        for switch, own, seen in zip(parts, inner, shown, strict=True):
            # TensorFloat-32 in convolutions is torch's own default, which gives way to an outer switch.
            switch.fp32_precision = own if own == "none" else seen
        for switch, value in zip(whole, outer, strict=True):
            switch.fp32_precision = value


def _set(products: str, convolutions: bool) -> None:
    """Move torch's older switches."""
    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions


def _swapped(switch: Any, value: str) -> str:
    """Set a switch and return its former value."""
    before: str = switch.fp32_precision
    switch.fp32_precision = value
    return before


def features_of(judge: Judge, images: np.ndarray) -> np.ndarray:
    """Return the features float32 [B, dim] of images uint8 [B, H, W, 3] for which nothing was asked."""
    with in_float32():
        evidence: Any = judge(images)
    features: np.ndarray = evidence["features"]
    return features
