"""GenAI-Bench: the mean VQAScore over all prompts, over those with a skill, and by skill (arXiv 2406.13743)."""

from __future__ import annotations

from dataclasses import replace

from diffusionbench.metrics.prompt_means import PromptMeans
from diffusionbench.metrics.text_match import TextMatch
from diffusionbench.stats import Estimate


class GenAIBench(TextMatch):
    """The mean over 1,600 prompts; `genaibench_all_tagged` is the mean over the 1,593 with a skill, as published."""

    def compute(self) -> Estimate:
        """See `Metric.compute`."""
        found = super().compute()
        tagged = PromptMeans({sample: score for sample, score in self.scores.items() if sample.item.tags}).of()
        return found if tagged is None else replace(found, parts={**found.parts, f"{self.stem}_all_tagged": tagged})
