"""Scoring in constant memory: images pass through, whether read from a source or from a store."""

import sys
import tracemalloc
from types import ModuleType

import numpy as np
import pytest
from making import ConstantSource

from diffusionbench.imagesets import ImageStream
from diffusionbench.judges import JUDGES, JudgeSpec
from diffusionbench.judges.judge import Judge
from diffusionbench.metrics import METRICS, MetricSpec
from diffusionbench.metrics.metric import Metric
from diffusionbench.request import EvalRequest, Evaluation
from diffusionbench.runner import fill, open_store, score
from diffusionbench.stats import Estimate

SIZE, FEW, MANY = 64, 256, 1024
IMAGE = SIZE * SIZE * 3


ROW = JudgeSpec(name="brightness", title="brightness", load="brightness_plugin:Brightness", dim=1, licence="none")


class Brightness(Judge):
    """Mean of each image, of any size."""

    spec = ROW
    digest = "b" * 64

    def __call__(self, images, items=(), given=None):
        return {"features": images.reshape(len(images), -1).mean(axis=1, dtype=np.float32)[:, None]}


class Mean(Metric):
    """Keeps a sum and a count."""

    def __init__(self, spec, context):
        super().__init__(spec, context)
        self.total = 0.0

    def take(self, rows, samples):
        self.total += float(rows.sum())

    def compute(self):
        count = len(self.seen.scored)
        return Estimate(value=self.total / count, stderr=None, interval=None, method="none", scored=count)


@pytest.fixture
def brightness(monkeypatch):
    """A metric and a judge in the tables, as another package would add them."""
    module = ModuleType("brightness_plugin")
    module.Brightness, module.Mean = Brightness, Mean
    row = MetricSpec(
        key="brightness",
        title="Mean brightness",
        higher_is_better=True,
        judges=("brightness",),
        load="brightness_plugin:Mean",
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(JUDGES._rows, "brightness", ROW)
    monkeypatch.setitem(METRICS._rows, "brightness", row)


def peak(request: Evaluation, source: ConstantSource, folder=None) -> int:
    """Largest number of bytes held at once while images are made and scored."""
    tracemalloc.start()
    try:
        if folder is None:
            images = ImageStream(source, request.samples(source))
        else:
            images = open_store(request, source, folder)
            fill(request, source, images)
        record = score(request, images)
        assert record.values["brightness"].value == 100
        assert record.values["brightness"].scored == request.request.count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kept", [False, True], ids=["streamed", "stored"])
def test_memory_does_not_grow_with_the_number_of_images(brightness, tmp_path, kept):
    def measured(count: int) -> int:
        request = Evaluation(EvalRequest(metrics=("brightness",), count=count, method="grey", title="Grey"))
        # A folder of its own: nothing is there yet.
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        return peak(request, ConstantSource((SIZE, SIZE), 100), folder if kept else None)

    measured(FEW)
    few, many = measured(FEW), measured(MANY)
    # Beyond the pixels there is an id and a hash per image.
    assert many - few < (MANY - FEW) * IMAGE / 8
