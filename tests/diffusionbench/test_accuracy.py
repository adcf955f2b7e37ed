"""Accuracy: shares by hand, labels that cannot be judged."""

import numpy as np
import pytest
from making import make_metric, update

from diffusionbench.errors import RequestError
from diffusionbench.sample import Sample, plain_item


def judged(labels, answers):
    metric = make_metric("accuracy_digits")
    logits = np.eye(10, dtype=np.float32)[list(answers)]
    update(metric, {"logits": logits}, [Sample(index, plain_item(label)) for index, label in enumerate(labels)])
    return metric


def test_the_share_of_right_answers_with_wilsons_interval():
    estimate = judged([0, 1, 2, 3, 9], [0, 1, 5, 3, 9]).compute()
    assert estimate.value == 0.8
    assert estimate.per_sample == dict(enumerate([1.0, 1.0, 0.0, 1.0, 1.0]))
    # Wilson's interval of 4 of 5 at 95 %.
    assert estimate.interval == pytest.approx((0.375535, 0.963776), abs=1e-5)
    assert (estimate.method, estimate.stderr) == ("wilson", None)
    assert (estimate.scored, estimate.unscored) == (5, 0)


@pytest.mark.parametrize("label, found", [(None, "none"), (10, "10"), (-1, "-1")])
def test_a_label_the_judge_does_not_know_is_refused(label, found):
    with pytest.raises(RequestError, match=f"0 to 9.*sample 1 has {found}"):
        judged([0, label], [0, 0])
