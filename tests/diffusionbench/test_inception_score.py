"""The three published variants of the Inception Score, written out in float64."""

import numpy as np
import pytest
import torch
from making import make_metric, update

from diffusionbench.errors import RequestError
from diffusionbench.metrics.inception_score import inception_score
from diffusionbench.sample import Sample
from diffusionbench.stats import jackknife


def logits(count: int, classes: int = 7, seed: int = 0, sharpness: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(count, classes)) * sharpness).astype(np.float32)


def probabilities(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    odds = np.exp(rows - rows.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def chunk_score(rows: np.ndarray, epsilon: float = 0.0) -> float:
    p = probabilities(rows)
    q = p.mean(axis=0)
    return float(np.exp((p * (np.log(p + epsilon) - np.log(q + epsilon))).sum(axis=1).mean()))


def chunks(count: int, variant: str) -> list[np.ndarray]:
    if variant == "upstream":
        order = np.random.RandomState(0).permutation(count)
        return [order[k * (count // 10) : (k + 1) * (count // 10)] for k in range(10)]
    if variant == "torch_fidelity":
        order = np.random.RandomState(2020).permutation(count)
        return [order[k * count // 10 : (k + 1) * count // 10] for k in range(10)]
    return [np.arange(count)[start : start + 5000] for start in range(0, count, 5000)]


@pytest.mark.parametrize("variant, epsilon", [("upstream", 1e-10), ("torch_fidelity", 0.0), ("adm", 0.0)])
@pytest.mark.parametrize("count", [10, 137, 5003])
def test_a_variant_equals_its_formula(variant, epsilon, count):
    rows = logits(count)
    scores = [chunk_score(rows[chunk], epsilon) for chunk in chunks(count, variant)]
    mean, std = inception_score(rows, variant)
    assert mean == pytest.approx(np.mean(scores), rel=1e-5)
    assert std == pytest.approx(np.std(scores), rel=1e-3, abs=1e-5)


def test_upstream_is_the_default():
    assert inception_score(logits(100)) == inception_score(logits(100), "upstream")


def test_the_variants_differ():
    values = {inception_score(logits(137), variant)[0] for variant in ("upstream", "torch_fidelity", "adm")}
    assert len(values) == 3


@pytest.mark.parametrize("variant", ["upstream", "torch_fidelity", "adm"])
def test_the_ends_of_the_scale(variant):
    # Always the same answer: 1. Sure of each image and even over 5 classes in every chunk: 5.
    assert inception_score(np.zeros((40, 5)), variant) == pytest.approx((1.0, 0.0), abs=1e-5)
    rows = np.full((20_000, 5), -200.0, np.float32)
    rows[np.arange(20_000), np.arange(20_000) % 5] = 200.0
    assert inception_score(rows, variant)[0] == pytest.approx(5.0, rel=2e-3)


def test_without_a_shuffle_sets_ordered_by_class_score_too_low():
    rows = np.full((20_000, 4), -50.0, np.float32)
    rows[np.arange(20_000), np.arange(20_000) // 5000] = 50.0
    assert inception_score(rows, "adm")[0] == pytest.approx(1.0, abs=1e-5)
    assert inception_score(rows)[0] > 3.9


def test_a_shift_of_all_logits_of_an_image_plays_no_part():
    rows = logits(60).astype(np.float64)
    shifts = np.random.default_rng(1).normal(size=(60, 1)) * 50
    found, wanted = inception_score(rows + shifts, "torch_fidelity"), inception_score(rows, "torch_fidelity")
    assert found == pytest.approx(wanted, rel=1e-9)


def test_tensors_and_large_logits():
    rows = logits(50)
    assert inception_score(torch.from_numpy(rows)) == inception_score(rows)
    assert all(np.isfinite(inception_score(rows * 1e6, variant)).all() for variant in ("upstream", "adm"))


def test_bad_input_is_refused():
    with pytest.raises(RequestError, match="at least 10"):
        inception_score(logits(9))
    with pytest.raises(RequestError, match="not finite"):
        inception_score(np.where(np.arange(20)[:, None] == 3, np.nan, logits(20)))
    with pytest.raises(RequestError, match="upstream, torch_fidelity, adm"):
        inception_score(logits(20), "fidelity")


def test_the_metrics_jackknife_keeps_the_chunks():
    rows = logits(137)
    metric = make_metric("inception_score")
    update(metric, {"logits": rows}, [Sample(index) for index in range(137)])
    estimate = metric.compute()
    left = [
        np.mean([chunk_score(rows[chunk[chunk % 10 != group]]) for chunk in chunks(137, "upstream")])
        for group in range(10)
    ]
    assert estimate.stderr == pytest.approx(jackknife(left), rel=1e-4)
    assert estimate.value == inception_score(rows)[0]
    assert estimate.extra == {"inception_score_std": inception_score(rows)[1]}
