"""How well images show their texts: the mean over prompts of a judge's score for each image and its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from diffusionbench.metrics import MetricSpec
from diffusionbench.metrics.checklist import slug
from diffusionbench.metrics.metric import Context, Metric
from diffusionbench.metrics.prompt_means import PromptMeans
from diffusionbench.sample import Sample
from diffusionbench.stats import Estimate


class TextMatch(Metric):
    """The mean of `score`, or of `probability`, in the rows of its judge; a part for every tag of the items.

    Attributes:
        stem: of the parts' keys.
        scores: of each image.
    """

    def __init__(self, spec: MetricSpec, context: Context) -> None:
        super().__init__(spec, context)
        self.stem = spec.key.removesuffix("_overall")
        self.scores: dict[Sample, float] = {}

    def update(self, evidence: Mapping[str, Any], samples: Sequence[Sample]) -> None:
        """Take a batch; see `Metric.update`."""
        for row, sample in self.seen.add_rows(evidence[self.spec.judges[0]], samples):
            self.scores[sample] = float(row["score"] if "score" in row else row["probability"])

    def compute(self) -> Estimate:
        """See `Metric.compute`."""
        self.seen.check()
        means = PromptMeans(self.scores)
        whole, found = means.of(), {slug(tag): means.of(tag) for tag in means.tags}
        assert whole is not None
        return replace(
            whole,
            unscored=len(self.seen.unjudged),
            unjudged=self.seen.unjudged,
            per_sample={sample.id: score for sample, score in self.scores.items()},
            parts={f"{self.stem}_{name}": one for name, one in found.items() if one is not None},
        )
