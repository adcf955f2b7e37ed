"""What every metric promises."""

import re

import numpy as np
import pytest

from diffusionbench.errors import RequestError
from diffusionbench.judges import JUDGES, NETWORKS_UPSTREAM
from diffusionbench.metrics import METRICS, of_judge
from diffusionbench.metrics.metric import Context
from diffusionbench.references.reference import JudgedReference
from diffusionbench.sample import Sample, plain_item
from diffusionbench.stats import Estimate

WIDTH, CLASSES = 16, 10
DISTANCES = ("fid", "kid_mean", "fd_digits", "kd_digits")
# Metrics that reduce other evidence than features and logits of one judge; their contracts stand with their own tests.
ELSEWHERE = {key for key in METRICS.with_code if METRICS[key].items == "prompts"}
# Judges whose metrics have published names.
INCEPTION = ("inception", "inception_spatial")


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

    def features(self, judge):
        return self.rows

    def moments(self, judge):
        rows = self.rows.astype(np.float64)
        return rows.mean(axis=0), np.cov(rows, rowvar=False)


@pytest.fixture(params=[key for key in METRICS.with_code if key not in ELSEWHERE])
def spec(request, monkeypatch):
    # The rule is the same for 2 subsets as for 100.
    monkeypatch.setattr("diffusionbench.metrics.kid._SUBSETS", 2)
    monkeypatch.setattr("diffusionbench.metrics.mind._DIRECTIONS", 20)
    return METRICS[request.param]


def metric_of(spec, reals: int = 0):
    real = JudgedReference(Real(max(many(spec), reals)), None)
    return METRICS.load(spec.key)(spec, Context(dict.fromkeys(spec.reference, real)))


def update(metric, given, wanted) -> None:
    metric.update(dict.fromkeys(metric.spec.judges, given), wanted)


def outputs(count: int, seed: int = 2) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = Real(1).rows[0] + rng.normal(size=(count, WIDTH)) * 3
    logits = rng.normal(size=(count, CLASSES)) * 3
    value = rng.normal(size=(count, 1))
    return {"features": features.astype(np.float32), "logits": logits.astype(np.float32), "value": value}


def samples(count: int) -> list[Sample]:
    return [Sample(index, plain_item(index % CLASSES)) for index in range(count)]


def many(spec) -> int:
    return max(60, spec.min_samples) + 7


def judged(spec, given, wanted, order=None, batch=16, reals: int = 0) -> Estimate:
    order = list(range(len(wanted))) if order is None else order
    metric = metric_of(spec, reals)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        update(metric, {name: rows[chosen] for name, rows in given.items()}, [wanted[index] for index in chosen])
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
    right = np.full((count, 1), float(spec.higher_is_better))
    best = judged(spec, {"features": Real(count).rows, "logits": sure, "value": right}, wanted)
    bad = judged(
        spec,
        {"features": Real(count).rows + 50, "logits": np.roll(sure, 1, axis=1) * 0.01, "value": 1 - right},
        wanted,
    )
    assert (best.value > bad.value) == spec.higher_is_better
    assert best.value != bad.value
    if spec.reference and spec.higher_is_better:
        assert best.value == 1.0
    if "moments" in spec.reference.values():
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
        assert np.mean(list(estimate.per_sample.values())) == pytest.approx(estimate.value)
    # Pages of images and comparisons take their words for 0 and 1 from the row.
    verdicts = estimate.per_sample is not None and {*estimate.per_sample.values()} <= {0.0, 1.0}
    assert verdicts == (spec.verdicts is not None) or spec.key not in METRICS.own


def test_too_few_images_are_refused(spec):
    count = spec.min_samples - 1
    metric = metric_of(spec)
    if count:
        update(metric, outputs(count), samples(count))
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
        rows[[3, 20], -1] = bad
    kept = [index for index in range(count) if index not in (3, 20)]
    found = judged(spec, spoilt, wanted)
    assert list(found.unjudged) == [3, 20]
    assert (found.scored, found.unscored) == (count - 2, 2)
    clean = judged(spec, given, wanted, kept)
    assert found.value == pytest.approx(clean.value, rel=1e-9)


def test_a_sample_counts_once(spec):
    metric = metric_of(spec)
    update(metric, outputs(5), samples(5))
    with pytest.raises(RequestError, match="sample 2 a second time"):
        update(metric, outputs(1), [Sample(2, plain_item(0))])


def test_outputs_that_do_not_fit_are_refused(spec):
    metric = metric_of(spec)
    with pytest.raises(RequestError, match=f"'{spec.key}' needs .* which returned other"):
        update(metric, {"other": np.zeros((1, WIDTH), np.float32)}, samples(1))
    with pytest.raises(RequestError, match=f"'{spec.key}' needs one row"):
        update(metric, outputs(3), samples(2))


def test_gaps_in_the_ids_play_no_part(spec):
    given, wanted = outputs(many(spec)), samples(many(spec))
    order = np.random.default_rng(4).permutation(len(wanted)).tolist()
    gaps = [Sample(3 * sample.id + 5, plain_item(sample.label)) for sample in wanted]
    same(judged(spec, given, gaps, order), judged(spec, given, wanted))


def test_labels_and_prompts_decide_the_groups(spec):
    count = many(spec)
    given = outputs(count)
    plain = judged(spec, given, [Sample(index, plain_item(0)) for index in range(count)])
    same(judged(spec, given, [Sample(index, plain_item(0, "the word of class 0")) for index in range(count)]), plain)
    if spec.items != "classes":
        same(judged(spec, given, [Sample(index, plain_item(None, f"prompt {index}")) for index in range(count)]), plain)
    if plain.method == "jackknife":
        in_turn = judged(spec, given, [Sample(index, plain_item(index % 7)) for index in range(count)])
        # Sums of float32 features depend on their order.
        assert in_turn.value == pytest.approx(plain.value, rel=1e-6)
        assert in_turn.stderr != pytest.approx(plain.stderr, rel=1e-3)


def test_a_group_without_images_leaves_no_jackknife(spec):
    if spec.items in ("classes", "originals"):
        pytest.skip("judges single images, which are independent")
    # Its replicate would be the value itself, and the error too small.
    count = many(spec)
    for prompts, method in ((9, "none"), (10, "jackknife")):
        wanted = [Sample(index, plain_item(None, f"prompt {index % prompts}")) for index in range(count)]
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


def test_collapse_moves_the_right_one_of_precision_and_recall():
    """A generator of one real picture is precise and recalls nothing; one of half the real pictures recalls half."""
    kinds = {"PrecisionMetric": [], "RecallMetric": []}
    for key in METRICS.with_code:
        kinds.setdefault(METRICS.load(key).__name__, []).append(METRICS[key])
    assert all(kinds[name] for name in ("PrecisionMetric", "RecallMetric"))
    for row in kinds["PrecisionMetric"] + kinds["RecallMetric"]:
        recalls = row in kinds["RecallMetric"]
        count, real = many(row), Real(many(row)).rows
        one = {"features": np.repeat(real[:1], count, axis=0)}
        assert judged(row, one, samples(count)).value == (pytest.approx(1 / count) if recalls else 1.0), row.key
        half = {"features": real[: count // 2]}
        found = judged(row, half, samples(count // 2)).value
        assert 0.4 < found < 0.98 if recalls else found == 1.0, row.key
        far = {"features": np.concatenate([real, real[: count // 2] + 1000])}
        found = judged(row, far, samples(count + count // 2)).value
        assert found == (1.0 if recalls else pytest.approx(count / (count + count // 2))), row.key


# What is drawn anew: images of so many classes, or prompts of so many images each.
WORLDS = {
    "1 class": (1, None),
    "10 classes": (10, None),
    "100 classes": (100, None),
    "1000 classes": (1000, None),
    "4 images a prompt": (None, 4),
}


def drawn(spec, world: str, seed: int) -> tuple[dict[str, np.ndarray], list[Sample]]:
    """Features and logits around the means of classes, which stay, or of prompts, which are drawn too."""
    classes, per_prompt = WORLDS[world]
    count = max(1200, spec.min_samples + 200) // 40 * 40
    if classes == 1000:
        count = 2000
    rng = np.random.default_rng(1000 + seed)
    if per_prompt is None:
        groups = np.arange(count) % classes
        centres = np.random.default_rng(5)
        wanted = [Sample(place, plain_item(int(label))) for place, label in enumerate(groups)]
    else:
        groups = np.arange(count) // per_prompt
        centres = rng
        wanted = [Sample(place, plain_item(text=f"prompt {group}")) for place, group in enumerate(groups)]
    number = int(groups.max()) + 1
    features = Real(1).rows[0] + 2 * centres.normal(size=(number, WIDTH))[groups] + rng.normal(size=(count, WIDTH)) * 4
    logits = centres.normal(size=(number, CLASSES))[groups] + rng.normal(size=(count, CLASSES)) * 2
    given = {"features": features.astype(np.float32), "logits": logits.astype(np.float32)}
    return {**given, "value": rng.normal(size=(count, 1))}, wanted


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("world", WORLDS)
def test_the_interval_covers_under_redraws(spec, world, record_property):
    if spec.items == "classes" and world not in ("1 class", "10 classes"):
        pytest.skip("the stand-in for its judge knows ten classes")
    found = [judged(spec, *drawn(spec, world, seed), batch=10_000, reals=400) for seed in range(60)]
    truth = np.mean([one.value for one in found])
    covered = np.mean([one.interval[0] <= truth <= one.interval[1] for one in found])
    record_property("covered", round(float(covered), 3))
    # 95 % less three standard errors of 60 draws; Wilson's intervals of strata are wider than need be.
    assert covered >= 0.87


def test_names(spec):
    assert re.fullmatch(r"[a-z0-9_]+", spec.key)
    assert METRICS[spec.key] is spec
    # Only the Inception network may produce an unmarked `fid`.
    unmarked = spec.judges if spec.key.startswith("fdr6") else INCEPTION
    for judge in spec.judges:
        marked = spec.key.endswith(f"_{judge}") or judge in (spec.key, *unmarked)
        assert marked, f"call metric '{spec.key}' something that ends in _{judge}: its value is that judge's"
    assert all(judge in JUDGES for judge in spec.judges)
    assert spec.reference.keys() <= set(spec.judges)


@pytest.mark.parametrize("key", list(METRICS))
def test_a_row_tells_users_what_it_means(key):
    row = METRICS[key]
    assert row.key == key
    assert row.title
    assert row.about
    assert row.low <= row.high
    assert row.higher_is_better is not None or row.load is None
    assert row.unit != "share" or (row.low, row.high) == (0, 1)
    assert not (key in DISTANCES and row.higher_is_better)


def test_a_judge_brings_its_metrics():
    for name, judge in JUDGES.items():
        rows = of_judge(judge)
        assert bool(rows) == bool(judge.output == "array" and (judge.dim or judge.num_classes))
        # Another mode of a network is read by FDr alone.
        if judge not in NETWORKS_UPSTREAM and name not in INCEPTION:
            assert all(METRICS[row.key] == row for row in rows)
