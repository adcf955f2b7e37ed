"""Counting by merging equals comparing every pair, with ties and without, at sizes around each block."""

import numpy as np
import pytest

from diffusionbench.study.concordance import permuted_concordance, resampled_tau
from diffusionbench.study.correlate import kendall


def pairs(a, b):
    return np.triu(np.sign(a[:, None] - a) * np.sign(b[:, None] - b)).sum()


def tau(a, b):
    untied = [np.triu(np.abs(np.sign(v[:, None] - v))).sum() for v in (a, b)]
    return pairs(a, b) / np.sqrt(untied[0] * untied[1]) if min(untied) else np.nan


@pytest.mark.parametrize("n", [3, 7, 8, 9, 16, 17, 33, 70])
@pytest.mark.parametrize("ties", ["", "a", "b", "ab"])
def test_every_pair_is_counted_once(n, ties):
    rng = np.random.default_rng(n)
    a, b = rng.standard_normal((2, n))
    a, b = (np.round(v) if name in ties else v for name, v in (("a", a), ("b", b)))
    places = rng.integers(n, size=(20, n))
    counts = np.stack([np.bincount(chosen, minlength=n) for chosen in places]).astype(float)
    expected = [tau(a[chosen], b[chosen]) for chosen in places]
    np.testing.assert_allclose(resampled_tau(a, b, counts), expected, rtol=1e-14)
    orders = np.stack([rng.permutation(n) for _ in range(20)])
    assert permuted_concordance(a, b, orders).tolist() == [pairs(a, b[order]) for order in orders]


def test_a_constant_resample_has_no_tau():
    counts = np.array([[3.0, 0, 0], [2, 1, 0], [0, 1, 2]])
    found = resampled_tau(np.array([1.0, 1, 2]), np.array([1.0, 2, 3]), counts)
    assert np.isnan(found[:2]).all()
    assert found[2] == 1


def test_many_points_agree_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    a = rng.standard_normal(3000).round(1)
    b = (a + rng.standard_normal(3000)).round(2)
    assert kendall(a, b, draws=20).value == pytest.approx(stats.kendalltau(a, b).statistic, rel=1e-12)
