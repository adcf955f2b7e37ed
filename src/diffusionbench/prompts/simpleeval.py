"""The prompt sets of SimpleEval, built from a seed (docs/simpleeval.md)."""

from __future__ import annotations

from dataclasses import dataclass

from diffusionbench.benchmarks.simpleeval import builder, seeds
from diffusionbench.benchmarks.simpleeval.blocks import PromptSet, noise_seed
from diffusionbench.benchmarks.simpleeval.statistics import describe
from diffusionbench.errors import RequestError
from diffusionbench.prompts import PromptList


@dataclass(frozen=True)
class SimpleEvalPrompts:
    """One world's sets."""

    name: str
    world: str
    title: str
    licence: str = "Apache-2.0"

    @property
    def layouts(self) -> tuple[str, ...]:
        """Sizes, the smallest first."""
        return tuple(builder.world_module(self.world).LAYOUTS)

    def open(self, seed: str, layout: str | None = None) -> PromptList:
        """See `PromptSource.open`; without a layout the smallest one.

        Raises:
            RequestError: if the seed is neither public nor bound nor sealed, or the layout is unknown.
        """
        if seeds.kind_of(seed) == "other":
            raise RequestError(
                f"'{seed}' is no seed of SimpleEval. Use {seeds.PUBLIC[0]} ... {seeds.PUBLIC[-1]}, a bound seed "
                "(bound-<32 hex digits>) or a revealed sealed one (sealed-<name>-<64 hex digits>)."
            )
        found = builder.build(self.world, seed, layout or self.layouts[0])
        return PromptList(
            name=self.name,
            digest=found.digest,
            texts=tuple(prompt.text for prompt in found.prompts),
            files=tuple(prompt.id for prompt in found.prompts),
            images_per_prompt=found.images_per_prompt,
            noise_seeds=[
                [noise_seed(found.seed, prompt.id, k) for k in range(found.images_per_prompt)]
                for prompt in found.prompts
            ],
            jsonl=found.jsonl,
            detail=found,
        )

    def summary(self, opened: PromptList) -> str:
        """What the builder prints; see `statistics.describe`."""
        found: PromptSet = opened.detail
        return describe(found)


OPEN = SimpleEvalPrompts("simpleeval_v1", "open", "SimpleEval (ours, v1): natural prompts, two dual encoders")
SHAPES = SimpleEvalPrompts("simpleeval_shapes_v1", "shapes", "SimpleEval (ours, v1): rendered shapes, two readers")
