"""The table of metrics and what one metric is.

To add a metric: one file here with a `MetricSpec`, and one line in `METRICS`. A metric sees what its extractor
made of the images, batch by batch, and turns it into one `Estimate`; it never sees a file or a model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from diffusionbench.registry import Registry

if TYPE_CHECKING:
    import numpy as np

    from diffusionbench.axes import Sample
    from diffusionbench.judges import Extractor
    from diffusionbench.stats import Estimate

METRICS = Registry(
    "metric",
    {
        "fid": "diffusionbench.metrics.frechet:FID",
        "kid_mean": "diffusionbench.metrics.kid:KID",
        "inception_score": "diffusionbench.metrics.inception_score:INCEPTION_SCORE",
        "precision": "diffusionbench.metrics.precision_recall:PRECISION",
        "recall": "diffusionbench.metrics.precision_recall:RECALL",
        "fd_digits": "diffusionbench.metrics.frechet:FD_DIGITS",
        "kd_digits": "diffusionbench.metrics.kid:KD_DIGITS",
        "is_digits": "diffusionbench.metrics.inception_score:IS_DIGITS",
        "precision_digits": "diffusionbench.metrics.precision_recall:PRECISION_DIGITS",
        "recall_digits": "diffusionbench.metrics.precision_recall:RECALL_DIGITS",
        "simpleeval_v1": "diffusionbench.benchmarks.simpleeval.score:OPEN",
        "simpleeval_shapes_v1": "diffusionbench.benchmarks.simpleeval.score:SHAPES",
        "accuracy_digits": "diffusionbench.metrics.accuracy:ACCURACY_DIGITS",
    },
    group="diffusionbench.metrics",
)


class Metric(Protocol):
    """One evaluation of one metric: fed in batches, asked once."""

    def update(self, outputs: Mapping[str, np.ndarray], samples: Sequence[Sample]) -> None:
        """Take one batch. A row that is not finite is unscored: counted and named, never part of the value.

        Args:
            outputs: what the extractor returned, by name: "features" float32 [B, d], "logits" float32 [B, c], or
                "images" uint8 [B, H, W, 3]. A metric may keep these arrays, so nobody writes to them again.
            samples: the B samples (id, label) these images belong to.

        Raises:
            RequestError: if the extractor did not return what the metric needs, or a sample comes a second time.
        """
        ...

    def compute(self) -> Estimate:
        """Return the value over everything seen, with its uncertainty.

        Raises:
            RequestError: if fewer images were scored than the metric is defined for.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """What a metric is and needs, readable without any weights.

    Attributes:
        key: final lower-case name, as stored in records.
        title: one line for people.
        higher_is_better: direction.
        extractor: name in `EXTRACTORS`.
        needs: what it takes from the reference: its moments, its features, or nothing; or the prompts instead.
        needs_labels: whether every sample must carry the class that was asked for.
        prompts: key in `PROMPTS` of the only set whose images it judges, or None for any.
        min_samples: smallest number of images it is defined for.
        source: paper or definition.
        create: makes a fresh `Metric` that compares with a reference as the extractor sees it, or judges by prompts.
    """

    key: str
    title: str
    higher_is_better: bool
    extractor: str
    needs: Literal["moments", "features", "nothing", "prompts"]
    needs_labels: bool = False
    prompts: str | None = None
    min_samples: int
    source: str
    create: Callable[[Any, Extractor], Metric]
