"""The region in which features are extracted: float32 proper, whatever the program around it has chosen for speed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from diffusionbench.judges import Extractor

PRECISION: Final = "float32 products, no TensorFloat-32, no autocast"
"""Part of an extractor's digest, and of the name under which its features are kept."""


def extract(extractor: Extractor, images: np.ndarray) -> Mapping[str, np.ndarray]:
    """Return what an extractor makes of uint8 images [B, H, W, 3], in float32 proper."""
    with in_float32():
        return extractor(images)


@contextmanager
def in_float32() -> Iterator[None]:
    """Hold products and convolutions at float32; all settings are as before afterwards, also where something fails.

    By itself torch convolves in TensorFloat-32 on a GPU (10 bits of 23), and a program may ask for it in products, or
    for bfloat16, by either of torch's two sets of switches or by autocast.
    """
    import torch

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
    products, convolutions = torch.get_float32_matmul_precision(), _older_convolutions()
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
    import torch

    torch.set_float32_matmul_precision(products)
    torch.backends.cudnn.allow_tf32 = convolutions


def _swapped(switch: Any, value: str) -> str:
    """Set a switch; gives what it was."""
    before: str = switch.fp32_precision
    switch.fp32_precision = value
    return before


def _older_convolutions() -> bool:
    """What `cudnn.allow_tf32` was last set to: torch shows it only while it agrees with the newer switches."""
    import torch

    try:
        return bool(torch.backends.cudnn.allow_tf32)
    except RuntimeError:
        return True
