"""What every metric in the table promises; registering one subscribes it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from diffusionbench.axes import Sample
from diffusionbench.errors import RequestError
from diffusionbench.extractors import EXTRACTORS
from diffusionbench.metrics import METRICS, kid

COUNT, WIDTH, CLASSES = 1200, 6, 10
LABELS = [index % CLASSES for index in range(COUNT)]


class FakeExtractor:
    name, dim, image_size, digest = "fake", WIDTH, None, "fake"

    def __call__(self, images):
        return {"features": images.astype(np.float32), "logits": images.astype(np.float32)}


class FakeReference:
    name, digest, image_size, num_classes = "fake", "fake", None, CLASSES
    offers = frozenset({"moments", "features"})

    def __init__(self, rows):
        self.rows = rows

    def features(self, extractor):
        return self.rows["features"]

    def moments(self, extractor):
        rows = self.rows["features"].astype(np.float64)
        return rows.mean(0), np.cov(rows, rowvar=False)


def rows(seed: int, count: int = COUNT) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "features": generator.normal(size=(count, WIDTH)).astype(np.float32),
        "logits": generator.normal(size=(count, CLASSES)).astype(np.float32),
    }


REFERENCE, GENERATED = FakeReference(rows(0)), rows(1)


def evaluate(key, generated, order, batch):
    metric = METRICS.load(key).create(REFERENCE, FakeExtractor())
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        outputs = {name: values[chosen] for name, values in generated.items()}
        metric.update(outputs, [Sample(int(index), LABELS[index]) for index in chosen])
    return metric.compute()


@pytest.fixture(autouse=True)
def few_subsets(monkeypatch):
    """A hundred subsets show nothing that five do not."""
    monkeypatch.setattr(kid, "_SUBSETS", 5)


@pytest.mark.parametrize("key", METRICS)
def test_the_specification_is_complete(key):
    spec = METRICS.load(key)
    assert spec.key == key
    assert re.fullmatch(r"[a-z0-9_]+", key)
    assert spec.title
    assert spec.source
    assert spec.extractor in EXTRACTORS
    assert isinstance(spec.higher_is_better, bool)
    # Only the Inception network may produce a number of these names.
    assert (spec.extractor == "digits") == key.endswith("_digits")


@pytest.mark.parametrize("key", METRICS)
def test_batches_and_order_change_nothing(key):
    order = np.arange(COUNT)
    whole = evaluate(key, GENERATED, order, COUNT)
    shuffled = evaluate(key, GENERATED, np.random.default_rng(2).permutation(order), 113)
    assert shuffled.value == pytest.approx(whole.value, rel=1e-9)
    assert shuffled.stderr == (None if whole.stderr is None else pytest.approx(whole.stderr, rel=1e-6))
    assert whole.scored == COUNT
    assert whole.interval is not None
    assert whole.interval[0] <= whole.value <= whole.interval[1]


@pytest.mark.parametrize("key", [key for key in METRICS if METRICS.load(key).needs != "nothing"])
def test_the_reference_itself_scores_best(key):
    same = evaluate(key, REFERENCE.rows, np.arange(COUNT), 400)
    shifted = {name: values + 3 for name, values in REFERENCE.rows.items()}
    other = evaluate(key, shifted, np.arange(COUNT), 400)
    if METRICS.load(key).higher_is_better:
        assert same.value == 1 > other.value
    else:
        assert abs(same.value) < 0.1 < other.value


@pytest.mark.parametrize("key", METRICS)
def test_rows_that_cannot_be_judged_are_counted_and_left_out(key):
    broken = {name: values.copy() for name, values in GENERATED.items()}
    for values in broken.values():
        values[[5, 17]] = np.nan
    found = evaluate(key, broken, np.arange(COUNT), 100)
    assert (found.scored, found.unscored, found.unscored_ids) == (COUNT - 2, 2, (5, 17))
    kept = np.delete(np.arange(COUNT), [5, 17])
    assert found.value == pytest.approx(evaluate(key, GENERATED, kept, 100).value, rel=1e-9)


@pytest.mark.parametrize("key", METRICS)
def test_too_few_images_are_refused(key):
    few = METRICS.load(key).min_samples - 1
    with pytest.raises(RequestError, match=rf"metric '{key}' needs at least {few + 1} images"):
        evaluate(key, GENERATED, np.arange(few), 100)


@pytest.mark.parametrize("key", METRICS)
def test_an_image_counts_once(key):
    with pytest.raises(RequestError, match="second time"):
        evaluate(key, GENERATED, np.array([0, 1, 0]), 1)
