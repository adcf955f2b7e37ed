"""Random numbers that depend on what they are for, never on who draws them.

Training draws are a function of (seed, purpose, step, position in the global batch), sampling draws of (seed,
purpose, sample index): ranks, batch sizes, accumulation, restarts and evaluations change nothing. All are drawn on
the CPU in float32 (plan section 2).
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch


def seed_sequence(seed: int, purpose: str, *index: int) -> np.random.SeedSequence:
    """Return the entropy behind one stream.

    Args:
        seed: the run's or evaluation's seed, >= 0.
        purpose: what the numbers are for; different purposes never share a stream.
        index: integers >= 0 that place the draw, such as (step, position) or (sample,).
    """
    return np.random.SeedSequence([seed, _number_of(purpose), *index])


def _number_of(purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")


def generator(seed: int, purpose: str, *index: int) -> torch.Generator:
    """Return a CPU torch generator seeded with 64 bits of `seed_sequence`."""
    import torch

    return torch.Generator().manual_seed(int(seed_sequence(seed, purpose, *index).generate_state(1, np.uint64)[0]))


Words = NDArray[np.uint32]
# Of numpy's SeedSequence: first constant and multiplier of the hash going in and coming out, factors of the mix.
INTO = (0x43B0D7E5, 0x931E8875)
OUT_OF = (0x8B51F9DD, 0x58F38DED)
MIX = (np.uint32(0xCA01F9DD), np.uint32(0x4973F715))
POOL = 4


def _hashed(value: Words, constant: int, multiplier: int) -> tuple[Words, int]:
    following = constant * multiplier % 2**32
    return _folded((value ^ np.uint32(constant)) * np.uint32(following)), following


def _mixed(x: Words, y: Words) -> Words:
    return _folded(x * MIX[0] - y * MIX[1])


def _folded(value: Words) -> Words:
    return value ^ (value >> np.uint32(16))


def seeds(seed: int, purpose: str, places: Sequence[tuple[int, ...]]) -> list[int]:
    """The 64-bit seeds of many streams at once: `generator(seed, purpose, *place).initial_seed()` for each place.

    One `SeedSequence` a sample costs more than a sample's noise, so its rule is written out over arrays.

    Args:
        places: index tuples of one length, with entries below 2^32.

    Source: Melissa O'Neill's seed_seq, as numpy.random.SeedSequence documents it.
    """
    whole = (seed, _number_of(purpose))
    words = [number >> shift & 0xFFFFFFFF for number in whole for shift in range(0, max(number.bit_length(), 1), 32)]
    index = np.asarray(places, np.uint32)
    entropy = [np.full(len(index), word, np.uint32) for word in words] + list(index.T)
    entropy += [np.zeros(len(index), np.uint32)] * (POOL - len(entropy))
    constant, multiplier = INTO
    pool = []
    for word in entropy[:POOL]:
        value, constant = _hashed(word, constant, multiplier)
        pool.append(value)
    for source, target in itertools.permutations(range(POOL), 2):
        value, constant = _hashed(pool[source], constant, multiplier)
        pool[target] = _mixed(pool[target], value)
    for word, target in itertools.product(entropy[POOL:], range(POOL)):
        value, constant = _hashed(word, constant, multiplier)
        pool[target] = _mixed(pool[target], value)
    constant, multiplier = OUT_OF
    low, constant = _hashed(pool[0], constant, multiplier)
    high, _ = _hashed(pool[1], constant, multiplier)
    return (low.astype(np.uint64) | high.astype(np.uint64) << np.uint64(32)).tolist()


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
        return self._draw("normal_", purpose, shape)

    def uniform(self, purpose: str, shape: tuple[int, ...] = ()) -> torch.Tensor:
        """Uniform float32 [B, *shape] in [0, 1)."""
        return self._draw("uniform_", purpose, shape)

    def _draw(self, kind: str, purpose: str, shape: tuple[int, ...]) -> torch.Tensor:
        import torch

        numbers = torch.empty(len(self.places), *shape)
        stream = torch.Generator()
        for row, start in zip(numbers, seeds(self.seed, purpose, self.places), strict=True):
            stream.manual_seed(start)
            getattr(row, kind)(generator=stream)
        return numbers.to(self.device, non_blocking=True)


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
        """Return the next standard normal float32 [B, *shape] of each stream."""
        import torch

        return torch.stack([torch.randn(shape, generator=one) for one in self._generators]).to(self._device)
