"""How many threads a run on a CPU computes with: measured at the start of its training, then kept in its folder.

OpenMP's threads wait awake for each other, by default for milliseconds. On a machine with other work the one that is
waited for is often not running, and two threads become many times slower than one (benchmarks/threads.py). So waiting
is cut short here, and a few steps decide between one thread and all.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nanogen.log import say

# Rounds of OpenMP's waiting loop before a thread sleeps: longer than the pauses between two operations of a step, and
# shorter than the turn of another process.
SPINS = "2000"
# Steps of each number of threads, and seconds after which no further one is begun.
_STEPS, _SECONDS = 3, 10.0


def limit_waiting() -> None:
    """Let idle threads sleep early, unless the user chose otherwise; OpenMP reads this once, when torch is loaded."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def settle(
    kept: int | None, begun: bool, device: str, trial: Callable[[], Callable[[], object]]
) -> tuple[int | None, float | None]:
    """Set the number of threads of this process for the run to keep: other numbers round differently.

    Args:
        kept: what the run says already, which holds.
        begun: whether steps were made; a run that does not say its threads then keeps torch's number.
        trial: returns a function that makes one training step without a trace.

    Returns:
        The number, None under torchrun, on accelerators, and where the user sets OMP_NUM_THREADS: nothing is chosen
        there; and the seconds of a step with it, None where none was measured.
    """
    import torch

    if not _is_free(device):
        return None, None
    most, seconds = torch.get_num_threads(), None
    if kept is None and (begun or most == 1):
        kept = most
    elif kept is None:
        kept, seconds = _measured(most, trial())
    torch.set_num_threads(kept)
    return kept, seconds


@contextmanager
def as_trained(kept: int | None, device: str) -> Iterator[None]:
    """Compute with the threads that a run keeps, unless somebody chose others or this machine has fewer."""
    import torch

    most = torch.get_num_threads()
    if kept is not None and kept < most and _is_free(device):
        torch.set_num_threads(kept)
    try:
        yield
    finally:
        torch.set_num_threads(most)


def _is_free(device: str) -> bool:
    """Return whether neither an accelerator nor torchrun nor the user decides."""
    return device == "cpu" and "WORLD_SIZE" not in os.environ and "OMP_NUM_THREADS" not in os.environ


def _measured(most: int, step: Callable[[], object]) -> tuple[int, float]:
    """Return the faster one of 1 and `most` threads and the seconds of its step, after telling both."""
    import torch

    seconds: dict[int, list[float]] = defaultdict(list)
    begun = time.perf_counter()
    # In turns, so that both meet the same machine; the first step of each warms up.
    for _ in range(1 + _STEPS):
        for number in (most, 1):
            torch.set_num_threads(number)
            started = time.perf_counter()
            step()
            seconds[number].append(time.perf_counter() - started)
        if time.perf_counter() - begun > _SECONDS:
            break
    typical = {number: statistics.median(found[1:] or found) for number, found in seconds.items()}
    best = min(typical, key=typical.__getitem__)
    told = ", ".join(f"{1e3 * typical[number]:.0f} ms with {number}" for number in sorted(typical))
    say(f"{best} thread(s): a step takes {told}; OMP_NUM_THREADS=N sets another number")
    return best, typical[best]
