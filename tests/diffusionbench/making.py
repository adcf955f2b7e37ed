"""Metrics over stand-ins for references, as a run makes them over real ones."""

from dataclasses import replace

from diffusionbench.metrics import METRICS
from diffusionbench.metrics.metric import Context, Metric
from diffusionbench.references.reference import JudgedReference


def make_metric(key: str, real=None, **changes) -> Metric:
    """A metric of the table, its row perhaps changed; `real` has `name`, `features` and `moments`."""
    spec = replace(METRICS[key], **changes)
    return METRICS.load(key)(spec, Context({} if real is None else {spec.judges[0]: JudgedReference(real, None)}))


def update(metric: Metric, outputs, samples) -> None:
    """Give a metric a batch of its first judge."""
    metric.update({metric.spec.judges[0]: outputs}, samples)
