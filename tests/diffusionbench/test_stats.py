"""The jackknife's and Wilson's formulas."""

import math

import numpy as np
import pytest

from diffusionbench.stats import Estimate, jackknife, jackknife_interval, wilson


def test_the_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=12)
    replicates = [float(np.delete(values, index).mean()) for index in range(12)]
    assert jackknife(replicates) == pytest.approx(values.std(ddof=1) / math.sqrt(12), rel=1e-12)


def test_the_jackknife_needs_two_finite_replicates():
    assert jackknife([]) is None
    assert jackknife([1.0]) is None
    assert jackknife([1.0, math.nan, 2.0]) is None
    assert jackknife([3.0, 3.0]) == 0.0


def test_the_interval_uses_students_t_with_nine_degrees_of_freedom():
    low, high = jackknife_interval(5.0, 2.0)
    assert (low, high) == pytest.approx((5 - 2 * 2.2621571628, 5 + 2 * 2.2621571628))


@pytest.mark.parametrize("successes, count", [(1, 10), (50, 100), (359, 400), (1, 1_000_000)])
def test_wilsons_bounds_solve_its_equation(successes, count):
    share = successes / count
    for bound in wilson(successes, count):
        # |share - p| = z sqrt(p (1 - p) / n), which defines the interval.
        distance = 1.959963984540054 * math.sqrt(bound * (1 - bound) / count)
        assert abs(share - bound) == pytest.approx(distance, rel=1e-9)


def test_wilson_at_the_ends_is_exact():
    low, high = wilson(0, 20)
    assert low == 0.0
    assert high == pytest.approx(1.959963984540054**2 / (20 + 1.959963984540054**2))
    low, high = wilson(20, 20)
    assert high == 1.0
    assert low > 0.8


@pytest.mark.parametrize("successes, count", [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_impossible_counts(successes, count):
    with pytest.raises(ValueError, match=f"got {successes} of {count}"):
        wilson(successes, count)


def test_estimates_do_not_share_their_extras():
    a, b = (Estimate(value=0.0, stderr=None, interval=None, method="none", scored=1) for _ in range(2))
    assert a.extra is not b.extra
