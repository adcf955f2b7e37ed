"""Judges that see image and item, and metrics of several judges: one pass each, evidence by name, nothing dropped."""

import json
from dataclasses import replace

import numpy as np
import pytest

from diffusionbench import runner
from diffusionbench.errors import RequestError
from diffusionbench.judges import JUDGES, JudgeSpec, Unjudged
from diffusionbench.judges.judge import Judge
from diffusionbench.metrics import METRICS, MetricSpec
from diffusionbench.metrics.frechet import FrechetMetric
from diffusionbench.metrics.metric import Metric, SampleAccumulator
from diffusionbench.record import load
from diffusionbench.references.digits import DigitsReference
from diffusionbench.sample import Sample, plain_item
from diffusionbench.source import ArraySource
from diffusionbench.stats import Estimate, wilson

LABELS = np.arange(20) % 10


class Thirds(Judge):
    """Says whether the mean of an image lies in the third of the scale that its class asks for."""

    spec = JudgeSpec(
        name="thirds",
        title="thirds of the grey scale",
        load="tests:Thirds",
        output="rows",
        uses=("means",),
        licence="none",
        options={"edge": 85, "black": 3},
    )

    def __init__(self, device="cpu", options=None):
        super().__init__(device, options)
        self.digest = self.digest_of("thirds")

    @classmethod
    def questions(cls, item):
        return (f"is it in third {item.label % 3}?",)

    def __call__(self, images, items=(), given=None):
        rows = []
        for item, mean in zip(items, given["means"]["features"][:, 0], strict=True):
            seen = min(2, int(mean // self.options["edge"]))
            found = {"asked": self.questions(item)[0], "seen": seen, "right": seen == item.label % 3}
            rows.append(Unjudged("too dark to tell") if mean < self.options["black"] else found)
        return rows


class Means(Judge):
    """Mean of each image as its only feature; a name and a factor tell several apart."""

    spec = JudgeSpec(name="means", title="means", load="tests:Means", dim=1, licence="none", options={"factor": 1.0})
    calls = 0

    def __init__(self, device="cpu", options=None):
        super().__init__(device, options)
        self.digest = self.digest_of("means")

    def __call__(self, images, items=(), given=None):
        type(self).calls += len(images)
        return {"features": np.float32(self.options["factor"]) * images.mean(axis=(1, 2, 3), dtype=np.float32)[:, None]}


class Right(Metric):
    """Share of images in the right third, with every verdict."""

    def __init__(self, spec, context):
        super().__init__(spec, context)
        self.verdicts = {}

    def update(self, evidence, samples):
        assert set(evidence) == {"thirds"}
        for row, sample in self.seen.add_rows(evidence["thirds"], samples):
            self.verdicts[str(sample.id)] = row

    def compute(self):
        self.seen.check()
        return replace(
            self.seen.share([float(row["right"]) for row in self.verdicts.values()]), facts={"verdicts": self.verdicts}
        )


def add(monkeypatch, rows, metric, code):
    """Put judges and a metric into the tables for one test."""
    kinds = {kind.spec.name: kind for kind in rows}
    for kind in rows:
        monkeypatch.setitem(JUDGES._rows, kind.spec.name, kind.spec)
    monkeypatch.setitem(METRICS._rows, metric.key, metric)
    judges, metrics = JUDGES.load, METRICS.load
    monkeypatch.setattr(JUDGES, "load", lambda name: kinds.get(name) or judges(name))
    monkeypatch.setattr(METRICS, "load", lambda name: code if name == metric.key else metrics(name))


@pytest.fixture
def thirds(monkeypatch):
    row = MetricSpec(key="in_thirds", title="in thirds", higher_is_better=True, judges=("thirds",), items="classes")
    add(monkeypatch, (Thirds, Means), row, Right)


def pictures(levels) -> ArraySource:
    images = np.tile(np.array(levels, np.uint8)[:, None, None, None], (1, 8, 8, 3))
    return ArraySource(images, LABELS[: len(levels)], "grey levels")


def test_rows_of_evidence_become_a_value_and_the_unjudged_are_named(thirds, ask, tmp_path):
    levels = [40 + 85 * (label % 3) for label in LABELS]
    levels[4], levels[7], levels[8] = 0, 250, 250
    record = runner.run(ask(metrics=("in_thirds",), reference=None), pictures(levels), tmp_path / "store")
    value = record.values["in_thirds"]
    assert (value.value, value.scored, value.unscored) == (18 / 19, 19, 1)
    assert value.interval == wilson(18, 19)
    assert record.unscored == ("image 4: too dark to tell",)
    assert record.partial
    assert record.protocol.judges.keys() == {"thirds", "means"}
    verdicts = record.extra["facts"]["in_thirds"]["verdicts"]
    assert verdicts["7"] == {"asked": "is it in third 1?", "seen": 2, "right": False}
    assert list(verdicts) == [str(place) for place in range(20) if place != 4]
    record.save(tmp_path / "r.json")
    assert load(tmp_path / "r.json").extra["facts"]["in_thirds"]["verdicts"] == verdicts


def test_a_store_gives_the_same_verdicts_as_a_stream(thirds, ask, tmp_path):
    source = pictures(np.random.default_rng(0).integers(0, 256, 20))
    asked = ask(metrics=("in_thirds",), reference=None)
    streamed = runner.run(asked, source)
    source.preferred_batch = 7
    kept = runner.run(asked, source, tmp_path)
    assert json.dumps(kept.extra["facts"]) == json.dumps(streamed.extra["facts"])
    assert kept.values == streamed.values


def test_another_threshold_is_another_judge():
    images = np.full((1, 8, 8, 3), 90, np.uint8)
    given = {"means": Means()(images)}
    first, other = Thirds(), Thirds(options={"edge": 100})
    assert first.digest != other.digest
    assert first(images, [plain_item(1)], given)[0]["right"]
    assert not other(images, [plain_item(1)], given)[0]["right"]


SIX = tuple(
    type(
        f"Means{place}",
        (Means,),
        {"spec": replace(Means.spec, name=f"means{place}", options={"factor": 1.0 + place}), "calls": 0},
    )
    for place in range(6)
)


class MeanOfSix(Metric):
    """The mean of a distance in the features of each judge."""

    def __init__(self, spec, context):
        super().__init__(spec, context)
        self.parts = [FrechetMetric(replace(spec, judges=(name,)), context) for name in spec.judges]

    def update(self, evidence, samples):
        for part in self.parts:
            part.update(evidence, samples)

    def compute(self):
        values = [part.compute().value for part in self.parts]
        scored = len(self.parts[0].seen.scored)
        return Estimate(value=float(np.mean(values)), stderr=None, interval=None, method="none", scored=scored)


def test_one_metric_of_six_judges_takes_one_pass_of_each(monkeypatch, ask, noise):
    names = tuple(kind.spec.name for kind in SIX)
    row = MetricSpec(
        key="fd6",
        title="FD6",
        higher_is_better=False,
        judges=names,
        reference=dict.fromkeys(names, "moments"),
        min_samples=2,
    )
    add(monkeypatch, SIX, row, MeanOfSix)
    monkeypatch.setattr(DigitsReference, "anchors", lambda self, count: {})
    reference = DigitsReference()
    features = {kind: reference.features(kind()) for kind in SIX}
    monkeypatch.setattr("diffusionbench.request.resolve", lambda name, *asserted: reference)
    for kind in SIX:
        monkeypatch.setattr(kind, "calls", 0)
    images = noise(20)
    record = runner.run(ask(metrics=("fd6",)), ArraySource(images, LABELS, "noise"))
    # The self-test of a judge without stored outputs, then the images.
    assert [kind.calls for kind in SIX] == [3 + 1 + 20] * 6
    assert record.protocol.judges.keys() == set(names)
    distances = []
    for kind in SIX:
        generated, real = (rows[:, 0].astype(np.float64) for rows in (kind()(images)["features"], features[kind]))
        distances.append((generated.mean() - real.mean()) ** 2 + (generated.std(ddof=1) - real.std(ddof=1)) ** 2)
    assert record.values["fd6"].value == pytest.approx(np.mean(distances), rel=1e-6)


def test_evidence_of_the_other_kind_is_refused_in_a_sentence():
    seen = SampleAccumulator("sure", 1)
    samples = [Sample(0), Sample(1)]
    with pytest.raises(RequestError, match="metric 'sure' needs 'features' from its judge, which returned rows, no ar"):
        seen.add([{"right": True}, {"right": False}], "features", samples)
    with pytest.raises(RequestError, match="metric 'sure' needs one row for each of 2 samples, got arrays by name"):
        seen.add_rows({"features": np.zeros((2, 3)), "logits": np.zeros((2, 3))}, samples)


def test_where_no_image_could_be_judged_the_reason_is_said(thirds, ask):
    message = r"'in_thirds' needs at least 1 images; 0 were scored and 20 could not be \(the first: too dark to tell\)"
    with pytest.raises(RequestError, match=message):
        runner.run(ask(metrics=("in_thirds",), reference=None), pictures([0] * 20))
