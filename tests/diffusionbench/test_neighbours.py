"""Neighbours by float32 candidates: every count is that of float64 differences, point by point."""

import numpy as np
import pytest

from diffusionbench.metrics import neighbours
from diffusionbench.metrics.neighbours import Points, inside, radii

WIDTH = 64


def squared(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.stack([((y.astype(np.float64) - one) ** 2).sum(axis=1) for one in x.astype(np.float64)])


def plain_radii(x: np.ndarray, k: int, groups: np.ndarray) -> np.ndarray:
    distances = squared(x, x)
    rows = [np.sort(distances, axis=1)[:, k]]
    for group in range(10):
        left = np.sort(distances[:, groups != group], axis=1)[:, k]
        rows.append(np.where(groups == group, -1.0, left))
    return np.stack(rows)


def cloud(count: int, seed: int, spread: float = 1.0) -> np.ndarray:
    """Features of a few directions and an offset, as float32."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, 8)) @ np.random.default_rng(0).normal(size=(8, WIDTH))
    return (5 + spread * rows + 0.1 * spread * rng.normal(size=(count, WIDTH))).astype(np.float32)


def collapsed(count: int) -> np.ndarray:
    """Every image nearly the same, far from the centre: float32 products tell nothing of these distances."""
    return (100 + 1e-3 * np.random.default_rng(3).normal(size=(count, WIDTH))).astype(np.float32)


def twins(count: int) -> np.ndarray:
    return np.repeat(cloud(count // 4, 4), 4, axis=0)


SETS = {"cloud": cloud(400, 1), "collapsed": collapsed(400), "twins": twins(400), "few": cloud(13, 6)}


@pytest.fixture(params=[None, 61], ids=["whole", "tiles"])
def tiled(request, monkeypatch):
    """Small tiles and a small random part, as a large set has them."""
    if request.param:
        monkeypatch.setattr(neighbours, "_TILE", request.param)
        monkeypatch.setattr(neighbours, "_SAMPLE", (150, 150))
        monkeypatch.setattr(neighbours, "_MANY", 100)


@pytest.mark.parametrize("name", SETS)
def test_radii_with_and_without_each_group(tiled, name):
    rows = SETS[name]
    groups = np.arange(len(rows)) % 10
    points = Points(rows, cloud(300, 2).mean(axis=0))
    wanted = plain_radii(rows, 3, groups)
    np.testing.assert_allclose(radii(points, 3, groups), wanted, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(radii(points, 3)[0], wanted[0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", SETS)
def test_what_lies_in_a_ball(tiled, name):
    rows, real = SETS[name], cloud(300, 2)
    centre = real.mean(axis=0)
    groups = np.arange(len(rows)) % 10
    balls = plain_radii(rows, 3, groups)
    distances = squared(real, rows)
    wanted = np.stack([(distances <= one).any(axis=1) for one in balls])
    np.testing.assert_array_equal(inside(Points(real, centre), Points(rows, centre), balls), wanted)
    balls = plain_radii(real, 3, np.arange(300) % 10)
    wanted = np.stack([(one >= distances.T).any(axis=1) for one in balls])
    np.testing.assert_array_equal(inside(Points(rows, centre), Points(real, centre), balls), wanted)


@pytest.mark.parametrize("offset", [0, 300])
def test_a_point_within_a_millionth_of_the_rim_is_on_its_side(offset):
    # On a sphere around each centre, a millionth inside or outside of its radius: float32 cannot tell them apart, least
    # of all far from where it looks.
    rng = np.random.default_rng(5)
    centres = cloud(200, 5).astype(np.float64)
    eye = centres.mean(axis=0) + offset
    balls = radii(Points(centres, eye), 3)
    way = rng.normal(size=centres.shape)
    way /= np.linalg.norm(way, axis=1, keepdims=True)
    for share, every in ((1 - 1e-6, True), (1 + 1e-6, False)):
        points = centres + way * np.sqrt(balls[0])[:, None] * share
        distances = squared(points, centres)
        wanted = (distances <= balls[0]).any(axis=1)
        found = inside(Points(points, eye), Points(centres, eye), balls)[0]
        np.testing.assert_array_equal(found, wanted)
        assert wanted.all() == every


def test_a_collapsed_set_is_measured_in_float64_throughout(monkeypatch):
    asked = []
    whole = neighbours._all
    monkeypatch.setattr(neighbours, "_all", lambda x, y, rows: (asked.append(len(rows)), whole(x, y, rows))[1])
    monkeypatch.setattr(neighbours, "_MANY", 100)
    radii(Points(cloud(400, 1), np.full(WIDTH, 5.0)), 3)
    assert sum(asked) < 40
    radii(Points(collapsed(400), np.full(WIDTH, 5.0)), 3)
    assert sum(asked) >= 400
