"""Coefficients against closed forms and the known figures of the published study."""

import itertools
import math

import numpy as np
import pytest

from diffusionbench.study import correlate, published
from diffusionbench.study.correlate import (
    fisher_interval,
    fit_line,
    kendall,
    mid_ranks,
    partial,
    pearson,
    permuted_concordance,
    resampled_tau,
    spearman,
)
from diffusionbench.study.points import select_points

Y = ("geneval", "dpgbench", "genaibench", "simpleeval")
KNOWN = [
    (published.BLOG, "none", (), (-0.6659, -0.6422, -0.8115, -0.8439), 24),
    (published.BLOG, "none", ("latent",), (-0.3017, -0.3622), 21),
    (published.PAPER, "cfg", (), (-0.7695, -0.7546, -0.7157), 24),
    (published.PAPER, "none", (), (-0.6458, -0.6629, -0.8122), 24),
    (published.PAPER, "cfg", ("latent",), (-0.5553, -0.5803, -0.3766), 21),
    (published.PAPER, "none", ("latent",), (-0.2671, -0.3687, -0.6201), 21),
]


@pytest.mark.parametrize("score_set, guidance, family, expected, n", KNOWN)
def test_published_study(score_set, guidance, family, expected, n):
    for metric, r in zip(Y, expected, strict=False):
        chosen = select_points(
            published.records(), "fid", metric, guidance=guidance, score_set=score_set, family=family
        ).points
        found = pearson([p.x for p in chosen], [p.y for p in chosen], draws=0)
        assert found.n == n
        assert round(found.value, 4) == r


def test_closed_forms():
    x = np.arange(6.0)
    for coefficient in (pearson, spearman, kendall):
        assert coefficient(x, 2 * x + 1, draws=0).value == 1.0
        assert coefficient(x, -x, draws=0).value == -1.0
    assert pearson([1, 2, 3], [1, 3, 2], draws=0).value == pytest.approx(0.5)
    assert kendall([1, 2, 3], [1, 3, 2], draws=0).value == pytest.approx(1 / 3)
    # Monotone but curved: ranks agree, the straight line does not.
    assert spearman(x, np.exp(x), draws=0).value == 1.0
    assert pearson(x, np.exp(x), draws=0).value < 0.9


def test_ties():
    assert mid_ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]
    # 5 untied pairs in x, 6 in y, 5 concordant: tau-b = 5 / sqrt(5 * 6).
    assert kendall([1, 1, 2, 3], [1, 2, 3, 4], draws=0).value == pytest.approx(5 / math.sqrt(30))
    assert spearman([1, 1, 2, 3], [1, 2, 3, 4], draws=0).value == pytest.approx(
        np.corrcoef([1.5, 1.5, 3, 4], [1, 2, 3, 4])[0, 1]
    )


@pytest.mark.parametrize("coefficient", [pearson, spearman, kendall])
def test_undefined(coefficient):
    for few in ([], [1.0], [1.0, 2.0]):
        found = coefficient(few, few)
        assert found.value is None
        assert found.interval is None
        assert found.p_value is None
        assert "fewer than 3" in found.note
        assert math.isnan(float(found))
    three = coefficient([1, 2, 3], [1, 3, 2])
    assert three.value is not None
    assert three.interval is None
    assert three.fisher is None
    assert "4 points" in three.note
    constant = coefficient([5.0] * 6, [1, 2, 3, 4, 5, 6])
    assert constant.value is None
    assert "x is the same" in constant.note
    # 0.1 + 0.2 style rounding must not turn a constant into a variable, nor scale hide variation.
    assert coefficient([1e9, 1e9 + 1, 1e9 + 2, 1e9 + 3], [1, 2, 3, 4], draws=0).value == pytest.approx(1)
    with pytest.raises(ValueError, match="equal length"):
        coefficient([1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="finite"):
        coefficient([1, 2, math.nan], [1, 2, 3])


def test_fisher_interval():
    low, high = fisher_interval(0.5, 28)
    assert math.atanh(0.5) - math.atanh(low) == pytest.approx(1.959963984540054 / 5)
    assert math.atanh(high) - math.atanh(0.5) == pytest.approx(1.959963984540054 / 5)
    assert fisher_interval(0.5, 3) is None
    assert fisher_interval(1.0, 30) is None
    assert fisher_interval(0.5, 28, given=2) == fisher_interval(0.5, 26)


@pytest.mark.parametrize("coefficient", [pearson, spearman, kendall])
def test_permutation_p_is_exact_for_few_points(coefficient):
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=5).round(1), rng.normal(size=5).round(1)
    every = [coefficient(x, y[list(order)], draws=0).value for order in itertools.permutations(range(5))]
    observed = coefficient(x, y).value
    expected = np.mean([abs(r) >= abs(observed) - 1e-9 for r in every])
    assert coefficient(x, y).p_value == pytest.approx(expected)


@pytest.mark.parametrize("coefficient", [pearson, spearman, kendall])
def test_draws_match_the_slow_way(coefficient):
    rng = np.random.default_rng(5)
    x = rng.normal(size=12).round(1)
    y = (0.6 * x + rng.normal(size=12)).round(1)
    slow = np.random.default_rng(9)
    resamples = [slow.integers(12, size=12) for _ in range(500)]
    boot = [coefficient(x[i], y[i], draws=0).value for i in resamples]
    orders = [slow.permutation(12) for _ in range(500)]
    drawn = [coefficient(x, y[o], draws=0).value for o in orders]
    found = coefficient(x, y, draws=20_000, seed=1)
    if coefficient is not pearson:
        assert found.interval == pytest.approx(np.quantile(boot, [0.025, 0.975]), abs=0.07)
    assert found.p_value == pytest.approx(np.mean(np.abs(drawn) >= abs(found.value)), abs=0.03)


def test_seeds():
    x, y = np.random.default_rng(0).normal(size=(2, 20))
    assert pearson(x, y, seed=1) == pearson(x, y, seed=1)
    assert spearman(x, y, seed=1).interval != spearman(x, y, seed=2).interval
    assert (pearson(x, y, draws=123).draws, pearson(x, y, seed=7).seed) == (123, 7)


# What a coefficient is of, in normal data with correlation rho.
TRUTHS = {
    pearson: lambda rho: rho,
    spearman: lambda rho: 6 / math.pi * math.asin(rho / 2),
    kendall: lambda rho: 2 / math.pi * math.asin(rho),
}


def coverage(coefficient, n, rho, studies, draws):
    """The share of studies of n points whose interval holds the truth."""
    rng = np.random.default_rng(n)
    truth, hits = TRUTHS[coefficient](rho), 0
    for _ in range(studies):
        x, noise = rng.normal(size=(2, n))
        low, high = coefficient(x, rho * x + math.sqrt(1 - rho**2) * noise, draws=draws).interval
        hits += low <= truth <= high
    return hits / studies


@pytest.mark.parametrize("n", [12, 18, 24])
def test_pearsons_interval_covers(n):
    for rho in (0.0, 0.6, 0.9):
        # Four standard errors of a share of 2,000; percentiles of a bootstrap lie at 0.90 to 0.93.
        assert coverage(pearson, n, rho, 2000, draws=0) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("coefficient", [spearman, kendall])
def test_intervals_of_rank_coefficients_cover(coefficient):
    assert coverage(coefficient, 18, 0.6, 150, draws=200) > 0.90


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("n", [12, 16, 20, 24])
@pytest.mark.parametrize("coefficient", [pearson, spearman, kendall])
def test_intervals_cover(coefficient, n, rho):
    # Ranks of few points take few values: theirs may cover more than asked, never less.
    exact = coefficient is pearson
    found = coverage(coefficient, n, rho, 20_000 if exact else 2000, draws=0 if exact else 1000)
    assert (0.943 if exact else 0.935) < found < (0.962 if exact else 1)


def test_the_partial_interval_covers():
    rng, hits = np.random.default_rng(1), 0
    groups = [place % 3 for place in range(18)]
    for _ in range(1000):
        x, noise, level = rng.normal(size=(3, 18))
        shift = 5 * level[groups]
        low, high = partial(x + shift, 0.6 * x + 0.8 * noise - shift, groups, draws=0).interval
        hits += low <= 0.6 <= high
    assert hits / 1000 == pytest.approx(0.95, abs=0.03)


def test_an_interval_is_the_fisher_one_where_that_is_exact():
    x, y = np.random.default_rng(0).normal(size=(2, 20))
    groups = [place % 2 for place in range(20)]
    assert pearson(x, y, draws=0).interval == fisher_interval(pearson(x, y).value, 20)
    for exact in (pearson(x, y, draws=0), partial(x, y, groups, draws=0)):
        assert exact.interval == exact.fisher
    for ranks in (spearman, kendall):
        assert ranks(x, y).fisher is None
        assert ranks(x, y, draws=0).interval is None
    line = pearson(x, x)
    assert (line.interval, line.note) == (None, "interval not defined where |r| is 1")


def test_partial_given_family():
    # Opposite slopes within and between: pooled hides what holds in each group.
    x = np.array([0, 1, 2, 10, 11, 12.0])
    y = np.array([2, 1, 0, 12, 11, 10.0])
    groups = ["a"] * 3 + ["b"] * 3
    assert pearson(x, y, draws=0).value > 0.9
    found = partial(x, y, groups)
    assert found.value == pytest.approx(-1.0)
    assert found.n == 6
    # Regression on dummy variables gives the same number.
    rng = np.random.default_rng(2)
    x, y, groups = rng.normal(size=30), rng.normal(size=30), rng.integers(3, size=30)
    dummies = np.eye(3)[groups]
    residual = [v - dummies @ np.linalg.lstsq(dummies, v, rcond=None)[0] for v in (x, y)]
    found = partial(x, y, groups.tolist())
    assert found.value == pytest.approx(np.corrcoef(*residual)[0, 1])
    assert found.fisher == fisher_interval(found.value, 30, 2)
    assert found.interval[0] < found.value < found.interval[1]


def test_partial_undefined():
    assert partial([1, 2, 3], [1, 3, 2], ["a", "b", "c"]).value is None
    alone = partial([1, 2, 3, 4, 50], [4, 2, 3, 1, 50], ["a", "a", "a", "a", "lonely"])
    assert alone.n == 4
    assert alone.value == pytest.approx(pearson([1, 2, 3, 4], [4, 2, 3, 1], draws=0).value)
    assert partial([1, 1, 2, 2, 3, 3], [1, 2, 3, 4, 5, 6], list("aabbcc")).value is None
    assert partial([], [], []).value is None
    with pytest.raises(ValueError, match="one group per point"):
        partial([1, 2, 3], [1, 2, 3], ["a"])


def test_line():
    line = fit_line([0, 1, 2], [1, 3, 5])
    assert (line.slope, line.intercept) == (pytest.approx(2), pytest.approx(1))
    assert fit_line([1, 1, 1], [1, 2, 3]) is None
    assert fit_line([1, 2], [1, 2]) is None


def test_the_p_value_given_the_group_permutes_within_groups():
    """Three pairs: of the eight orders that keep the groups two are as extreme, of all orders hardly any."""
    x, y = [-1, 1, 8, 12, 17, 23], [4, 6, -2, 2, 27, 33]
    assert partial(x, y, list("aabbcc"), draws=4000).p_value == pytest.approx(0.25, abs=0.03)


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


@pytest.mark.parametrize("resampled", [resampled_tau, correlate._spearman_resampled])
def test_blocks_of_the_sign_matrix_change_no_value(monkeypatch, resampled):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 70)).round(1)
    counts = rng.multinomial(70, np.full(70, 1 / 70), size=20).astype(float)
    whole = resampled(a, b, counts)
    monkeypatch.setattr(correlate, "_BLOCK", 300)
    assert resampled(a, b, counts).tolist() == whole.tolist()


def test_ranks_and_sums_fit_at_the_edge_of_an_integer_type():
    for n in (127, 128, 129):
        rising = np.arange(n, dtype=float)
        orders = np.stack([np.arange(n), np.arange(n)[::-1]])
        assert permuted_concordance(rising, rising, orders).tolist() == [n * (n - 1) / 2, -n * (n - 1) / 2]
