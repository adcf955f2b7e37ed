"""Improved precision and recall against distances written out point by point."""

import numpy as np
import pytest
import torch
from making import make_metric, update

from diffusionbench.errors import RequestError
from diffusionbench.metrics.precision_recall import precision_recall
from diffusionbench.sample import Sample
from diffusionbench.stats import jackknife


def points(count: int, seed: int, width: int = 4, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)) + shift


def covered(queries: np.ndarray, centres: np.ndarray, k: int) -> float:
    """Share of queries within the distance of some centre to its k-th nearest other centre."""
    count = 0
    radii = []
    for index, centre in enumerate(centres):
        others = [np.linalg.norm(centre - other) for place, other in enumerate(centres) if place != index]
        radii.append(sorted(others)[k - 1])
    for query in queries:
        count += any(np.linalg.norm(query - c) <= radius for c, radius in zip(centres, radii, strict=True))
    return count / len(queries)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_brute_force(k, shift):
    generated, real = points(50, 0, shift=shift), points(40, 1)
    assert precision_recall(generated, real, k) == (covered(generated, real, k), covered(real, generated, k))


def test_three_neighbours_are_the_default():
    generated, real = points(50, 0), points(40, 1)
    assert precision_recall(generated, real) == precision_recall(generated, real, 3)
    assert precision_recall(generated, real) != precision_recall(generated, real, 1)


def test_the_rim_belongs_to_the_ball():
    # Integers on a line: every distance is exact. The ball of 0 reaches to 3 and no further.
    real = np.array([[0.0], [1.0], [2.0], [3.0]])
    on_rim, beyond = np.array([[-3.0]] * 4), np.array([[-3.0 - 1e-6]] * 4)
    assert precision_recall(on_rim, real)[0] == 1.0
    assert precision_recall(beyond, real)[0] == 0.0


def test_the_same_set_is_covered_and_a_far_one_is_not():
    real = points(60, 2)
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real + 100, real) == (0.0, 0.0)


def test_a_collapsed_generator_has_precision_and_no_recall():
    real = points(60, 3)
    collapsed = np.repeat(real[:1], 20, axis=0)
    # Balls of radius 0 hold their own point only.
    assert precision_recall(collapsed, real) == (1.0, 1 / 60)


def test_a_large_common_offset_changes_nothing():
    generated, real = points(50, 0), points(40, 1)
    assert precision_recall(generated + 1e4, real + 1e4) == precision_recall(generated, real)


def test_swapping_the_sets_swaps_the_shares():
    generated, real = points(50, 4, shift=0.7), points(40, 5)
    assert precision_recall(real, generated) == precision_recall(generated, real)[::-1]


def test_tensors_and_tiles(monkeypatch):
    generated, real = points(50, 0).astype(np.float32), points(40, 1).astype(np.float32)
    expected = precision_recall(generated, real)
    assert precision_recall(torch.from_numpy(generated), torch.from_numpy(real)) == expected
    for name, value in {"_TILE": 7, "_SAMPLE": (20, 20), "_PAIRS": 3, "_BLOCK_NUMBERS": 130}.items():
        monkeypatch.setattr(f"diffusionbench.metrics.neighbours.{name}", value)
    assert precision_recall(generated, real) == expected


@pytest.mark.parametrize("sizes", [(3, 20), (20, 3)])
def test_too_few_points_are_refused(sizes):
    with pytest.raises(RequestError, match="at least 4 images, got 3"):
        precision_recall(points(sizes[0], 0), points(sizes[1], 1))


def test_bad_input_is_refused():
    with pytest.raises(RequestError, match="k >= 1"):
        precision_recall(points(9, 0), points(9, 1), 0)
    with pytest.raises(RequestError, match="width"):
        precision_recall(points(9, 0), points(9, 1, width=3))


class Real:
    name = "real"

    def features(self, judge):
        return points(40, 1)


def test_the_jackknife_of_recall_leaves_groups_out():
    generated = points(50, 0, shift=0.7)
    metric = make_metric("recall", Real())
    update(metric, {"features": generated}, [Sample(index) for index in range(50)])
    estimate = metric.compute()
    groups = np.arange(50) % 10
    left = [covered(points(40, 1), generated[groups != group], 3) for group in range(10)]
    assert estimate.value == covered(points(40, 1), generated, 3)
    assert estimate.stderr == pytest.approx(jackknife(left), rel=1e-9)
