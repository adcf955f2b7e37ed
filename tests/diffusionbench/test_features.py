"""Evidence that metrics keep together: one matrix, whatever order it comes in."""

import numpy as np
import pytest

from diffusionbench.metrics import METRICS
from diffusionbench.metrics.features import SharedRows
from diffusionbench.metrics.metric import Context
from diffusionbench.references.reference import JudgedReference
from diffusionbench.sample import Sample, plain_item


class Real:
    """A reference that counts how often it is read."""

    name = "real"
    times = 0

    def features(self, judge):
        self.times += 1
        return np.random.default_rng(1).normal(size=(300, 8)).astype(np.float32)

    def moments(self, judge):
        return np.zeros(8), np.eye(8)


def batches(order, size):
    for start in range(0, len(order), size):
        yield order[start : start + size]


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("shuffled", [False, True])
def test_rows_come_back_by_id(size, shuffled):
    rows = np.random.default_rng(0).normal(size=(230, 5)).astype(np.float32)
    order = np.random.default_rng(1).permutation(230) if shuffled else np.arange(230)
    kept = SharedRows()
    for chosen in batches(order, size):
        for _ in range(2):
            # As two metrics give the same batch.
            kept.add(rows[chosen], [Sample(int(index)) for index in chosen])
    everyone = [Sample(index) for index in range(230)]
    found = kept.by_id(everyone)
    np.testing.assert_array_equal(found, rows)
    assert found is kept.by_id(everyone)
    assert not found.flags.writeable
    np.testing.assert_array_equal(kept.by_id([Sample(9), Sample(3)]), rows[[3, 9]])


def test_a_buffer_may_be_used_again():
    kept, buffer = SharedRows(), np.ones((2, 3), np.float32)
    kept.add(buffer, [Sample(0), Sample(1)])
    buffer[:] = 5
    assert (kept.by_id([Sample(0), Sample(1)]) == 1).all()


def test_the_metrics_of_a_pass_hold_one_copy_of_both_sets():
    real = Real()
    context = Context({"digits": JudgedReference(real, None)})
    specs = [METRICS[key] for key in ("fd_digits", "kd_digits", "precision_digits", "recall_digits")]
    metrics = [METRICS.load(spec.key)(spec, context) for spec in specs]
    for start in range(0, 400, 40):
        batch = np.random.default_rng(start).normal(size=(40, 8)).astype(np.float32)
        for metric in metrics:
            samples = [Sample(start + place, plain_item(place % 10)) for place in range(40)]
            metric.update({"digits": {"features": batch}}, samples)
    assert real.times == 1
    assert len({id(metric.rows) for metric in metrics}) == 1
    assert len({id(metric.real_features) for metric in metrics[1:]}) == 1
