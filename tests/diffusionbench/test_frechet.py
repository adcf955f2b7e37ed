"""Frechet distance: closed forms, routes that must agree, streamed moments."""

import numpy as np
import pytest
import torch

from diffusionbench.errors import DataError, RequestError
from diffusionbench.metrics.frechet import (
    _TILE,
    FewSamples,
    frechet_distance,
    frechet_from_features,
)
from diffusionbench.moments import Moments, load_moments, moments


def gaussian(count: int, width: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)) * scale + shift


def covariance(width: int, seed: int, rank: int | None = None) -> np.ndarray:
    root = np.random.default_rng(seed).normal(size=(width, rank or width))
    return root @ root.T / width


def by_eigenvalues(mean_a, cov_a, mean_b, cov_b) -> float:
    """The textbook form: real parts of the complex square roots of the eigenvalues of the product."""
    root = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).astype(complex)).real.sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * root)


def test_one_dimension():
    # (m1 - m2)^2 + (s1 - s2)^2
    assert frechet_distance([1.0], [[4.0]], [3.5], [[9.0]]) == pytest.approx(2.5**2 + 1.0, rel=1e-12)


def test_diagonal_gaussians():
    a, b = np.array([1.0, 4.0, 0.25, 9.0]), np.array([4.0, 1.0, 1.0, 16.0])
    expected = ((np.sqrt(a) - np.sqrt(b)) ** 2).sum() + 4 * 0.5**2
    assert frechet_distance(np.zeros(4), np.diag(a), np.full(4, 0.5), np.diag(b)) == pytest.approx(expected, rel=1e-12)


def test_commuting_covariances_in_a_common_basis():
    basis = np.linalg.qr(gaussian(6, 6, 0))[0]
    a, b = np.arange(1.0, 7.0), np.arange(6.0, 0.0, -1.0) ** 2
    cov_a, cov_b = (basis * a @ basis.T), (basis * b @ basis.T)
    zero = np.zeros(6)
    expected = ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(zero, cov_a, zero, cov_b) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("width", [_TILE, _TILE + 45])
def test_matrices_of_more_than_one_tile(width):
    basis = np.linalg.qr(gaussian(width, width, 0))[0]
    a, b = np.linspace(0.5, 3, width), np.linspace(2, 0.1, width) ** 2
    cov_a, cov_b = (basis * a @ basis.T), (basis * b @ basis.T)
    expected = ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(np.zeros(width), cov_a, np.zeros(width), cov_b) == pytest.approx(expected, rel=1e-10)


def test_scaling_a_gaussian():
    cov = covariance(8, 1)
    # S and c^2 S: (1 - c)^2 tr S
    assert frechet_distance(np.zeros(8), cov, np.zeros(8), 9 * cov) == pytest.approx(4 * np.trace(cov), rel=1e-12)


def test_a_shift_of_the_mean_alone():
    cov, shift = covariance(10, 2), gaussian(1, 10, 3)[0]
    assert frechet_distance(np.zeros(10), cov, shift, cov) == pytest.approx(float(shift @ shift), rel=1e-9)


@pytest.mark.parametrize("rank", [None, 5])
def test_general_covariances_equal_the_eigenvalue_form_and_are_symmetric(rank):
    a = (gaussian(1, 12, 4)[0], covariance(12, 5, rank))
    b = (gaussian(1, 12, 6)[0], covariance(12, 7))
    value = frechet_distance(*a, *b)
    assert value == pytest.approx(by_eigenvalues(*a, *b), rel=1e-6)
    assert frechet_distance(*b, *a) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("rank", [None, 1, 7])
def test_identity_is_zero(rank):
    mean, cov = gaussian(1, 16, 8)[0], covariance(16, 9, rank)
    assert 0.0 <= frechet_distance(mean, cov, mean, cov) < 1e-10


def test_both_singular_in_different_planes():
    a, b = np.diag([4.0, 0.0, 1.0]), np.diag([9.0, 5.0, 0.0])
    assert frechet_distance(np.zeros(3), a, np.zeros(3), b) == pytest.approx(1.0 + 5.0 + 1.0, abs=1e-12)
    assert frechet_distance(np.zeros(3), np.zeros((3, 3)), np.ones(3), b) == pytest.approx(14.0 + 3.0)


@pytest.mark.parametrize("count_a, count_b", [(7, 9), (7, 200), (200, 7), (30, 31), (200, 300), (2, 2)])
def test_features_equal_the_route_through_full_moments(count_a, count_b):
    a, b = gaussian(count_a, 30, 10), gaussian(count_b, 30, 11, 1.4, 0.2)
    expected = by_eigenvalues(*moments(a), *moments(b))
    assert frechet_from_features(a, b) == pytest.approx(expected, rel=1e-6, abs=1e-5)
    assert frechet_from_features(b, a) == pytest.approx(frechet_from_features(a, b), rel=1e-9)
    assert frechet_from_features(a, a) < 1e-9


def test_few_samples_and_their_subsets_equal_the_full_route():
    rows, (mean, cov) = gaussian(25, 40, 12, shift=30.0), moments(gaussian(400, 40, 13))
    few = FewSamples(rows, mean, cov)
    keep = np.arange(25) % 4 != 1
    assert few.distance() == pytest.approx(frechet_distance(*moments(rows), mean, cov), rel=1e-9)
    assert few.distance(keep) == pytest.approx(frechet_distance(*moments(rows[keep]), mean, cov), rel=1e-9)


def test_arrays_and_tensors_of_any_precision_are_taken():
    a, b = gaussian(50, 6, 14).astype(np.float32), gaussian(60, 6, 15).astype(np.float32)
    expected = frechet_from_features(a, b)
    assert frechet_from_features(torch.from_numpy(a).requires_grad_(), torch.from_numpy(b)) == expected
    assert isinstance(expected, float)
    assert frechet_from_features(torch.from_numpy(a).bfloat16(), b) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("count", [2, 511, 512, 513, 1300])
def test_streamed_moments_equal_numpy(count):
    rows = gaussian(count, 5, 16, 3.0, 1.0)
    stream = Moments()
    for start in range(0, count, 100):
        stream.update(rows[start : start + 100])
    mean, cov = stream.compute()
    assert stream.count == count
    np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(cov, np.cov(rows, rowvar=False), rtol=1e-10, atol=1e-12)
    assert mean.dtype == cov.dtype == np.float64


def test_batch_size_changes_no_bit_and_reading_changes_nothing():
    rows = gaussian(1100, 4, 17).astype(np.float32)
    results = []
    for size in (1, 64, 600, 1100):
        stream = Moments()
        for start in range(0, 1100, size):
            buffer = rows[start : start + size].copy()
            stream.update(buffer)
            buffer[:] = np.nan
        stream.compute()
        results.append(stream.compute())
    for mean, cov in results[1:]:
        np.testing.assert_array_equal(mean, results[0][0])
        np.testing.assert_array_equal(cov, results[0][1])


def test_a_streamed_covariance_is_symmetric_to_the_bit():
    _, cov = Moments().update(gaussian(1200, 7, 20, shift=0.3)).compute()
    np.testing.assert_array_equal(cov, cov.T)


def test_merging_equals_one_stream_and_leaves_the_other_alone():
    rows = gaussian(1500, 6, 18, shift=5.0)
    a, b = Moments().update(rows[:700]), Moments().update(rows[700:])
    before = b.compute()
    mean, cov = a.merge(b).compute()
    np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(cov, np.cov(rows, rowvar=False), rtol=1e-10, atol=1e-12)
    for found, kept in zip(b.compute(), before, strict=True):
        np.testing.assert_array_equal(found, kept)
    assert (a.count, b.count) == (1500, 800)
    np.testing.assert_allclose(Moments().merge(b).compute()[1], before[1])


def test_a_stream_merged_with_itself_counts_twice():
    rows = gaussian(700, 3, 19)
    stream = Moments().update(rows)
    _, cov = stream.merge(stream).compute()
    np.testing.assert_allclose(cov, np.cov(np.concatenate([rows, rows]), rowvar=False), rtol=1e-10, atol=1e-12)
    assert stream.count == 1400


def test_a_large_mean_costs_no_digits():
    rows = gaussian(2000, 3, 20)
    _, cov = Moments().update(rows + 1e7).compute()
    # The naive form sum x x^T - n m m^T has lost every digit here.
    np.testing.assert_allclose(cov, np.cov(rows, rowvar=False), rtol=1e-6, atol=1e-8)


def test_memory_does_not_grow_with_rows():
    stream = Moments()
    rows = gaussian(512, 8, 21)
    for _ in range(50):
        stream.update(rows[:500])
    assert sum(len(part) for part in stream._pending) < 512


@pytest.mark.parametrize(
    "call",
    [
        lambda: moments(np.zeros((1, 3))),
        lambda: moments(np.zeros(3)),
        lambda: moments(np.array([[1.0, np.nan], [0, 0]])),
        lambda: Moments(3).update(np.zeros((2, 4))),
        lambda: Moments(3).merge(Moments(4)),
        lambda: frechet_from_features(np.zeros((3, 2)), np.zeros((3, 4))),
        lambda: frechet_distance(np.zeros(2), np.eye(3), np.zeros(2), np.eye(2)),
        lambda: frechet_distance(np.zeros(2), np.eye(2), np.zeros(3), np.eye(3)),
        lambda: frechet_distance([0, np.inf], np.eye(2), [0, 0], np.eye(2)),
        lambda: frechet_distance([0, 0], [[1, 0.5], [0, 1]], [0, 0], np.eye(2)),
        lambda: frechet_distance([0, 0], -np.eye(2), [0, 0], np.eye(2)),
        lambda: frechet_distance([0, 0], np.eye(2), [0, 0], np.diag([1.0, -1.0])),
    ],
)
def test_what_has_no_distance_is_refused(call):
    with pytest.raises(RequestError, match=r"\."):
        call()


@pytest.mark.parametrize("keys", [("mu", "sigma"), ("ref_mu", "ref_sigma")])
def test_statistics_files(tmp_path, keys):
    mean, cov = moments(gaussian(50, 4, 22))
    np.savez(tmp_path / "a.npz", **dict(zip(keys, (mean.astype(np.float32), cov), strict=True)))
    found = load_moments(tmp_path / "a.npz")
    np.testing.assert_allclose(found[0], mean, rtol=1e-6)
    np.testing.assert_array_equal(found[1], (cov + cov.T) / 2)
    assert found[0].dtype == np.float64


def test_mu_and_sigma_come_first(tmp_path):
    np.savez(tmp_path / "a.npz", ref_mu=np.ones(2), ref_sigma=np.eye(2), mu=np.zeros(2), sigma=np.eye(2))
    assert load_moments(tmp_path / "a.npz")[0].tolist() == [0, 0]


def test_files_without_statistics_are_refused(tmp_path):
    np.savez(tmp_path / "keys.npz", mu=np.zeros(2), other=np.eye(2))
    with pytest.raises(DataError, match="found mu, other"):
        load_moments(tmp_path / "keys.npz")
    np.savez(tmp_path / "shape.npz", mu=np.zeros(2), sigma=np.eye(3))
    with pytest.raises(DataError, match="shapes"):
        load_moments(tmp_path / "shape.npz")
    np.save(tmp_path / "array.npy", np.zeros(2))
    with pytest.raises(DataError, match=r"not an \.npz"):
        load_moments(tmp_path / "array.npy")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(DataError, match="cannot be read"):
        load_moments(tmp_path / "text.npz")
    with pytest.raises(DataError, match="no such file"):
        load_moments(tmp_path / "absent.npz")


@pytest.mark.parametrize("sizes", [(2500, 1200), (2000, 1000), (700, 30), (40, 1)])
def test_moments_without_a_part_are_those_of_the_rest(sizes):
    rng = np.random.default_rng(0)
    first, second = (rng.normal(size=(size, 6)) + 1e3 for size in sizes)
    whole = Moments().merge(Moments().update(first)).merge(Moments().update(second))
    mean, cov = whole.without(Moments().update(second))
    np.testing.assert_allclose(mean, first.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(cov, np.cov(first, rowvar=False), rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(cov, cov.T)
    with pytest.raises(RequestError, match="at least 2 images, got 0"):
        whole.without(whole)
