"""What every axis promises: from a request to a record without a model."""

import pytest

from diffusionbench.axes import AXES
from diffusionbench.record import load
from diffusionbench.request import EvalRequest, expand
from diffusionbench.runner import run
from diffusionbench.source import ConstantSource

EXAMPLES = {"class_conditional": {"metrics": ("fd_digits", "accuracy_digits"), "reference": "digits"}}


@pytest.fixture(params=list(AXES))
def request_of(request):
    if request.param not in EXAMPLES:
        pytest.skip(f"this test has no small request for axis '{request.param}'")
    return EvalRequest(axis=request.param, count=30, method="grey", title="Grey", **EXAMPLES[request.param])


def test_a_shorter_request_is_the_start_of_a_longer_one(request_of):
    source = ConstantSource((8, 8))
    samples = expand(request_of, source)
    assert [sample.id for sample in samples] == list(range(30))
    assert expand(request_of.model_copy(update={"count": 11}), source) == samples[:11]
    assert expand(request_of, source) == samples


def test_a_constant_source_ends_in_a_record(request_of, tmp_path):
    record = run(request_of, ConstantSource((8, 8)), tmp_path / "store")
    assert set(request_of.metrics) <= set(record.values)
    assert record.protocol.axis == AXES.load(request_of.axis).name == request_of.axis
    assert all(value.scored == 30 for value in record.values.values())
    assert not record.partial
    assert record.extra["duplicates"]["count"] == 29
    record.save(tmp_path / "record.json")
    assert load(tmp_path / "record.json") == record
