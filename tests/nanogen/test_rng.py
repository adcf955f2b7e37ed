"""Streams of random numbers: drawn at once, the same as one by one."""

import pytest
import torch

from nanogen.rng import Draws, generator, seeds


@pytest.mark.parametrize("seed", [0, 42, 2**32 - 1, 2**32, 2**63])
@pytest.mark.parametrize("places", [[(1, 2), (0, 0), (7, 2**32 - 1)], [(5,)], [(1, 2, 3), (3, 2, 1)]])
def test_seeds_at_once_are_numpys_seed_sequences(seed, places):
    for purpose in ("noise", "time"):
        assert seeds(seed, purpose, places) == [generator(seed, purpose, *place).initial_seed() for place in places]


@pytest.mark.parametrize("shape", [(), (1,), (3, 5, 7)])
def test_draws_are_those_of_each_samples_own_generator(shape):
    draws = Draws(3, [(9, position) for position in range(4)])
    for kind, draw in (("normal", torch.randn), ("uniform", torch.rand)):
        alone = [draw(shape, generator=generator(3, "a purpose", 9, position)) for position in range(4)]
        torch.testing.assert_close(getattr(draws, kind)("a purpose", shape), torch.stack(alone), rtol=0, atol=0)
