"""Names of torch devices."""

from __future__ import annotations

import re
from typing import Any, Final

from diffusionbench.errors import RequestError

_FORM: Final = re.compile(r"cpu|mps|cuda(?::([0-9]{1,3}))?")


def check_device(device: str) -> str:
    """Return a device if something can be computed on it here; torch is imported only where it must be asked.

    Raises:
        RequestError: if the name is none of "cpu", "cuda", "cuda:N" and "mps", or torch finds no such device.
    """
    form = _FORM.fullmatch(device)
    if form is None:
        raise RequestError(f"device '{device}' cannot be used: unknown. Allowed: cpu, cuda, cuda:N, mps.")
    if device == "cpu":
        return device
    import torch

    kind: Any = torch.mps if device == "mps" else torch.cuda
    if kind.device_count() <= int(form[1] or 0):
        raise RequestError(
            f"device '{device}' cannot be used: torch finds {kind.device_count()} of this kind here. Take 'cpu'."
        )
    return device
