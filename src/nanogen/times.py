"""Distribution and shift of times. t = 0 is data, t = 1 is noise. Torch is loaded only to draw."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Times = TypeVar("Times", "float", "Tensor")
Velocity = Callable[[Any, float, float], Any]
"""dz/dt, called as `velocity(z, t, r)` with the state, its time and the next time; instantaneous methods ignore r."""


def to_float32(value: float) -> float:
    """Round to the nearest float32, the precision in which times are compared."""
    return struct.unpack("f", struct.pack("f", value))[0]


def logit_normal(
    n: int | Tensor, mean: float = 0.0, std: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Return times in (0, 1) whose logit is normal, float32 [n].

    Args:
        n: how many to draw, or standard normal numbers float32 [B] to use instead of drawing.
        mean: of the logit; above 0 favours noise.
        std: of the logit, > 0.
        generator: CPU generator to draw from.

    Raises:
        ValueError: if the deviation is not positive.

    Source: Esser et al. 2024 (arXiv 2403.03206).
    """
    import torch

    if not std > 0:
        raise ValueError(f"the deviation of a logit-normal must be positive, got {std}")
    normal = torch.randn(n, generator=generator) if isinstance(n, int) else n
    return torch.sigmoid(mean + std * normal)


def shift_time(t: Times, shift: float) -> Times:
    """Move times towards noise (shift > 1), as larger latents need it, or towards data (shift < 1).

    Args:
        t: in [0, 1], a number or float [B].
        shift: s of t -> s t / (1 + (s - 1) t); 1 is the identity. `time_shift` derives it from the latent shape.

    Returns:
        Of the type of `t`, in [0, 1]; fixed points 0 and 1, increasing in `t`.

    Raises:
        ValueError: if the shift is not positive.

    Source: Esser et al. 2024 (arXiv 2403.03206), resolution-dependent shifting.
    """
    if not shift > 0:
        raise ValueError(f"a time shift must be positive, got {shift}")
    # Written so that both ends are exact in floating point.
    return t / (t + (1 - t) / shift)


def time_shift(latent_shape: tuple[int, ...], base: int = 4096) -> float:
    """Return the shift for a latent shape: sqrt(number of values / base); below 1 for smaller latents, not clamped."""
    return math.sqrt(math.prod(latent_shape) / base)
