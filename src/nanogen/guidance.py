"""Guidance: velocities in, velocity out (pure functions).

A weaker velocity is computed only inside the closed interval of times on which guidance acts. Times and interval
ends are compared as float32, so that a grid point on the end counts as inside.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nanogen.times import Velocity, to_float32

Both = Callable[[Any, float, float], tuple[Any, Any]]
"""Two velocities at one state, as a function of (z, t, r)."""


def classifier_free(
    conditional: Velocity,
    null: Velocity,
    scale: float,
    interval: tuple[float, float] = (0.0, 1.0),
    both: Both | None = None,
) -> Velocity:
    """v_null + scale (v_cond - v_null) while t is in the interval, else v_cond.

    Args:
        conditional, null: velocities with the condition and with the null condition.
        scale: guidance strength >= 1; 1 is off and costs nothing.
        interval: closed, in the solver's (shifted) time.
        both: the two velocities at once, which is asked in place of each inside the interval.

    Raises:
        ValueError: if the scale is below 1 or the interval does not lie in [0, 1].

    Source: Ho and Salimans 2022 (arXiv 2207.12598); interval: Kynkaanniemi et al. 2024 (arXiv 2404.07724).
    """
    return _extrapolate(null, conditional, scale, interval, both)


def internal(full: Velocity, early: Velocity, scale: float, interval: tuple[float, float] = (0.0, 1.0)) -> Velocity:
    """v_early + scale (v_full - v_early) while t is in the interval, else v_full; arguments as above.

    The weaker velocity is that of an output taken from an early layer of the same network.

    Source: Karras et al. 2024 (arXiv 2406.02507) with the early output of the same network as the weaker model.
    """
    return _extrapolate(early, full, scale, interval)


def parts(both: Both) -> tuple[Velocity, Velocity]:
    """Return two velocities that come from one function, which is evaluated once where both are asked at one state."""
    held: list[Any] = [None, None, None]

    def part(index: int) -> Velocity:
        def velocity(z: Any, t: float, r: float) -> Any:
            if held[0] is not z or held[1] != (t, r):
                held[:] = z, (t, r), both(z, t, r)
            return held[2][index]

        return velocity

    return part(0), part(1)


def _extrapolate(
    weak: Velocity, strong: Velocity, scale: float, interval: tuple[float, float], both: Both | None = None
) -> Velocity:
    if not scale >= 1:
        raise ValueError(f"a guidance scale must be at least 1 (1 is off), got {scale}")
    if not 0 <= interval[0] <= interval[1] <= 1:
        raise ValueError(f"a guidance interval must lie in [0, 1] and not be reversed, got {list(interval)}")
    if scale == 1:
        return strong
    low, high = map(to_float32, interval)

    def velocity(z: Any, t: float, r: float) -> Any:
        if not low <= to_float32(t) <= high:
            return strong(z, t, r)
        v, w = both(z, t, r) if both else (strong(z, t, r), weak(z, t, r))
        return w + scale * (v - w)

    return velocity
