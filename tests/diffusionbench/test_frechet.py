import numpy as np
import pytest
import torch

from diffusionbench.errors import DataError, RequestError
from diffusionbench.metrics.frechet import (
    FewSamples,
    Moments,
    frechet_distance,
    frechet_from_features,
    load_moments,
    moments,
)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def spd(seed, dim):
    root = normal(seed, dim, 2 * dim)
    return root @ root.T / (2 * dim)


def test_distance_of_diagonal_gaussians_is_closed_form():
    a, b = np.array([1.0, 4.0, 9.0]), np.array([4.0, 4.0, 1.0])
    shift = np.array([1.0, -2.0, 0.5])
    expected = shift @ shift + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    assert frechet_distance(shift, np.diag(a), np.zeros(3), np.diag(b)) == pytest.approx(expected, rel=1e-12)


def test_distance_of_rotated_gaussians_matches_the_matrix_square_root():
    scipy_linalg = pytest.importorskip("scipy.linalg", reason="SciPy is not installed")
    a, b = spd(1, 20), spd(2, 20)
    expected = np.trace(a + b - 2 * scipy_linalg.sqrtm(a @ b)).real
    assert frechet_distance(np.zeros(20), a, np.zeros(20), b) == pytest.approx(expected, rel=1e-9)


def test_distance_is_symmetric_and_zero_to_itself():
    a, b = (normal(3, 12), spd(3, 12)), (normal(4, 12), spd(4, 12))
    assert frechet_distance(*a, *b) == pytest.approx(frechet_distance(*b, *a), rel=1e-10)
    assert 0 <= frechet_distance(*a, *a) < 1e-10


@pytest.mark.parametrize("rank_a, rank_b", [(5, 12), (12, 5), (5, 7), (0, 5), (0, 0)])
def test_singular_covariances(rank_a, rank_b):
    # Diagonal spectra under one rotation, so the answer stays closed form.
    rotation, _ = np.linalg.qr(normal(5, 12, 12))
    a, b = np.zeros(12), np.zeros(12)
    a[:rank_a], b[:rank_b] = np.linspace(1, 3, rank_a), np.linspace(2, 0.5, rank_b)
    expected = ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    cov_a, cov_b = (rotation * a @ rotation.T, rotation * b @ rotation.T)
    assert frechet_distance(np.zeros(12), cov_a, np.zeros(12), cov_b) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n, m", [(8, 9), (8, 200), (200, 8), (200, 150), (30, 31)])
def test_features_and_their_moments_give_the_same_distance(n, m):
    a, b = normal(6, n, 30).astype(np.float32), (normal(7, m, 30) * 1.3 + 5).astype(np.float32)
    assert frechet_from_features(a, b) == pytest.approx(frechet_distance(*moments(a), *moments(b)), abs=1e-5)


def test_few_samples_far_from_zero_keep_their_digits():
    a, b = normal(8, 10, 40), normal(9, 11, 40)
    assert frechet_from_features(a + 1e5, b + 1e5) == pytest.approx(frechet_from_features(a, b), rel=1e-8)


def test_few_samples_of_a_subset_are_those_of_the_subset_alone():
    rows, mean, cov = normal(10, 20, 40), normal(11, 40), spd(12, 40)
    keep = np.arange(20) % 3 != 0
    expected = frechet_distance(*moments(rows[keep]), mean, cov)
    assert FewSamples(rows, mean, cov).distance(keep) == pytest.approx(expected, abs=1e-6)


def test_moments_are_numpys():
    rows = normal(13, 700, 5)
    mean, cov = moments(torch.from_numpy(rows))
    np.testing.assert_allclose(mean, rows.mean(axis=0), rtol=0, atol=1e-14)
    np.testing.assert_allclose(cov, np.cov(rows.T), rtol=1e-12, atol=1e-15)
    assert mean.dtype == cov.dtype == np.float64


def test_streamed_moments_do_not_depend_on_batch_size_to_the_bit():
    rows = normal(14, 1300, 6).astype(np.float32)
    whole = Moments().update(rows).compute()
    for size in (1, 7, 512, 900):
        stream = Moments(6)
        for start in range(0, len(rows), size):
            stream.update(rows[start : start + size])
        assert stream.count == 1300
        for found, expected in zip(stream.compute(), whole, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_merged_moments_are_those_of_the_whole():
    rows = normal(15, 1500, 4) + 100
    first, second = Moments().update(rows[:611]), Moments().update(rows[611:])
    before = second.compute()
    merged = Moments().merge(first).merge(second).merge(Moments())
    for found, expected in zip(merged.compute(), moments(rows), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-11)
    for found, expected in zip(second.compute(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_merging_with_itself_doubles():
    stream = Moments().update(normal(16, 5, 3))
    assert stream.merge(stream).count == 10


def test_large_means_cost_no_digits():
    rows = normal(17, 2000, 3)
    _, cov = moments(rows + 1e7)
    np.testing.assert_allclose(cov, np.cov(rows.T), rtol=1e-7, atol=1e-9)


def test_memory_does_not_grow_with_the_stream():
    stream = Moments(4)
    for seed in range(40):
        stream.update(normal(seed, 100, 4))
    assert sum(len(part) for part in stream._pending) < 512
    assert stream.count == 4000


def test_computing_does_not_disturb_the_stream():
    rows = normal(18, 900, 3)
    stream = Moments().update(rows[:300])
    stream.compute()
    stream.update(rows[300:])
    np.testing.assert_array_equal(stream.compute()[1], moments(rows)[1])


def test_the_stream_keeps_no_view_of_a_callers_buffer():
    buffer = normal(19, 5, 3)
    stream = Moments().update(buffer)
    expected = stream.compute()[0]
    buffer[:] = 0
    np.testing.assert_array_equal(stream.compute()[0], expected)


@pytest.mark.parametrize("keys", [("mu", "sigma"), ("ref_mu", "ref_sigma")])
def test_statistics_files(tmp_path, keys):
    mean, cov = normal(20, 4).astype(np.float32), spd(20, 4)
    np.savez(tmp_path / "stats.npz", **dict(zip(keys, (mean, cov), strict=True)))
    found_mean, found_cov = load_moments(tmp_path / "stats.npz")
    assert found_mean.dtype == found_cov.dtype == np.float64
    np.testing.assert_array_equal(found_mean, mean)
    np.testing.assert_allclose(found_cov, cov, rtol=1e-15)


def test_statistics_files_prefer_mu(tmp_path):
    np.savez(tmp_path / "s.npz", mu=np.ones(2), sigma=np.eye(2), ref_mu=np.zeros(2), ref_sigma=np.eye(2))
    np.testing.assert_array_equal(load_moments(tmp_path / "s.npz")[0], np.ones(2))


@pytest.mark.parametrize(
    "content, match",
    [
        ({"mu": np.ones(2), "ref_sigma": np.eye(2)}, "found mu, ref_sigma"),
        ({"mu": np.ones(2), "sigma": np.eye(3)}, r"\(2,\) and \(3, 3\)"),
        ({"mu": np.ones(2), "sigma": np.full((2, 2), np.nan)}, "not finite"),
        ({"mu": np.array([None, None]), "sigma": np.eye(2)}, "cannot be read"),
    ],
)
def test_wrong_statistics_files_are_refused(tmp_path, content, match):
    np.savez(tmp_path / "stats.npz", **content)
    with pytest.raises(DataError, match=match):
        load_moments(tmp_path / "stats.npz")


def test_files_that_are_no_archives_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("not an archive")
    np.save(tmp_path / "array.npy", np.ones(3))
    for name, match in (("text.npz", "cannot be read"), ("array.npy", "not an .npz"), ("none.npz", "no such file")):
        with pytest.raises(DataError, match=match):
            load_moments(tmp_path / name)


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: moments(np.ones((1, 3))), "at least 2 images, got 1"),
        (lambda: frechet_from_features(np.ones((1, 3)), np.ones((5, 3))), "at least 2 images, got 1"),
        (lambda: frechet_from_features(np.ones((5, 3)), np.ones((5, 4))), "width 3.*4"),
        (lambda: moments(np.array([[1.0, np.inf], [0.0, 1.0]])), "1 of 2 rows"),
        (lambda: moments(np.ones(5)), r"\[n, d\]"),
        (lambda: Moments(3).update(np.ones((2, 4))), "width 4.*3"),
        (lambda: frechet_distance(np.ones(2), np.eye(2), np.ones(3), np.eye(3)), "width 2.*3"),
        (lambda: frechet_distance(np.ones(2), [[1, 0.5], [0, 1]], np.ones(2), np.eye(2)), "not symmetric"),
        (lambda: frechet_distance(np.ones(2), np.diag([1.0, -1.0]), np.ones(2), np.eye(2)), "eigenvalue -1"),
    ],
)
def test_wrong_input_ends_in_one_sentence(call, match):
    with pytest.raises(RequestError, match=match):
        call()
