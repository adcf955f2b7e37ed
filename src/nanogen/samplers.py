"""Solvers of dz/dt = v(z, t) from noise (t = 1) to data (t = 0): pure functions over a velocity.

Solvers know neither networks nor guidance, and only add and scale states, so a state may be any value with
arithmetic. Times are read from a CPU grid: nothing waits for the device.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffusionbench.registry import Table
from nanogen.times import Velocity, shift_time

if TYPE_CHECKING:
    from torch import Tensor


def time_grid(num_steps: int, shift: float = 1.0) -> Tensor:
    """Return the times of a solver, CPU float32 [num_steps + 1] from 1 to 0: uniform, then shifted.

    Each is the float32 next to the exact time, so a time that lies on the end of a guidance interval equals it.

    Raises:
        ValueError: if there is no step or the shift is not positive.
    """
    import torch

    if num_steps < 1:
        raise ValueError(f"a sampler needs at least 1 step, got {num_steps}")
    return shift_time(torch.arange(num_steps, -1, -1, dtype=torch.float64) / num_steps, shift).float()


def euler(velocity: Velocity, noise: Any, times: Tensor) -> Any:
    """First order: one evaluation per step, never at t = 0.

    Args:
        velocity: dz/dt, called with the time and the next time.
        noise: state at times[0].
        times: decreasing CPU float32 [num_steps + 1], see `time_grid`.

    Returns:
        The state at times[-1].
    """
    z = noise
    for t, r in itertools.pairwise(times.tolist()):
        z = z - (t - r) * velocity(z, t, r)
    return z


def heun(velocity: Velocity, noise: Any, times: Tensor) -> Any:
    """Second order (trapezoid corrector); the last step is Euler's, so the cost is 2 num_steps - 1 evaluations.

    Arguments and result as for `euler`. Guidance sees each evaluation's own time.
    """
    z = noise
    for t, r in itertools.pairwise(times.tolist()):
        v = velocity(z, t, r)
        ahead = z - (t - r) * v
        z = z - (t - r) * (0.5 * (v + velocity(ahead, r, r))) if r > 0 else ahead
    return z


@dataclass(frozen=True)
class SamplerSpec:
    """One solver.

    Attributes:
        title: one line for users.
        load: "module:function" of its code.
        for_means: it takes means over a step.
        evaluations: of the velocity in a step; the last step may have fewer.
    """

    title: str
    load: str
    for_means: bool = False
    evaluations: int = 1


SAMPLERS: Table[SamplerSpec] = Table(
    "sampler",
    {
        "euler": SamplerSpec("first order, one evaluation per step", "nanogen.samplers:euler", for_means=True),
        "heun": SamplerSpec(
            "second order, two evaluations per step but the last", "nanogen.samplers:heun", evaluations=2
        ),
    },
    group="nanogen.samplers",
)
