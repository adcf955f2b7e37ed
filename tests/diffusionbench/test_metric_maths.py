"""Metric maths against closed forms and direct formulas in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusionbench.errors import DataError, RequestError, UserError
from diffusionbench.metrics.frechet import (
    Moments,
    frechet_distance,
    frechet_from_features,
    load_moments,
    moments,
)
from diffusionbench.metrics.inception_score import inception_score
from diffusionbench.metrics.kid import kid
from diffusionbench.metrics.precision_recall import f_score, precision_recall
from diffusionbench.stats import GROUPS, group_of, jackknife, jackknife_interval, wilson


def gaussian(n: int, d: int, seed: int = 0, mix: float = 0.3) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, d)) @ (np.eye(d) + mix * generator.normal(size=(d, d)))


def plain_frechet(mean_a, cov_a, mean_b, cov_b) -> float:
    """The definition through eigenvalues of the product."""
    roots = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).astype(complex)).real.sum()
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * roots)


def test_moments_are_the_unbiased_sample_moments():
    features = gaussian(50, 6).astype(np.float32)
    for given_as in (features, torch.from_numpy(features)):
        mean, cov = moments(given_as)
        assert (mean.dtype, cov.dtype) == (np.float64, np.float64)
        np.testing.assert_allclose(mean, features.astype(np.float64).mean(0), rtol=1e-12)
        np.testing.assert_allclose(cov, np.cov(features.astype(np.float64), rowvar=False), rtol=1e-10)


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(1, 39), max_size=4, unique=True), offset=st.sampled_from([0.0, 1e6]))
def test_streaming_and_merging_moments_change_nothing(cuts, offset):
    features = gaussian(40, 5) + offset
    parts = np.split(features, sorted(cuts))
    streamed, merged = Moments(), Moments()
    for part in parts:
        streamed.update(part)
        merged.merge(Moments().update(part))
    for found in (streamed, merged):
        mean, cov = found.compute()
        np.testing.assert_allclose(mean, features.mean(0), rtol=1e-12)
        # A large mean must not eat the covariance.
        np.testing.assert_allclose(cov, np.cov(gaussian(40, 5), rowvar=False), rtol=1e-6, atol=1e-8)


def test_moments_need_two_images():
    with pytest.raises(UserError, match="2"):
        moments(np.zeros((1, 3)))


def test_frechet_of_gaussians_with_diagonal_covariances():
    mean, a, b = np.array([1.0, 2.0, 0.5]), np.array([1.0, 4.0, 0.25]), np.array([4.0, 1.0, 0.0])
    expected = (mean**2).sum() + (a + b - 2 * np.sqrt(a * b)).sum()
    assert frechet_distance(mean, np.diag(a), np.zeros(3), np.diag(b)) == pytest.approx(expected, rel=1e-12)


def test_frechet_is_symmetric_zero_on_itself_and_the_shift_on_a_shift():
    a, b = moments(gaussian(200, 8)), moments(gaussian(200, 8, seed=1))
    assert frechet_distance(*a, *b) == pytest.approx(plain_frechet(*a, *b), rel=1e-9)
    assert frechet_distance(*a, *b) == pytest.approx(frechet_distance(*b, *a), rel=1e-9)
    assert 0 <= frechet_distance(*a, *a) < 1e-9
    assert frechet_distance(a[0] + 2, a[1], *a) == pytest.approx(4 * 8, rel=1e-9)


def test_frechet_of_singular_covariances():
    """Fewer samples than dimensions: Cholesky fails, and the distance is still that of the definition."""
    a, b = gaussian(10, 30), gaussian(12, 30, seed=1)
    expected = plain_frechet(*moments(a), *moments(b))
    assert frechet_distance(*moments(a), *moments(b)) == pytest.approx(expected, rel=1e-5)
    assert frechet_from_features(a, b) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("n, m, d", [(100, 90, 12), (12, 90, 30), (12, 14, 30)])
def test_frechet_from_features_equals_the_full_route(n, m, d):
    a, b = gaussian(n, d), gaussian(m, d, seed=1)
    full = frechet_distance(*moments(a), *moments(b))
    assert frechet_from_features(a, b) == pytest.approx(full, rel=1e-6)
    assert frechet_from_features(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(full, rel=1e-6)


def test_frechet_refuses_what_does_not_fit():
    with pytest.raises(UserError):
        frechet_distance(np.zeros(3), np.eye(3), np.zeros(4), np.eye(4))
    with pytest.raises(UserError, match="finite"):
        frechet_distance(np.zeros(2), np.full((2, 2), np.nan), np.zeros(2), np.eye(2))


def test_statistics_files(tmp_path):
    mean, cov = moments(gaussian(30, 4))
    for keys in (("mu", "sigma"), ("ref_mu", "ref_sigma")):
        file = tmp_path / f"{keys[0]}.npz"
        np.savez(file, **{keys[0]: mean, keys[1]: cov})
        found = load_moments(file)
        np.testing.assert_array_equal(found[0], mean)
        np.testing.assert_array_equal(found[1], cov)
    np.savez(tmp_path / "both.npz", mu=mean, sigma=cov, ref_mu=mean + 1, ref_sigma=cov)
    np.testing.assert_array_equal(load_moments(tmp_path / "both.npz")[0], mean)
    np.savez(tmp_path / "other.npz", means=mean)
    with pytest.raises(DataError, match="found means"):
        load_moments(tmp_path / "other.npz")
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    for name in ("broken.npz", "absent.npz"):
        with pytest.raises(DataError, match=name):
            load_moments(tmp_path / name)


def softmax(logits: np.ndarray) -> np.ndarray:
    exponents = np.exp(logits - logits.max(1, keepdims=True))
    return exponents / exponents.sum(1, keepdims=True)


def plain_inception_score(p: np.ndarray, epsilon: float) -> float:
    q = p.mean(0)
    return float(np.exp((p * (np.log(p + epsilon) - np.log(q + epsilon))).sum(1).mean()))


def logits(n: int, classes: int = 12) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(n, classes)).astype(np.float32) * 2


def test_inception_score_upstream():
    """Shuffled with seed 0, ten chunks of floor(N / 10), the rest dropped."""
    given_logits = logits(207)
    order = np.random.RandomState(0).permutation(207)
    p = softmax(given_logits[order].astype(np.float64))
    scores = [plain_inception_score(p[20 * k : 20 * (k + 1)], 1e-10) for k in range(10)]
    found = inception_score(given_logits, "upstream")
    assert found == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-5)
    assert inception_score(torch.from_numpy(given_logits)) == pytest.approx(found)


def test_inception_score_torch_fidelity():
    given_logits = logits(207)
    order = np.random.RandomState(2020).permutation(207)
    p = softmax(given_logits[order].astype(np.float64))
    scores = [plain_inception_score(p[k * 207 // 10 : (k + 1) * 207 // 10], 0) for k in range(10)]
    assert inception_score(given_logits, "torch_fidelity") == pytest.approx((np.mean(scores), np.std(scores)), rel=1e-9)


def test_inception_score_adm():
    given_logits = logits(7000, 5)
    p = softmax(given_logits.astype(np.float64))
    scores = [plain_inception_score(p[:5000], 0), plain_inception_score(p[5000:], 0)]
    mean, std = inception_score(given_logits, "adm")
    assert mean == pytest.approx(np.mean(scores), rel=1e-5)
    # The deviation of two close numbers in float32.
    assert std == pytest.approx(np.std(scores), rel=1e-3)


def test_inception_score_has_its_bounds():
    certain = np.eye(10, dtype=np.float32).repeat(100, 0) * 100
    assert inception_score(certain, "torch_fidelity")[0] == pytest.approx(10, rel=0.05)
    assert inception_score(np.zeros((100, 10)), "torch_fidelity")[0] == pytest.approx(1)
    with pytest.raises(UserError, match="10"):
        inception_score(logits(9))


def test_kid_is_the_mean_over_the_reference_subsets():
    x, y = gaussian(60, 4), gaussian(50, 4, seed=1)
    stream = np.random.RandomState(2020)
    values = []
    for _ in range(5):
        a = x[stream.choice(60, 20, replace=False)]
        b = y[stream.choice(50, 20, replace=False)]
        kernel = [(u @ v.T / 4 + 1) ** 3 for u, v in ((a, a), (b, b), (a, b))]
        within = sum(k.sum() - np.trace(k) for k in kernel[:2])
        values.append(within / (20 * 19) - 2 * kernel[2].sum() / 20**2)
    expected = (np.mean(values), np.std(values))
    assert kid(x, y, subsets=5, subset_size=20) == pytest.approx(expected, rel=1e-6)
    with pytest.raises(UserError, match="20"):
        kid(x[:19], y, subsets=5, subset_size=20)


def test_kid_is_unbiased():
    """Two samples of one distribution: zero within the error of the mean."""
    values = [
        kid(gaussian(100, 3, s, 0), gaussian(100, 3, 500 + s, 0), subsets=1, subset_size=100)[0] for s in range(60)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(60)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_by_brute_force(k):
    x, y = gaussian(40, 3), gaussian(35, 3, seed=1) + 1

    def covered(points, centres):
        own = np.linalg.norm(centres[:, None] - centres[None], axis=-1)
        radius = np.sort(own, axis=1)[:, k]
        across = np.linalg.norm(points[:, None] - centres[None], axis=-1)
        return (across <= radius[None]).any(1).mean()

    found = precision_recall(x, y, k=k)
    assert found == pytest.approx((covered(x, y), covered(y, x)))
    assert 0 < found[0] < 1


def test_precision_and_recall_have_their_ends():
    x = gaussian(30, 3)
    assert precision_recall(x, x) == (1.0, 1.0)
    assert precision_recall(x, x + 1000) == (0.0, 0.0)
    # Generated images that are few real ones: precise, without variety.
    precision, recall = precision_recall(np.repeat(x[:2], 10, 0), x)
    assert precision == 1
    assert recall < 0.5
    assert f_score(1.0, 0.5) == pytest.approx(2 / 3)
    assert f_score(0.0, 0.0) == 0
    with pytest.raises(UserError):
        precision_recall(x[:3], x)


def test_jackknife_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(0).normal(size=(GROUPS, 7)).mean(1)
    replicates = [np.delete(values, group).mean() for group in range(GROUPS)]
    assert jackknife(replicates) == pytest.approx(values.std(ddof=1) / math.sqrt(GROUPS))
    assert jackknife([1.0]) is None
    assert jackknife([1.0, float("nan"), 2.0]) is None
    low, high = jackknife_interval(1.0, 0.1)
    assert (low + high) / 2 == pytest.approx(1)
    assert (high - low) / 2 == pytest.approx(0.2262157)


def test_groups_are_equal_and_mix_classes_that_come_in_turn():
    ids = np.arange(1000)
    groups = group_of(ids)
    assert np.bincount(groups).tolist() == [100] * GROUPS
    assert group_of(123) == groups[123]
    for label in range(10):
        assert np.bincount(groups[ids % 10 == label], minlength=GROUPS).tolist() == [10] * GROUPS


def test_wilson_interval():
    low, high = wilson(45, 50)
    assert (low, high) == pytest.approx((0.7864, 0.9565), abs=1e-4)
    assert wilson(0, 10)[0] == 0
    assert wilson(10, 10)[1] == 1
    assert wilson(0, 10)[1] == pytest.approx(1 - wilson(10, 10)[0])
    for bad in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ValueError, match="share"):
            wilson(*bad)


def test_jackknife_error_is_that_of_the_draw():
    """The stated error of a Frechet distance matches its spread over independent draws."""
    from diffusionbench.metrics import METRICS

    class Reference:
        name = "normal"

        def moments(self, extractor):
            return np.zeros(4), np.eye(4)

    class Extractor:
        name, dim = "digits", 4

    class Sample:
        def __init__(self, index):
            self.id, self.label = index, None

    values, errors = [], []
    for seed in range(40):
        metric = METRICS.load("fd_digits").create(Reference(), Extractor())
        rows = np.random.default_rng(seed).normal(size=(300, 4)) + 0.5
        metric.update({"features": rows}, [Sample(index) for index in range(300)])
        estimate = metric.compute()
        values.append(estimate.value)
        errors.append(estimate.stderr)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.35)


def test_wrong_arrays_are_refused():
    for call in (lambda: moments(np.zeros(3)), lambda: kid(np.zeros((5, 2)), np.zeros((5, 3)), 1, 2)):
        with pytest.raises((RequestError, UserError)):
            call()
