"""Ids of records: equal for a repeat, different for anything else, for an id is also a file name."""

import pytest
from making import ConstantSource

from diffusionbench.references import digits
from diffusionbench.request import EvalRequest, Evaluation
from diffusionbench.runner import rescore, run
from diffusionbench.source import ArraySource


@pytest.fixture(scope="module")
def real():
    images, labels = digits.read("held_out")
    return ArraySource(images[:40], labels[:40], "held-out digits")


def request(*metrics: str) -> Evaluation:
    return Evaluation(EvalRequest(metrics=metrics, reference="digits", count=40, method="toy", title="Toy"))


def test_other_metrics_on_the_same_images_are_another_record(real, tmp_path):
    first = run(request("accuracy_digits"), real, tmp_path)
    # One judge serves both, so the protocols are equal.
    second = rescore(tmp_path, ("fd_digits",))
    assert second.protocol.judges == first.protocol.judges
    assert second.provenance.images_digest == first.provenance.images_digest
    assert second.id != first.id
    assert rescore(tmp_path, ("accuracy_digits",)).id == first.id


def test_the_order_of_the_metrics_is_no_difference(real):
    one = run(request("accuracy_digits", "fd_digits"), real)
    other = run(request("fd_digits", "accuracy_digits"), real)
    assert other.id == one.id


def test_ids_and_keys_stay():
    asked = EvalRequest(metrics=("is_digits",), num_classes=7, count=24, method="grey", title="G")
    evaluation, source = Evaluation(asked), ConstantSource((8, 8))
    assert run(evaluation, source).id == "grey-7d436098750e"
    assert evaluation.image_key(source) == "f8d2e4d2dd8aac68699a61d5a91e314058ffb90bf3000e610e261a890d2e19de"
    named = evaluation.updated(sampling=asked.sampling.model_copy(update={"noise": "blake2b-1"}))
    assert named.image_key(source) != evaluation.image_key(source)
    assert run(named, source).id != "grey-7d436098750e"
