"""What every registered metric keeps to. A line in `METRICS` subscribes a metric to all of this."""

import functools

import numpy as np
import pytest

from diffusionbench.axes import Sample
from diffusionbench.errors import RequestError
from diffusionbench.extractors import EXTRACTORS
from diffusionbench.metrics import METRICS

WIDTH, CLASSES, COUNT = 6, 10, 1100


def draw(seed, count=COUNT):
    rng = np.random.default_rng(seed)
    return {
        "features": rng.standard_normal((count, WIDTH)).astype(np.float32),
        "logits": rng.standard_normal((count, CLASSES)).astype(np.float32) * 2,
    }


class FakeExtractor:
    name = "fake"
    dim = WIDTH
    image_size = None
    digest = "0" * 64

    def __call__(self, images):
        return draw(0, len(images))


class FakeReference:
    name = "fake"
    digest = "1" * 64
    image_size = None
    num_classes = CLASSES

    def __init__(self):
        self._rows = draw(1)["features"]

    def labels(self, count):
        return [i % CLASSES for i in range(count)]

    def anchors(self, count):
        return {}

    def moments(self, extractor):
        rows = self._rows.astype(np.float64)
        return rows.mean(axis=0), np.cov(rows.T)

    def features(self, extractor):
        return self._rows


@pytest.fixture(autouse=True)
def _few_subsets(monkeypatch):
    # A hundred subsets of a thousand would take most of the time of this file and show nothing more.
    monkeypatch.setattr("diffusionbench.metrics.kid._SUBSETS", 10)


@pytest.fixture(params=sorted(METRICS))
def spec(request):
    return METRICS.load(request.param)


@pytest.fixture(scope="module")
def reference():
    return FakeReference()


def feed(spec, reference, outputs, order=None, batch=COUNT, ids=None):
    """A metric that has seen the rows `order` in batches."""
    order = np.arange(len(outputs["features"])) if order is None else order
    metric = spec.create(reference, FakeExtractor())
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        samples = [Sample(id=int(i if ids is None else ids[i]), label=int(i % CLASSES)) for i in chosen]
        metric.update({name: rows[chosen] for name, rows in outputs.items()}, samples)
    return metric


@functools.cache
def whole(spec, reference):
    """The estimate over one set in one batch, in order."""
    return feed(spec, reference, draw(2)).compute()


def same(found, expected):
    assert found.value == pytest.approx(expected.value, rel=1e-9, abs=1e-12)
    assert (found.method, found.scored, found.unscored) == (expected.method, expected.scored, expected.unscored)
    assert found.interval == pytest.approx(expected.interval, rel=1e-6)
    assert (found.stderr is None) == (expected.stderr is None)
    assert found.extra == pytest.approx(expected.extra, rel=1e-6)


def test_the_specification_is_complete(spec):
    assert spec.key == spec.key.lower()
    assert isinstance(spec.higher_is_better, bool)
    assert spec.needs in ("moments", "features", "nothing")
    assert spec.extractor in EXTRACTORS
    assert spec.title
    assert spec.source
    assert spec.min_samples >= 1
    # Only the Inception network may produce a number called fid (or its siblings).
    assert spec.key.endswith("_digits") == (spec.extractor == "digits")


def test_keys_are_unique():
    keys = [METRICS.load(name).key for name in METRICS]
    assert len(set(keys)) == len(keys)


def test_value_does_not_depend_on_batches_or_order(spec, reference):
    outputs = draw(2)
    shuffled = np.random.default_rng(3).permutation(COUNT)
    same(feed(spec, reference, outputs, order=shuffled, batch=97).compute(), whole(spec, reference))


def test_value_has_its_uncertainty(spec, reference):
    estimate = whole(spec, reference)
    assert np.isfinite(estimate.value)
    low, high = estimate.interval
    assert low < estimate.value < high
    assert (estimate.stderr is None) == (estimate.method == "wilson")
    assert estimate.scored == COUNT
    assert estimate.per_sample is None or len(estimate.per_sample) == COUNT
    # The width that a second draw of the images confirms, within a wide margin.
    others = [feed(spec, reference, draw(seed)).compute().value for seed in range(10, 13)]
    assert (high - low) / 40 < np.std([estimate.value, *others], ddof=1) < high - low


def test_a_set_against_itself(spec, reference):
    outputs = {"features": reference.features(None), "logits": draw(2)["logits"]}
    value = feed(spec, reference, outputs).compute().value
    if spec.needs == "nothing":
        assert value > 0
    else:
        # Distances vanish and shares are whole; KID's biased cross term leaves a little.
        assert value == pytest.approx(1 if spec.higher_is_better else 0, abs=0.05)


def test_worse_images_score_worse(spec, reference):
    good, bad = draw(2), draw(2)
    good["logits"][np.arange(COUNT), np.arange(COUNT) % CLASSES] += 5
    bad["features"] = bad["features"] * 0.2 + 4
    bad["logits"] *= 0.1
    better, worse = (feed(spec, reference, outputs).compute().value for outputs in (good, bad))
    assert better > worse if spec.higher_is_better else better < worse


def test_rows_that_are_not_finite_are_unscored_and_named(spec, reference):
    outputs = draw(2)
    expected = feed(spec, reference, outputs, order=np.delete(np.arange(COUNT), [5, 40])).compute()
    outputs["features"][5, 1] = outputs["logits"][5, 1] = np.nan
    outputs["features"][40, 0] = outputs["logits"][40, 0] = np.inf
    found = feed(spec, reference, outputs, batch=64).compute()
    assert (found.scored, found.unscored, found.unscored_ids) == (COUNT - 2, 2, (5, 40))
    assert found.value == pytest.approx(expected.value, rel=1e-9)


def test_too_few_images_are_refused(spec, reference):
    count = spec.min_samples - 1
    outputs = draw(2, count)
    with pytest.raises(RequestError, match=rf"'{spec.key}' needs at least {spec.min_samples} images; {count} were"):
        feed(spec, reference, outputs).compute()


def test_the_smallest_set_has_a_value_and_no_wrong_uncertainty(spec, reference):
    estimate = feed(spec, reference, draw(2, spec.min_samples)).compute()
    assert np.isfinite(estimate.value)
    if estimate.method == "none":
        assert (estimate.stderr, estimate.interval) == (None, None)
    if spec.min_samples < 10:
        assert estimate.method in ("none", "wilson")


def test_a_group_without_images_leaves_no_jackknife(spec, reference):
    ids = np.arange(COUNT) * 2
    assert feed(spec, reference, draw(2), ids=ids).compute().method in ("none", "wilson")


def test_a_sample_counts_once(spec, reference):
    with pytest.raises(RequestError, match="sample 3 a second time"):
        feed(spec, reference, draw(2, 8), order=np.array([0, 3, 4, 3]))


def test_a_wrong_extractor_is_refused(spec, reference):
    metric = spec.create(reference, FakeExtractor())
    samples = [Sample(id=0, label=0), Sample(id=1, label=1)]
    with pytest.raises(RequestError, match=r"needs '(features|logits)' from its extractor, which returned pixels"):
        metric.update({"pixels": np.zeros((2, 3), np.float32)}, samples)
    with pytest.raises(RequestError, match=r"one row of '(features|logits)' for each of 2 samples"):
        metric.update(draw(2, 3), samples)
