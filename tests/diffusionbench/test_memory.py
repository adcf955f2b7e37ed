"""Scoring in constant memory: images pass through, whether read from a source or from a store."""

import sys
import tracemalloc
from types import ModuleType

import numpy as np
import pytest

from diffusionbench.judges import EXTRACTORS
from diffusionbench.metrics import METRICS, MetricSpec
from diffusionbench.request import EvalRequest, expand
from diffusionbench.runner import fill, open_store, score
from diffusionbench.source import ConstantSource
from diffusionbench.stats import Estimate
from diffusionbench.store import Stream

SIZE, FEW, MANY = 64, 256, 1024
IMAGE = SIZE * SIZE * 3


class Brightness:
    """Mean of each image, of any size."""

    name, dim, image_size, digest = "brightness", 1, None, "b" * 64

    def __init__(self, device="cpu"):
        pass

    @classmethod
    def check(cls):
        pass

    def __call__(self, images):
        return {"features": images.reshape(len(images), -1).mean(axis=1, dtype=np.float32)[:, None]}


class Mean:
    """Keeps a sum and a count."""

    def __init__(self, reference, extractor):
        self.total, self.count = 0.0, 0

    def update(self, outputs, samples):
        self.total += float(outputs["features"].sum())
        self.count += len(samples)

    def compute(self):
        return Estimate(
            value=self.total / self.count, stderr=None, interval=None, method="none", scored=self.count, unscored=0
        )


@pytest.fixture
def brightness(monkeypatch):
    """A metric and an extractor in the tables, as another package would add them."""
    module = ModuleType("brightness_plugin")
    module.Brightness = Brightness
    module.SPEC = MetricSpec(
        key="brightness",
        title="Mean brightness",
        higher_is_better=True,
        extractor="brightness",
        needs="nothing",
        min_samples=1,
        source="closed form",
        create=Mean,
    )
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(EXTRACTORS._own, "brightness", f"{module.__name__}:Brightness")
    monkeypatch.setitem(METRICS._own, "brightness", f"{module.__name__}:SPEC")


def peak(request: EvalRequest, source: ConstantSource, folder=None) -> int:
    """Largest number of bytes held at once while images are made and scored."""
    tracemalloc.start()
    try:
        if folder is None:
            images = Stream(source, expand(request, source))
        else:
            images = open_store(request, source, folder)
            fill(request, source, images)
        record = score(request, images)
        assert record.values["brightness"].value == 100
        assert record.values["brightness"].scored == request.count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kept", [False, True], ids=["streamed", "stored"])
def test_memory_does_not_grow_with_the_number_of_images(brightness, tmp_path, kept):
    def measured(count: int) -> int:
        request = EvalRequest(metrics=("brightness",), count=count, method="grey", title="Grey")
        return peak(request, ConstantSource((SIZE, SIZE), 100), tmp_path / str(count) if kept else None)

    measured(FEW)
    few, many = measured(FEW), measured(MANY)
    # Beyond the pixels there is an id and a hash per image.
    assert many - few < (MANY - FEW) * IMAGE / 8
