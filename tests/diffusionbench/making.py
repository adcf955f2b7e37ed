"""Metrics over stand-ins for references, as a run makes them over real ones, a source without a model, and commands."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from typer.testing import CliRunner, Result

from diffusionbench.cli import app
from diffusionbench.metrics import METRICS
from diffusionbench.metrics.metric import Context, Metric
from diffusionbench.references.reference import JudgedReference
from diffusionbench.sample import Sample
from diffusionbench.schema import digest


def make_metric(key: str, real=None, **changes) -> Metric:
    """A metric of the table, its row perhaps changed; `real` has `name`, `features` and `moments`."""
    spec = replace(METRICS[key], **changes)
    return METRICS.load(key)(spec, Context({} if real is None else {spec.judges[0]: JudgedReference(real, None)}))


def update(metric: Metric, outputs, samples) -> None:
    """Give a metric a batch of its first judge."""
    metric.update({metric.spec.judges[0]: outputs}, samples)


def invoke(*words) -> Result:
    """Run a command; for messages and exit codes of errors there is the fixture `bench`."""
    return CliRunner().invoke(app, [*map(str, words)])


class ConstantSource:
    """One grey for every sample: drives an axis from request to record without a model."""

    preferred_batch = 64
    labels = None
    image_format = None

    def __init__(self, image_size: tuple[int, int], level: int = 128) -> None:
        """Take (height, width) and a level in 0..255."""
        self.image_size: tuple[int, int] | None = image_size
        self.level = level
        self.description = f"constant grey {level}"
        self.digest = digest(["constant", image_size, level])

    def images(self, samples: Sequence[Sample]) -> np.ndarray:
        """Return as many constant images."""
        height, width = self.image_size or (1, 1)
        return np.full((len(samples), height, width, 3), self.level, np.uint8)
