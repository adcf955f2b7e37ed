import numpy as np
import pytest
import torch

from diffusionbench.errors import RequestError
from diffusionbench.metrics.kid import _KernelSums, _over_subsets, kid
from diffusionbench.stats import GROUPS


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def plain_mmd(x, y):
    """The estimator, one pair of images at a time."""

    def kernel(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    within = [sum(kernel(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j) for s in (x, y)]
    across = sum(kernel(a, b) for a in x for b in y)
    n, m = len(x), len(y)
    return within[0] / (n * (n - 1)) + within[1] / (m * (m - 1)) - 2 * across / (n * m)


def test_one_subset_is_the_estimator_written_out():
    x, y = normal(0, 9, 4), normal(1, 7, 4) + 0.5
    sums = _KernelSums(x, y, np.zeros(9, dtype=int))
    assert sums.mmd(np.ones(GROUPS, dtype=bool)) == pytest.approx(plain_mmd(x, y), rel=1e-12)


def test_leaving_a_group_out_is_computing_without_it():
    x, y, groups = normal(2, 25, 4), normal(3, 12, 4), np.arange(25) % GROUPS
    sums = _KernelSums(x, y, groups)
    for group in range(GROUPS):
        keep = np.arange(GROUPS) != group
        assert sums.mmd(keep) == pytest.approx(plain_mmd(x[groups != group], y), rel=1e-12)


def test_subsets_follow_the_published_stream():
    x, y = normal(4, 30, 3), normal(5, 40, 3)
    stream = np.random.RandomState(7)
    values = []
    for _ in range(4):
        i, j = (stream.choice(n, 10, replace=False) for n in (30, 40))
        values.append(plain_mmd(x[i], y[j]))
    mean, std = kid(torch.from_numpy(x), y, subsets=4, subset_size=10, seed=7)
    assert (mean, std) == pytest.approx((np.mean(values), np.std(values)), rel=1e-10)


def test_subsets_of_the_whole_set_against_itself():
    # All of a set against all of itself: unbiased within, biased across, so the value is negative and closed form.
    x = normal(6, 20, 5)
    kernel = (x @ x.T / 5 + 1) ** 3
    off_diagonal, everything = kernel.sum() - np.trace(kernel), kernel.sum()
    expected = 2 * off_diagonal / (20 * 19) - 2 * everything / 400
    assert expected < 0
    assert kid(x, x, subsets=2, subset_size=20) == pytest.approx((expected, 0), abs=1e-12)


def test_unbiased_where_both_sets_come_from_one_distribution():
    mean, std = kid(normal(7, 2000, 8), normal(8, 2000, 8), subsets=40, subset_size=100)
    assert abs(mean) < 3 * std / np.sqrt(20)
    shifted, _ = kid(normal(7, 2000, 8) + 0.5, normal(8, 2000, 8), subsets=40, subset_size=100)
    assert shifted > 10 * abs(mean)


def test_a_replicate_of_one_image_is_undefined():
    _, without = _over_subsets(normal(9, 2, 3), normal(10, 5, 3), np.array([0, 1]), 1, 2, 0)
    assert np.isnan(without[0, :2]).all()


@pytest.mark.parametrize(
    "generated, reference, options, match",
    [
        (9, 20, {"subset_size": 10}, "10 generated images, got 9|as many generated images, got 9"),
        (20, 9, {"subset_size": 10}, "reference images, got 9"),
        (20, 20, {"subset_size": 1}, "at least 2"),
        (20, 20, {}, "subsets of 1000"),
    ],
)
def test_sets_smaller_than_a_subset_are_refused(generated, reference, options, match):
    with pytest.raises(RequestError, match=match):
        kid(np.ones((generated, 3)), np.ones((reference, 3)), **options)
