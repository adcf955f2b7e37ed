"""Data and conditioning apart: parts that add up, known ones found again, intervals that cover."""

from __future__ import annotations

import numpy as np
import pytest

from diffusionbench.study.apart import apart, divide


def test_the_parts_add_up_and_are_symmetric():
    rng = np.random.default_rng(0)
    r = rng.uniform(-1, 1, (3, 50))
    data, conditioning = divide(*r)
    np.testing.assert_allclose(data + conditioning, 1 - r[2])
    # With the tasks in the other order the changes trade places.
    np.testing.assert_allclose(divide(r[1], r[0], r[2])[0], conditioning)


@pytest.mark.parametrize(
    "r, data, conditioning",
    [
        # One change alone takes everything away, both take the same, or one brings back.
        ((0.4, 1.0, 0.4), 0.6, 0.0),
        ((1.0, 0.4, 0.4), 0.0, 0.6),
        ((0.5, 0.5, 0.2), 0.4, 0.4),
        ((0.9, 0.2, 0.5), -0.1, 0.6),
    ],
)
def test_known_parts_are_found(r, data, conditioning):
    found = divide(*map(np.array, r))
    assert [float(one) for one in found] == pytest.approx([data, conditioning])


def trained(rng, correlation: np.ndarray, methods: int = 16, seeds: int = 3, noise: float = 0.3) -> list[np.ndarray]:
    quality = rng.multivariate_normal(np.zeros(3), correlation, size=methods)
    return [quality[:, axis, None] + noise * rng.standard_normal((methods, seeds)) for axis in range(3)]


def test_intervals_cover_the_parts_of_a_model():
    correlation = np.array([[1, 0.8, 0.3], [0.8, 1, 0.4], [0.3, 0.4, 1.0]])
    shown = correlation / (1 + 0.3**2 / 3)
    wanted = [float(one) for one in divide(*(np.array(shown[pair]) for pair in ((0, 1), (1, 2), (0, 2))))]
    rng, covered = np.random.default_rng(1), []
    for n in range(150):
        found = apart(trained(rng, correlation), (1, 1, 1), draws=300, seed=n)
        parts = (found.data, found.conditioning)
        covered.append([one.interval[0] <= truth <= one.interval[1] for one, truth in zip(parts, wanted, strict=True)])
    assert ((np.mean(covered, axis=0) >= 0.90) & (np.mean(covered, axis=0) <= 1)).all()


def test_signs_turn_distances_into_scores():
    first, middle, last = trained(np.random.default_rng(2), np.eye(3) * 0.5 + 0.5)
    scores, distances = (
        apart((first, middle, last), (1, 1, 1), draws=50),
        apart((-first, middle, last), (-1, 1, 1), draws=50),
    )
    assert scores.data.value == pytest.approx(distances.data.value)
    assert scores.first_last.value == pytest.approx(distances.first_last.value)
    turned = apart((-first, middle, last), (1, 1, 1), draws=50)
    assert turned.first_last.value == pytest.approx(-scores.first_last.value)


def test_too_few_methods_and_constant_scores_have_no_parts():
    runs = [[[float(n)] for n in range(3)]] * 3
    assert apart(runs, (1, 1, 1)) is None
    assert apart([[[1.0]] * 5, [[float(n)] for n in range(5)], [[float(n)] for n in range(5)]], (1, 1, 1)) is None
