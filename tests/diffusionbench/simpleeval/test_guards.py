"""When a guard is raised: beyond its threshold, and more than three standard errors from nothing."""

import numpy as np
import pytest

from diffusionbench.benchmarks.simpleeval import guards


@pytest.mark.parametrize(
    "value, stderr, flagged",
    [
        (0.10, 0.030, True),
        # 2.5 standard errors may be chance.
        (0.10, 0.040, False),
        # Sure, and too small to matter.
        (0.05, 0.001, False),
        (-0.10, 0.030, True),
    ],
)
def test_a_guard_needs_size_and_three_standard_errors(value, stderr, flagged):
    replicates = value + stderr * np.array([-1.0, 1.0] * 500)
    found = guards._sampled("split", np.concatenate([[value], replicates]), both_ways=True)
    assert found.flagged is flagged
    assert found.z == pytest.approx(value / stderr, rel=1e-2)
    assert guards.THRESHOLDS["split"] == 0.06
