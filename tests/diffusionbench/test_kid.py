"""KID against a loop over subsets written out in full."""

import numpy as np
import pytest
import torch
from making import make_metric, update

from diffusionbench.errors import RequestError
from diffusionbench.metrics.kid import kid
from diffusionbench.sample import Sample
from diffusionbench.stats import jackknife

WIDTH = 6


def features(count: int, seed: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32) + np.float32(shift)


def mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased squared MMD with the cubic kernel, pair by pair."""

    def kernel(a, b):
        return (float(np.dot(a.astype(float), b.astype(float))) / WIDTH + 1) ** 3

    n, m = len(x), len(y)
    xx = sum(kernel(x[i], x[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    yy = sum(kernel(y[i], y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    xy = sum(kernel(a, b) for a in x for b in y) / (n * m)
    return xx + yy - 2 * xy


def draws(count_x: int, count_y: int, subsets: int, size: int, seed: int):
    """The legacy stream: generated indices first, then the reference's, subset after subset."""
    stream = np.random.RandomState(seed)
    for _ in range(subsets):
        x = stream.choice(count_x, size, replace=False)
        yield x, stream.choice(count_y, size, replace=False)


@pytest.mark.parametrize("seed", [2020, 7])
def test_kid_equals_the_loop(seed):
    x, y = features(40, 0), features(30, 1, 0.5)
    values = [mmd(x[i], y[j]) for i, j in draws(40, 30, 4, 12, seed)]
    mean, std = kid(x, y, subsets=4, subset_size=12, seed=seed)
    # Kernels are in the precision of the features.
    assert mean == pytest.approx(np.mean(values), rel=1e-6)
    assert std == pytest.approx(np.std(values), rel=1e-6)
    exact = kid(x.astype(float), y.astype(float), subsets=4, subset_size=12, seed=seed)
    assert exact == pytest.approx((np.mean(values), np.std(values)), rel=1e-9)


def test_the_published_seed_is_the_default():
    x, y = features(40, 0), features(40, 1)
    assert kid(x, y, 3, 20) == kid(x, y, 3, 20, seed=2020) != kid(x, y, 3, 20, seed=2021)


def test_two_points_by_hand():
    # One subset of everything: k(a, b) = (a b + 1)^3 in one dimension.
    mean, std = kid([[0.0], [1.0]], [[2.0], [3.0]], subsets=1, subset_size=2)
    assert mean == pytest.approx(1.0 + 343.0 - 2 * (1 + 1 + 27 + 64) / 4)
    assert std == 0.0


def test_equal_distributions_average_to_zero_and_may_be_negative():
    values = [kid(features(60, 2 * s), features(60, 2 * s + 1), subsets=1, subset_size=60)[0] for s in range(60)]
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(60)


def test_tensors_and_scales():
    x, y = features(50, 3), features(50, 4)
    assert kid(torch.from_numpy(x), torch.from_numpy(y), 5, 20) == kid(x, y, 5, 20)
    assert kid(x, y + 3, 5, 20)[0] > kid(x, y + 1, 5, 20)[0] > kid(x, y, 5, 20)[0]


@pytest.mark.parametrize(
    "x, y, options, message",
    [
        ((19, 0), (40, 1), {"subset_size": 20}, "generated images, got 19"),
        ((40, 0), (19, 1), {"subset_size": 20}, "reference images, got 19"),
        ((40, 0), (40, 1), {"subset_size": 1}, "at least 2"),
        ((40, 0), (40, 1), {"subset_size": 20, "subsets": 0}, "at least 1"),
        ((40, 0), (40, 1), {}, "subsets of 1000"),
    ],
)
def test_sets_that_are_too_small_are_refused(x, y, options, message):
    with pytest.raises(RequestError, match=message):
        kid(features(*x), features(*y), **options)


def test_other_widths_are_refused():
    with pytest.raises(RequestError, match="width"):
        kid(features(10, 0), features(10, 1)[:, :3], 1, 5)


class Real:
    name = "real"

    def features(self, judge):
        return features(30, 1, 0.5)


def test_the_metrics_jackknife_leaves_groups_out_of_the_same_subsets(monkeypatch):
    monkeypatch.setattr("diffusionbench.metrics.kid._SUBSETS", 3)
    x = features(40, 0)
    metric = make_metric("kid_mean", Real(), min_samples=20)
    update(metric, {"features": x}, [Sample(index) for index in range(40)])
    estimate = metric.compute()
    pairs = list(draws(40, 30, 3, 20, 2020))
    y = features(30, 1, 0.5)
    assert estimate.value == pytest.approx(np.mean([mmd(x[i], y[j]) for i, j in pairs]), rel=1e-6)
    left = [np.mean([mmd(x[i[i % 10 != group]], y[j]) for i, j in pairs]) for group in range(10)]
    assert estimate.stderr == pytest.approx(jackknife(left), rel=1e-5)
    assert list(estimate.extra) == ["kid_std"]
