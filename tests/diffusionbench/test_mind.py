"""MIND against closed forms, and against the formula written out over the same random stream."""

import numpy as np
import pytest
import torch
from making import make_metric, update

from diffusionbench.errors import RequestError
from diffusionbench.metrics import mind as module
from diffusionbench.metrics.mind import mind
from diffusionbench.sample import Sample, plain_item
from diffusionbench.stats import jackknife

WIDTH = 6


def features(count: int, seed: int, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def lines(generator: torch.Generator, count: int, width: int = WIDTH) -> np.ndarray:
    drawn = torch.randn(count, width, generator=generator)
    return (drawn / drawn.norm(dim=1, keepdim=True).clamp(min=1e-12)).double().numpy()


def written_out(x, y, directions) -> np.ndarray:
    """3 d / n times the sum over ranks, for each direction, in float64."""
    apart = [np.sort(x.astype(float) @ line) - np.sort(y.astype(float) @ line) for line in directions]
    return np.array([3 * x.shape[1] / len(x) * float(one @ one) for one in apart])


def test_identical_sets_give_0():
    x = features(50, 0)
    assert mind(x, x) == (0.0, 0.0)
    assert mind(x, x[np.random.default_rng(1).permutation(50)])[0] == pytest.approx(0, abs=1e-12)


def test_a_shift_gives_three_times_its_square():
    x, shift = features(40, 0), np.array([1.0, -2, 0, 0.5, 0, 0], np.float32)
    value, error = mind(x + shift, x)
    assert abs(value - 3 * float(shift @ shift)) < 4 * error
    # Along one axis alone the squares of a random direction's parts average to 1 / d.
    drawn = lines(torch.Generator().manual_seed(2020), 1000)
    assert value == pytest.approx(3 * WIDTH * float(((drawn @ shift) ** 2).mean()), rel=1e-5)


def test_a_scale_in_one_dimension():
    # Sorted values meet their own multiples: 3 (a - 1)^2 mean x^2, whatever the direction, which is 1 or -1.
    x = features(30, 0, width=1)
    assert mind(2.5 * x, x)[0] == pytest.approx(3 * 1.5**2 * float((x.astype(float) ** 2).mean()), rel=1e-5)


@pytest.mark.parametrize("seed", [2020, 7])
def test_equal_sizes_draw_directions_alone(seed):
    x, y = features(40, 0), features(40, 1) * 1.3 + 0.2
    wanted = written_out(x, y, lines(torch.Generator().manual_seed(seed), 1000))
    value, error = mind(x, y, seed=seed)
    assert value == pytest.approx(wanted.mean(), rel=1e-5)
    assert error == pytest.approx(wanted.std() / np.sqrt(1000), rel=1e-5)


@pytest.mark.parametrize("sizes", [(40, 25), (25, 40)])
def test_of_the_larger_set_a_random_part_counts_which_is_drawn_first(sizes):
    x, y = features(sizes[0], 0), features(sizes[1], 1) + 1
    generator = torch.Generator().manual_seed(2020)
    part = torch.randperm(40, generator=generator)[:25].numpy()
    drawn = lines(generator, 1000)
    wanted = written_out(x[part] if len(x) == 40 else x, y[part] if len(y) == 40 else y, drawn).mean()
    assert mind(x, y)[0] == pytest.approx(wanted, rel=1e-5)


def test_blocks_of_directions_and_rows_change_nothing(monkeypatch):
    x, y = features(50, 0), features(61, 1) + 1
    whole = mind(x, y)
    monkeypatch.setattr(module, "_AT_ONCE", 7)
    monkeypatch.setattr(module, "_TILE", 16)
    assert mind(x, y) == pytest.approx(whole, rel=1e-6)


def test_the_jackknife_leaves_groups_out_against_evenly_spaced_ranks():
    count = 40
    x, y = features(count, 0) + 1, features(count, 1)

    class Real:
        name = "real"

        def features(self, judge):
            return y

    metric = make_metric("mind_digits", Real())
    update(metric, {"features": x}, [Sample(place, plain_item(0)) for place in range(count)])
    found = metric.compute()
    drawn, replicates = lines(torch.Generator().manual_seed(2020), 1000), []
    for group in range(10):
        left = x[np.arange(count) % 10 != group]
        ranks = ((np.arange(36) + 0.5) * count / 36).astype(int)
        apart = [np.sort(left @ line) - np.sort(y.astype(float) @ line)[ranks] for line in drawn]
        replicates.append(3 * WIDTH / 36 * float(np.mean([one @ one for one in apart])))
    assert found.value == pytest.approx(written_out(x, y, drawn).mean(), rel=1e-5)
    assert found.stderr == pytest.approx(jackknife(replicates), rel=1e-4)


@pytest.mark.parametrize(
    "given, words",
    [
        (([[0.0]], [[0.0, 1.0]]), "width 1, reference features 2"),
        (([[np.nan]], [[0.0]]), "not finite"),
        (([[0.0]], [[0.0]], 0), "at least 1 direction"),
    ],
)
def test_bad_input_is_refused(given, words):
    with pytest.raises(RequestError, match=words):
        mind(*given)
