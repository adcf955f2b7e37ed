import math

import numpy as np
import pytest

from diffusionbench.stats import GROUPS, jackknife, jackknife_interval, wilson


def test_jackknife_of_a_mean_is_the_error_of_its_group_means():
    groups = np.random.default_rng(0).standard_normal((GROUPS, 50))
    replicates = [np.delete(groups, group, axis=0).mean() for group in range(GROUPS)]
    expected = groups.mean(axis=1).std(ddof=1) / math.sqrt(GROUPS)
    assert jackknife(replicates) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("replicates", [[], [1.0], [1.0, math.nan, 2.0], [1.0, math.inf]])
def test_jackknife_has_no_number_where_a_replicate_has_none(replicates):
    assert jackknife(replicates) is None


def test_jackknife_interval_is_students():
    low, high = jackknife_interval(5.0, 2.0)
    assert (low, high) == pytest.approx((5 - 2 * 2.262157163, 5 + 2 * 2.262157163), rel=1e-8)


def test_wilson_against_the_roots_of_its_quadratic():
    # |share - p| = z sqrt(p (1 - p) / n) at both ends.
    low, high = wilson(81, 263)
    for end in (low, high):
        assert abs(81 / 263 - end) == pytest.approx(1.959963984540054 * math.sqrt(end * (1 - end) / 263), rel=1e-12)
    assert low < 81 / 263 < high


def test_wilson_stays_inside_and_is_wide_at_the_ends():
    assert wilson(0, 10) == (0.0, pytest.approx(0.27753, abs=1e-5))
    assert wilson(10, 10) == (pytest.approx(1 - 0.27753, abs=1e-5), 1.0)


@pytest.mark.parametrize("successes, count", [(0, 0), (-1, 5), (6, 5)])
def test_wilson_refuses_what_is_no_share(successes, count):
    with pytest.raises(ValueError, match="successes"):
        wilson(successes, count)
