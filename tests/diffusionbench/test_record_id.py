"""Ids of records: equal for a repeat, different for anything else, for an id is also a file name."""

import pytest

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
    assert second.protocol == first.protocol
    assert second.provenance.images_digest == first.provenance.images_digest
    assert second.id != first.id
    assert rescore(tmp_path, ("accuracy_digits",)).id == first.id


def test_the_order_of_the_metrics_is_no_difference(real):
    one = run(request("accuracy_digits", "fd_digits"), real)
    other = run(request("fd_digits", "accuracy_digits"), real)
    assert other.id == one.id
