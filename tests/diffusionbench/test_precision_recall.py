import numpy as np
import pytest

from diffusionbench.errors import RequestError
from diffusionbench.metrics import precision_recall as module
from diffusionbench.metrics.precision_recall import _radii, _radii_without_groups, f_score, precision_recall
from diffusionbench.stats import GROUPS


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def plain(generated, reference, k):
    def share(points, centres):
        own = np.sort(np.linalg.norm(centres[:, None] - centres, axis=2), axis=1)[:, k]
        return (np.linalg.norm(points[:, None] - centres, axis=2) <= own).any(axis=1).mean()

    return share(generated, reference), share(reference, generated)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_shares_match_the_definition(k, monkeypatch):
    # Several uneven blocks of distances.
    monkeypatch.setattr(module, "_BLOCK_NUMBERS", 1000)
    generated, reference = normal(0, 70, 6) * 0.8 + 0.7, normal(1, 90, 6)
    precision, recall = precision_recall(generated, reference, k)
    assert (precision, recall) == plain(generated, reference, k)
    assert 0 < recall < 1
    assert 0 < precision < 1


def test_points_on_a_line_by_hand():
    # Reference radii for k = 1: 1, 1, 2, 4; generated radii: 3, 0.5, 0.5.
    reference = np.array([[0.0], [1.0], [3.0], [7.0]])
    generated = np.array([[-4.0], [-1.0], [-0.5]])
    assert precision_recall(generated, reference, k=1) == (2 / 3, 1 / 4)


def test_the_rim_belongs_to_the_ball():
    reference = np.array([[0.0], [2.0], [20.0], [22.0]])
    generated = np.array([[-2.0], [4.0], [30.0]])
    assert precision_recall(generated, reference, k=1)[0] == pytest.approx(2 / 3)


def test_mode_collapse_lowers_recall_and_not_precision():
    reference = normal(2, 200, 4)
    collapsed = reference[:1] + normal(3, 200, 4) * 1e-3
    precision, recall = precision_recall(collapsed, reference)
    assert precision == 1
    assert recall <= 1 / 200


def test_equal_points_far_from_zero_have_radius_zero_and_count():
    generated = np.tile(normal(4, 1, 50) * 10 + 1000, (12, 1)).astype(np.float32)
    reference = np.concatenate([generated[:1], normal(5, 9, 50) + 1000]).astype(np.float32)
    precision, recall = precision_recall(generated, reference)
    assert (precision, recall) == (1, 1 / 10)


def test_a_set_covers_itself():
    points = normal(6, 40, 3)
    assert precision_recall(points, points) == (1, 1)


@pytest.mark.parametrize("count", [45, 11])
def test_radii_without_a_group_are_those_of_the_others(count):
    points, groups = normal(7, count, 3), np.arange(count) % GROUPS
    radii = _radii_without_groups(points, groups, 3)
    for group in range(GROUPS):
        left = groups != group
        np.testing.assert_allclose(radii[group, left], _radii(points[left], 3), rtol=1e-9)
        assert (radii[group, ~left] == -1).all()


def test_f_score():
    assert f_score(0.5, 1.0) == pytest.approx(2 / 3)
    assert f_score(0.0, 0.0) == 0


@pytest.mark.parametrize(
    "call, match",
    [
        (
            lambda: precision_recall(np.ones((3, 2)), np.ones((9, 2))),
            "generated features: need at least 4 images, got 3",
        ),
        (
            lambda: precision_recall(np.ones((9, 2)), np.ones((3, 2))),
            "reference features: need at least 4 images, got 3",
        ),
        (lambda: precision_recall(np.ones((9, 2)), np.ones((9, 3))), "width 2.*3"),
        (lambda: precision_recall(np.ones((9, 2)), np.ones((9, 2)), k=0), "k >= 1"),
    ],
)
def test_wrong_input_ends_in_one_sentence(call, match):
    with pytest.raises(RequestError, match=match):
        call()
