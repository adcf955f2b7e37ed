"""What every metric promises."""

import re

import numpy as np
import pytest

from diffusionbench.axes import Sample
from diffusionbench.errors import RequestError
from diffusionbench.judges import EXTRACTORS
from diffusionbench.metrics import METRICS
from diffusionbench.stats import Estimate

WIDTH, CLASSES = 16, 10
DIRECTION_OF_DISTANCES = {"fid": False, "kid_mean": False, "fd_digits": False, "kd_digits": False}


class Judge:
    """Stands in for a feature network."""

    name = "judge"
    dim = WIDTH
    image_size = None
    digest = "0" * 64


class Real:
    """Stands in for a reference: correlated features with a mean."""

    name = "real"
    digest = "1" * 64
    image_size = None
    num_classes = CLASSES
    offers = frozenset({"moments", "features"})

    def __init__(self, count: int) -> None:
        mix = np.random.default_rng(0).normal(size=(WIDTH, WIDTH))
        rows = np.random.default_rng(1).normal(size=(count, WIDTH)) @ mix + 2
        self.rows = rows.astype(np.float32)

    def features(self, extractor):
        return self.rows

    def moments(self, extractor):
        rows = self.rows.astype(np.float64)
        return rows.mean(axis=0), np.cov(rows, rowvar=False)


# A metric on prompts judges pictures, not features: its contract stands with its own tests.
@pytest.fixture(params=[key for key in METRICS if METRICS.load(key).needs != "prompts"])
def spec(request, monkeypatch):
    # The rule is the same for 2 subsets as for 100.
    monkeypatch.setattr("diffusionbench.metrics.kid._SUBSETS", 2)
    return METRICS.load(request.param)


def outputs(count: int, seed: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = Real(1).rows[0] + rng.normal(size=(count, WIDTH)) * 3
    logits = rng.normal(size=(count, CLASSES)) * 3
    return {"features": features.astype(np.float32), "logits": logits.astype(np.float32)}


def samples(count: int) -> list[Sample]:
    return [Sample(index, index % CLASSES) for index in range(count)]


def many(spec) -> int:
    return max(60, spec.min_samples) + 7


def judged(spec, given, wanted, order=None, batch=16) -> Estimate:
    order = list(range(len(wanted))) if order is None else order
    metric = spec.create(Real(many(spec)), Judge())
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        metric.update({name: rows[chosen] for name, rows in given.items()}, [wanted[index] for index in chosen])
    return metric.compute()


def same(a: Estimate, b: Estimate) -> None:
    assert a.value == pytest.approx(b.value, rel=1e-9, abs=1e-12)
    assert (a.stderr is None) == (b.stderr is None)
    if a.stderr is not None:
        assert a.stderr == pytest.approx(b.stderr, rel=1e-6, abs=1e-12)
    assert (a.interval is None) == (b.interval is None)
    assert (a.method, a.scored, a.unscored) == (b.method, b.scored, b.unscored)
    assert a.extra == pytest.approx(b.extra, rel=1e-9)


@pytest.mark.parametrize("batch", [1, 13, 10_000])
def test_batch_size_plays_no_part(spec, batch):
    given, wanted = outputs(many(spec)), samples(many(spec))
    same(judged(spec, given, wanted, batch=batch), judged(spec, given, wanted))


def test_order_plays_no_part(spec):
    given, wanted = outputs(many(spec)), samples(many(spec))
    order = np.random.default_rng(3).permutation(len(wanted)).tolist()
    same(judged(spec, given, wanted, order), judged(spec, given, wanted))


def test_nothing_is_written_to(spec):
    given, wanted = outputs(many(spec)), samples(many(spec))
    for rows in given.values():
        rows.flags.writeable = False
    judged(spec, given, wanted)


def test_the_best_possible_set_scores_better_than_a_bad_one(spec):
    count, wanted = many(spec), samples(many(spec))
    sure = np.full((count, CLASSES), -20.0, np.float32)
    sure[np.arange(count), np.arange(count) % CLASSES] = 20.0
    best = judged(spec, {"features": Real(count).rows, "logits": sure}, wanted)
    bad = judged(
        spec,
        {"features": Real(count).rows + 50, "logits": np.roll(sure, 1, axis=1) * 0.01},
        wanted,
    )
    assert (best.value > bad.value) == spec.higher_is_better
    assert best.value != bad.value
    if spec.needs != "nothing" and spec.higher_is_better:
        assert best.value == 1.0
    if spec.needs == "moments":
        assert best.value == pytest.approx(0.0, abs=1e-9)


def test_an_estimate_is_complete(spec):
    estimate = judged(spec, outputs(many(spec)), samples(many(spec)))
    assert isinstance(estimate, Estimate)
    assert isinstance(estimate.value, float)
    assert np.isfinite(estimate.value)
    assert (estimate.scored, estimate.unscored) == (many(spec), 0)
    assert estimate.method != "none"
    low, high = estimate.interval
    assert low <= estimate.value <= high
    assert all(re.fullmatch(r"[a-z0-9_]+", key) for key in estimate.extra)
    if estimate.per_sample is not None:
        assert np.mean(estimate.per_sample) == pytest.approx(estimate.value)


def test_too_few_images_are_refused(spec):
    count = spec.min_samples - 1
    metric = spec.create(Real(many(spec)), Judge())
    if count:
        metric.update(outputs(count), samples(count))
    with pytest.raises(RequestError, match=f"'{spec.key}' needs at least {spec.min_samples} images"):
        metric.compute()


def test_the_smallest_number_is_enough(spec):
    count = spec.min_samples
    assert np.isfinite(judged(spec, outputs(count), samples(count)).value)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_counted_named_and_left_out(spec, bad):
    count = many(spec)
    given, wanted = outputs(count), samples(count)
    spoilt = {name: rows.copy() for name, rows in given.items()}
    for rows in spoilt.values():
        rows[[3, 20], 1] = bad
    kept = [index for index in range(count) if index not in (3, 20)]
    found = judged(spec, spoilt, wanted)
    assert found.unscored_ids == (3, 20)
    assert (found.scored, found.unscored) == (count - 2, 2)
    clean = judged(spec, given, wanted, kept)
    assert found.value == pytest.approx(clean.value, rel=1e-9)


def test_a_sample_counts_once(spec):
    metric = spec.create(Real(many(spec)), Judge())
    metric.update(outputs(5), samples(5))
    with pytest.raises(RequestError, match="sample 2 a second time"):
        metric.update(outputs(1), [Sample(2, 0)])


def test_outputs_that_do_not_fit_are_refused(spec):
    metric = spec.create(Real(many(spec)), Judge())
    with pytest.raises(RequestError, match=f"'{spec.key}' needs .* which returned other"):
        metric.update({"other": np.zeros((1, WIDTH), np.float32)}, samples(1))
    with pytest.raises(RequestError, match=f"'{spec.key}' needs one row"):
        metric.update(outputs(3), samples(2))


def test_gaps_in_the_ids_play_no_part(spec):
    given, wanted = outputs(many(spec)), samples(many(spec))
    order = np.random.default_rng(4).permutation(len(wanted)).tolist()
    gaps = [Sample(3 * sample.id + 5, sample.label) for sample in wanted]
    same(judged(spec, given, gaps, order), judged(spec, given, wanted))


def test_labels_and_prompts_decide_the_groups(spec):
    count = many(spec)
    given = outputs(count)
    plain = judged(spec, given, [Sample(index, 0) for index in range(count)])
    same(judged(spec, given, [Sample(index, 0, "the word of class 0") for index in range(count)]), plain)
    if not spec.needs_labels:
        same(judged(spec, given, [Sample(index, None, f"prompt {index}") for index in range(count)]), plain)
    if plain.method == "jackknife":
        in_turn = judged(spec, given, [Sample(index, index % 7) for index in range(count)])
        assert in_turn.value == pytest.approx(plain.value, rel=1e-9)
        assert in_turn.stderr != pytest.approx(plain.stderr, rel=1e-3)


def test_a_group_without_images_leaves_no_jackknife(spec):
    if spec.needs_labels:
        pytest.skip("judges classes, of which images are independent")
    # Its replicate would be the value itself, and the error too small.
    count = many(spec)
    for prompts, method in ((9, "none"), (10, "jackknife")):
        wanted = [Sample(index, None, f"prompt {index % prompts}") for index in range(count)]
        estimate = judged(spec, outputs(count), wanted)
        assert estimate.method == method
        assert (estimate.interval is None) == (method == "none")


def test_other_images_confirm_the_uncertainty(spec):
    # An interval is about four standard deviations wide; forgetting the factor of the ten groups makes it 1.5.
    count = many(spec)
    drawn = [judged(spec, outputs(count, seed), samples(count), batch=count) for seed in range(2, 14)]
    spread = np.std([estimate.value for estimate in drawn], ddof=1)
    width = np.mean([high - low for low, high in (estimate.interval for estimate in drawn)])
    assert 2.5 < width / spread < 10


def test_names(spec):
    assert re.fullmatch(r"[a-z0-9_]+", spec.key)
    # The headline key is the table's name, or starts with it (`kid` and `kid_mean`).
    assert next(name for name in METRICS if METRICS.load(name) is spec) in (spec.key, spec.key.removesuffix("_mean"))
    # Only the Inception network may produce an unmarked `fid`.
    assert spec.key.endswith("_digits") == (spec.extractor == "digits")
    assert spec.extractor in EXTRACTORS
    assert spec.title
    assert spec.source


def test_directions():
    for name in METRICS:
        spec = METRICS.load(name)
        assert isinstance(spec.higher_is_better, bool)
        if spec.key in DIRECTION_OF_DISTANCES:
            assert not spec.higher_is_better
