import numpy as np
import pytest

from diffusionbench.axes import Sample
from diffusionbench.errors import RequestError
from diffusionbench.metrics.accuracy import ACCURACY_DIGITS
from diffusionbench.stats import wilson


def metric():
    return ACCURACY_DIGITS.create(None, None)


def test_accuracy_counts_the_class_asked_for():
    asked = [3, 1, 4, 1, 5]
    seen = [3, 1, 0, 1, 2]
    score = metric()
    logits = np.eye(10, dtype=np.float32)[seen]
    score.update({"logits": logits}, [Sample(id=i, label=label) for i, label in enumerate(asked)])
    estimate = score.compute()
    assert estimate.value == 3 / 5
    assert estimate.per_sample == [1, 1, 0, 1, 0]
    assert estimate.interval == wilson(3, 5)
    assert (estimate.method, estimate.stderr) == ("wilson", None)


@pytest.mark.parametrize("label, match", [(None, "sample 7 has none"), (10, "0 to 9.*sample 7 has 10"), (-1, "has -1")])
def test_a_missing_or_impossible_class_is_refused(label, match):
    with pytest.raises(RequestError, match=match):
        metric().update({"logits": np.ones((1, 10), dtype=np.float32)}, [Sample(id=7, label=label)])
