"""Streams of noise: the rule `blake2b-1`, and that no two places share their numbers."""

import pytest
import torch

from diffusionbench.sample import noise_seed
from nanogen.rng import PositionalNoise, SeededNoise, sampling_noise


# The first four bytes of `printf TEXT | b2sum`, read from the right.
@pytest.mark.parametrize(
    "seed, purpose, wanted",
    [
        (0, "image", 0x95F4C065),  # 0/image: 65c0f495
        (42, "noise/0", 0xD6CD7BF8),  # 42/noise/0: f87bcdd6
        (42, "noise/7", 0x55ABDF0A),  # 42/noise/7: 0adfab55
        (2**64 - 1, "drop/3", 0x63F9391A),  # 18446744073709551615/drop/3: 1a39f963
    ],
)
def test_the_base_is_the_start_of_a_hash(seed, purpose, wanted):
    assert noise_seed(seed, purpose, 0) == wanted
    assert noise_seed(seed, purpose, 2**32 + 5 - wanted) == 5


@pytest.mark.parametrize("step", [0, 7])
@pytest.mark.parametrize("shape", [(), (1,), (3, 5, 7)])
def test_each_sample_has_a_generator_of_its_own(shape, step):
    noise = PositionalNoise(42, [0, 3, 2**32 - 1], step=step)
    base = noise_seed(42, f"noise/{step}", 0)
    for kind, draw in (("normal", torch.randn), ("uniform", torch.rand)):
        alone = [draw(shape, generator=torch.Generator().manual_seed((base + k) % 2**32)) for k in (0, 3, 2**32 - 1)]
        found = getattr(noise, kind)("noise", shape)
        assert torch.equal(found, torch.stack(alone))
        assert found.dtype == torch.float32


def test_streams_are_told_apart_by_their_first_values():
    """Seeds that differ may give one stream: torch's CPU generator keeps 32 of their 64 bits."""
    kinds = [(0, "noise", 0), (1, "noise", 0), (0, "time", 0), (0, "noise", 1), (0, "noise", 2)]
    first = torch.cat([PositionalNoise(a, range(2048), step=step).normal(use, (4,)) for a, use, step in kinds])
    assert len(first.unique(dim=0)) == len(first)


def test_noise_belongs_to_its_place():
    whole = PositionalNoise(3, range(6), step=5).normal("noise", (2, 4))
    assert torch.equal(PositionalNoise(3, (4, 1), step=5).normal("noise", (2, 4)), whole[[4, 1]])
    many = PositionalNoise(0, range(2000), step=0).normal("noise", (8,))
    assert many.mean().item() == pytest.approx(0, abs=0.03)
    assert many.std().item() == pytest.approx(1, abs=0.02)


def test_given_seeds_are_drawn_in_order_of_use():
    noise = SeededNoise([7, 2**63 - 1])
    for row in range(2):
        stream = torch.Generator().manual_seed([7, 2**63 - 1][row])
        first, second = torch.randn(3, generator=stream), torch.randn(2, generator=stream)
        if row == 0:
            found = noise.normal("image", (3,)), noise.normal("class vector", (2,))
        assert torch.equal(found[0][row], first)
        assert torch.equal(found[1][row], second)


def test_a_sample_has_one_stream_by_the_evaluations_seed():
    noise = sampling_noise(4, [3])
    stream = torch.Generator().manual_seed(noise_seed(4, "sample", 3))
    for purpose, shape in (("image", (2, 3)), ("class vector", (5,))):
        assert torch.equal(noise.normal(purpose, shape)[0], torch.randn(shape, generator=stream))
