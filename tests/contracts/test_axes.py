"""What every axis promises: from a request to a record without a model."""

import numpy as np
import pytest
from making import ConstantSource

from diffusionbench.axes import AXES
from diffusionbench.prompts import PromptChoice
from diffusionbench.record import load
from diffusionbench.request import EvalRequest, Evaluation
from diffusionbench.runner import run
from diffusionbench.source import ArraySource

# A small request of each axis; one that is not listed takes that of what it asks for.
EXAMPLES = {
    "class_conditional": {"metrics": ("fd_digits", "accuracy_digits"), "reference": "digits", "count": 30},
    # Three whole blocks of four prompts with two images each.
    "t2i": {
        "metrics": ("simpleeval_shapes_v1",),
        "prompts": PromptChoice(name="simpleeval_shapes_v1", layout="quick"),
        "count": 24,
    },
    "reconstruction": {"metrics": ("is_digits",), "count": 24},
}
BY_KIND = {
    "classes": {"metrics": ("is_digits",), "num_classes": 3, "count": 24},
    "prompts": EXAMPLES["t2i"],
    "originals": EXAMPLES["reconstruction"],
}


def source_of(evaluation):
    """Grey pictures: of a generator, or that exist already where the axis asks for originals."""
    grey = ConstantSource((8, 8))
    if AXES[evaluation.request.axis].asks != "originals":
        return grey
    return ArraySource(np.full((evaluation.request.count, 8, 8, 3), grey.level, np.uint8), None, grey.description)


@pytest.fixture(params=list(AXES))
def request_of(request):
    name = request.param
    example = EXAMPLES.get(name) or BY_KIND[AXES[name].asks]
    return Evaluation(EvalRequest(axis=name, method="grey", title="Grey", **example))


def test_a_shorter_request_is_the_start_of_a_longer_one(request_of):
    source = source_of(request_of)
    samples = request_of.samples(source)
    assert [sample.id for sample in samples] == list(range(request_of.request.count))
    for count in (1, 7, 11, request_of.request.count - 1):
        assert request_of.updated(count=count).samples(source) == samples[:count]
    assert request_of.samples(source) == samples
    assert len({(sample.item.key, sample.k) for sample in samples}) == len(samples)
    assert request_of.full_count > 0


def test_a_constant_source_ends_in_a_record(request_of, tmp_path):
    record = run(request_of, source_of(request_of), tmp_path / "store")
    request = request_of.request
    assert set(request.metrics) <= set(record.values)
    assert record.protocol.axis == AXES[request.axis].name == request.axis
    assert all(value.scored == request.count for value in record.values.values())
    assert not any(value.unscored for value in record.values.values())
    assert record.extra["duplicates"]["count"] == request.count - 1
    record.save(tmp_path / "record.json")
    assert load(tmp_path / "record.json") == record
