"""What every axis promises: the constant source goes from request to record without a model."""

import pytest

from diffusionbench import runner
from diffusionbench.axes import AXES
from diffusionbench.metrics import METRICS, MetricSpec
from diffusionbench.record import load
from diffusionbench.request import EvalRequest, expand
from diffusionbench.source import ConstantSource
from diffusionbench.stats import Estimate

# What a request on each axis needs besides the fields that all have.
NEEDS = {
    "class_conditional": {"reference": "digits"},
}


class Grey:
    """Counts rows."""

    def __init__(self, reference, extractor):
        self.rows = 0

    def update(self, outputs, samples):
        assert all(len(rows) == len(samples) for rows in outputs.values())
        self.rows += len(samples)

    def compute(self):
        return Estimate(value=1.0, stderr=None, interval=None, method="none", scored=self.rows)


GREY = MetricSpec(
    key="grey",
    title="Proves the path",
    higher_is_better=True,
    extractor="digits",
    needs="nothing",
    min_samples=1,
    source="this test",
    create=Grey,
)


@pytest.fixture(params=sorted(AXES))
def ask(request, monkeypatch):
    """A function: a request on this axis."""
    if request.param not in NEEDS:
        pytest.fail(f"axis '{request.param}' is new: say in NEEDS what a request on it needs")
    real = METRICS.load
    monkeypatch.setattr(METRICS, "load", lambda name: GREY if name == "grey" else real(name))

    def make(count=12):
        facts = {"axis": request.param, "metrics": ("grey",), "count": count, "method": "grey", "title": "Grey"}
        return EvalRequest(**facts | NEEDS[request.param])

    return make


def test_the_constant_source_becomes_a_record(ask, tmp_path):
    record = runner.run(ask(), ConstantSource((8, 8)), tmp_path / "store")
    assert record.protocol.axis == ask().axis
    assert record.values["grey"].scored == 12
    record.save(tmp_path / "record.json")
    assert load(tmp_path / "record.json") == record


def test_samples_are_a_pure_function_of_the_request(ask):
    source = ConstantSource((8, 8))
    first = expand(ask(), source)
    assert first == expand(ask(), source)
    assert [sample.id for sample in first] == list(range(12))


def test_a_shorter_request_begins_a_longer_one(ask):
    source = ConstantSource((8, 8))
    assert expand(ask(30), source)[:12] == expand(ask(12), source)


def test_the_table_names_the_axis(ask):
    assert AXES.load(ask().axis).name == ask().axis
