import numpy as np
import pytest

from diffusionbench.errors import RequestError
from diffusionbench.metrics.inception_score import _chunks, _score, _without_groups, inception_score
from diffusionbench.stats import GROUPS

VARIANTS = ("upstream", "torch_fidelity", "adm")


def logits(seed, n, c):
    return (np.random.default_rng(seed).standard_normal((n, c)) * 2).astype(np.float32)


def plain_score(rows, epsilon=0.0):
    p = np.exp(rows.astype(np.float64))
    p /= p.sum(axis=1, keepdims=True)
    q = p.mean(axis=0)
    return np.exp((p * (np.log(p + epsilon) - np.log(q + epsilon))).sum(axis=1).mean())


@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_predictions_score_one(variant):
    assert inception_score(np.tile(logits(0, 1, 7), (40, 1)), variant) == pytest.approx((1, 0), abs=1e-5)


def test_sure_and_even_predictions_score_the_number_of_classes():
    sure = np.eye(5, dtype=np.float32)[np.arange(50) % 5] * 200
    assert inception_score(sure, "adm") == pytest.approx((5, 0), rel=1e-5)


def test_variants_cut_and_shuffle_as_published():
    rows = logits(1, 57, 6)
    order = np.random.RandomState(0).permutation(57)
    upstream = [plain_score(rows[order[k * 5 : k * 5 + 5]], 1e-10) for k in range(10)]
    assert inception_score(rows) == pytest.approx((np.mean(upstream), np.std(upstream)), rel=1e-5)
    order = np.random.RandomState(2020).permutation(57)
    fidelity = [plain_score(rows[order[k * 57 // 10 : (k + 1) * 57 // 10]]) for k in range(10)]
    found = inception_score(rows, "torch_fidelity")
    assert found == pytest.approx((np.mean(fidelity), np.std(fidelity)), rel=1e-12)
    assert inception_score(rows, "adm") == pytest.approx((plain_score(rows), 0), rel=1e-5)


def test_adm_blocks_end_with_a_shorter_one():
    assert [(chunk[0], len(chunk)) for chunk in _chunks(12_000, "adm")] == [(0, 5000), (5000, 5000), (10_000, 2000)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_probabilities_that_vanish_in_float32_count_as_nothing(variant):
    rows = np.zeros((20, 3), dtype=np.float32)
    rows[:, 1] = -1000
    assert inception_score(rows, variant) == pytest.approx((1, 0), abs=1e-5)


def test_class_order_ruins_the_unshuffled_variant_only():
    ordered = np.eye(20, dtype=np.float32)[np.repeat(np.arange(20), 1000)] * 50
    assert inception_score(ordered, "adm")[0] == pytest.approx(5, rel=1e-4)
    assert inception_score(ordered)[0] > 19.5


@pytest.mark.parametrize("variant", VARIANTS)
def test_leaving_a_group_out_keeps_the_chunks(variant):
    rows, groups = logits(2, 400, 5), np.arange(400) % GROUPS
    found = _without_groups(rows, groups, variant)
    for group in range(GROUPS):
        chunks = [chunk[groups[chunk] != group] for chunk in _chunks(400, variant)]
        assert found[group] == pytest.approx(np.mean([_score(rows[chunk], variant) for chunk in chunks]), rel=1e-5)


def test_a_chunk_of_one_group_has_no_replicates():
    assert np.isnan(_without_groups(logits(3, 10, 4), np.arange(10), "upstream")).all()


def test_too_few_images_and_unknown_variants_are_refused():
    with pytest.raises(RequestError, match="at least 10 images, got 9"):
        inception_score(logits(4, 9, 3))
    with pytest.raises(RequestError, match=r"unknown Inception Score variant .other.\. Known: .*torch_fidelity"):
        inception_score(logits(4, 10, 3), "other")
