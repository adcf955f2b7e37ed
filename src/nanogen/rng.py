"""Random numbers that depend on what they are for, never on who draws them.

Training draws are a function of (seed, purpose, step, position in the global batch), sampling draws of (seed,
purpose, sample index): ranks, batch sizes, accumulation, restarts and evaluations change nothing. All are drawn on
the CPU in float32 (plan section 2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def seed_sequence(seed: int, purpose: str, *index: int) -> np.random.SeedSequence:
    """The entropy behind one stream.

    Args:
        seed: the run's or evaluation's seed, >= 0.
        purpose: what the numbers are for; different purposes never share a stream.
        index: integers >= 0 that place the draw, such as (step, position) or (sample,).
    """
    name = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    return np.random.SeedSequence([seed, name, *index])


def generator(seed: int, purpose: str, *index: int) -> torch.Generator:
    """A CPU torch generator seeded with 64 bits of `seed_sequence`."""
    import torch

    return torch.Generator().manual_seed(int(seed_sequence(seed, purpose, *index).generate_state(1, np.uint64)[0]))


@dataclass(frozen=True)
class Draws:
    """The random numbers of some samples, by purpose; each sample has its own stream.

    Attributes:
        seed: the run's or evaluation's seed.
        places: one index tuple per sample: (step, position) in training, (sample,) in sampling.
        device: where the numbers go.
    """

    seed: int
    places: Sequence[tuple[int, ...]]
    device: str | torch.device = "cpu"

    def normal(self, purpose: str, shape: tuple[int, ...] = ()) -> torch.Tensor:
        """Standard normal float32 [B, *shape]."""
        return self._draw("randn", purpose, shape)

    def uniform(self, purpose: str, shape: tuple[int, ...] = ()) -> torch.Tensor:
        """Uniform float32 [B, *shape] in [0, 1)."""
        return self._draw("rand", purpose, shape)

    def _draw(self, kind: str, purpose: str, shape: tuple[int, ...]) -> torch.Tensor:
        import torch

        draw = getattr(torch, kind)
        rows = [draw(shape, generator=generator(self.seed, purpose, *place)) for place in self.places]
        return torch.stack(rows).to(self.device, non_blocking=True)


class SeededDraws:
    """The random numbers of samples whose protocol gives each generator its seed: one stream a sample, in order of use.

    Args:
        seeds: one per sample, in 0..2^63 - 1.
        device: where the numbers go.
    """

    def __init__(self, seeds: Sequence[int], device: str | torch.device = "cpu") -> None:
        import torch

        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._device = device

    def normal(self, purpose: str, shape: tuple[int, ...] = ()) -> torch.Tensor:
        """The next standard normal float32 [B, *shape] of each stream."""
        import torch

        return torch.stack([torch.randn(shape, generator=one) for one in self._generators]).to(self._device)
