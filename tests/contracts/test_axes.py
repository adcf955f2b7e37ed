"""What every axis promises: from a request to a record without a model."""

import pytest

from diffusionbench.axes import AXES
from diffusionbench.errors import UserError
from diffusionbench.prompts import PromptChoice
from diffusionbench.record import load
from diffusionbench.request import EvalRequest, expand
from diffusionbench.runner import run
from diffusionbench.source import ConstantSource

EXAMPLES = {
    "class_conditional": {"metrics": ("fd_digits", "accuracy_digits"), "reference": "digits", "count": 30},
}
# Three whole blocks of four prompts with two images each.
PROMPTS = {
    "metrics": ("simpleeval_shapes_v1",),
    "prompts": PromptChoice(name="simpleeval_shapes_v1", layout="quick"),
    "count": 24,
}
# What any axis of classes can be asked, whatever metric may belong to it.
CLASSES = {"metrics": ("is_digits",), "num_classes": 3, "count": 24}


@pytest.fixture(params=list(AXES))
def request_of(request):
    """A small request of each axis; one that is not listed takes that of its kind."""
    by_prompts = getattr(AXES.load(request.param), "asks", "classes") == "prompts"
    example = EXAMPLES.get(request.param) or (PROMPTS if by_prompts else CLASSES)
    asked = EvalRequest(axis=request.param, method="grey", title="Grey", **example)
    try:
        expand(asked, ConstantSource((8, 8)))
    except UserError as error:
        pytest.fail(f"axis '{request.param}' needs an entry in EXAMPLES of this test with a small request: {error}")
    return asked


def test_a_shorter_request_is_the_start_of_a_longer_one(request_of):
    source = ConstantSource((8, 8))
    samples = expand(request_of, source)
    assert [sample.id for sample in samples] == list(range(request_of.count))
    for count in (1, 7, 11, request_of.count - 1):
        assert expand(request_of.model_copy(update={"count": count}), source) == samples[:count]
    assert expand(request_of, source) == samples


def test_a_constant_source_ends_in_a_record(request_of, tmp_path):
    record = run(request_of, ConstantSource((8, 8)), tmp_path / "store")
    assert set(request_of.metrics) <= set(record.values)
    assert record.protocol.axis == AXES.load(request_of.axis).name == request_of.axis
    assert all(value.scored == request_of.count for value in record.values.values())
    assert not record.partial
    assert record.extra["duplicates"]["count"] == request_of.count - 1
    record.save(tmp_path / "record.json")
    assert load(tmp_path / "record.json") == record
