"""Random numbers that depend on their purpose and place, never on the process that draws them.

The rule `noise: blake2b-1` of a config: the stream of one sample is a CPU generator seeded with (base + index) mod
2^32. In training, base is the first 4 bytes, little-endian, of blake2b("{seed}/{purpose}/{step}") and index the
position in the global batch; in sampling, base is that of blake2b("{seed}/sample") and index the sample's, and one
stream gives all numbers of a sample in order of use. No two samples of one step or one evaluation share a stream.
torch's CPU generator keeps 32 bits of its seed, so streams of different steps may coincide, at the rate of chance.
Numbers are drawn in float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from diffusionbench.sample import SAMPLE, noise_seed
from nanogen.moving import moved


def seed_sequence(seed: int, purpose: str, *index: int) -> np.random.SeedSequence:
    """Return the entropy of what is no noise: the order of the data and the initial weights.

    Args:
        seed: the run's seed, >= 0.
        purpose: different purposes never share a stream.
        index: integers >= 0, such as the epoch.
    """
    number = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    return np.random.SeedSequence([seed, number, *index])


def initial_seed(seed: int, purpose: str) -> int:
    """Return the 64-bit seed from which initial weights are drawn."""
    return int(seed_sequence(seed, purpose).generate_state(1, np.uint64)[0])


@dataclass(frozen=True)
class PositionalNoise:
    """The random numbers of B samples of one step of a training, by purpose; each sample has its own stream.

    Attributes:
        seed: the run's seed.
        indices: positions in the global batch; all >= 0.
        device: where the numbers go.
        step: finished updates.
        drawn: numbers that were drawn before, by purpose and shape; what `ahead` returned elsewhere.
    """

    seed: int
    indices: Sequence[int]
    device: str | torch.device = "cpu"
    step: int = 0
    drawn: dict[tuple[str, tuple[int, ...]], Tensor] = field(default_factory=dict)

    def normal(self, purpose: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Return standard normal float32 [B, *shape]."""
        return self._draw(Tensor.normal_, purpose, shape)

    def uniform(self, purpose: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Return uniform float32 [B, *shape] in [0, 1)."""
        return self._draw(Tensor.uniform_, purpose, shape)

    def shared(self, purpose: str) -> float:
        """Return a uniform number in [0, 1) that every sample of the step sees, in every process."""
        return replace(self, indices=(0,), device="cpu", drawn={}).uniform(purpose).item()

    def ahead(self, draw: Callable[[PositionalNoise], object]) -> dict[tuple[str, tuple[int, ...]], Tensor]:
        """Return what a function draws from this noise, on the CPU: a process that reads ahead sends it to another."""
        kept = _KeptDraws(self.seed, self.indices, step=self.step)
        draw(kept)
        return kept.drawn

    def _draw(self, fill: Callable[..., Tensor], purpose: str, shape: tuple[int, ...]) -> Tensor:
        if (purpose, shape) in self.drawn:
            return moved(self.drawn[purpose, shape], self.device)
        numbers = torch.empty(len(self.indices), *shape)
        base, generator = noise_seed(self.seed, f"{purpose}/{self.step}", 0), torch.Generator()
        for row, index in zip(numbers, self.indices, strict=True):
            fill(row, generator=generator.manual_seed((base + index) % 2**32))
        return moved(numbers, self.device)


class _KeptDraws(PositionalNoise):
    def _draw(self, fill: Callable[..., Tensor], purpose: str, shape: tuple[int, ...]) -> Tensor:
        self.drawn[purpose, shape] = numbers = super()._draw(fill, purpose, shape)
        return numbers


class SeededNoise:
    """The random numbers of B samples from one generator each, drawn in order of use.

    Args:
        seeds: one per sample, in 0..2^63 - 1.
        device: where the numbers go.
    """

    def __init__(self, seeds: Sequence[int], device: str | torch.device = "cpu") -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._device = device

    def normal(self, purpose: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Return the next standard normal float32 [B, *shape] of each stream."""
        return moved(torch.stack([torch.randn(shape, generator=one) for one in self._generators]), self._device)


def sampling_noise(seed: int, indices: Sequence[int], device: str | torch.device = "cpu") -> SeededNoise:
    """Return the noise of images of an evaluation or a grid by their sample indices, as its axis seeds them."""
    return SeededNoise([noise_seed(seed, SAMPLE, index) for index in indices], device)
