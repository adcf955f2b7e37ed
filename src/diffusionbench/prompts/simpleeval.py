"""The prompt sets of SimpleEval, built from a seed (docs/simpleeval.md)."""

from __future__ import annotations

from diffusionbench.benchmarks.simpleeval import builder, seeds
from diffusionbench.benchmarks.simpleeval.blocks import noise_seed
from diffusionbench.benchmarks.simpleeval.statistics import describe
from diffusionbench.errors import RequestError
from diffusionbench.prompts import SIMPLEEVAL_OPEN, SIMPLEEVAL_SHAPES, PromptList, PromptSource, PromptSpec
from diffusionbench.sample import Item


class SimpleEvalPrompts(PromptSource):
    """One world's sets."""

    def __init__(self, spec: PromptSpec, world: str) -> None:
        self.spec = spec
        self.world = world

    def open(self, seed: str, layout: str | None = None) -> PromptList:
        """See `PromptSource.open`.

        Raises:
            RequestError: if the seed is neither public nor bound nor sealed, or the layout is unknown.
        """
        if seeds.kind_of(seed) == "other":
            raise RequestError(
                f"'{seed}' is no seed of SimpleEval. Use {seeds.PUBLIC[0]} ... {seeds.PUBLIC[-1]}, a bound seed "
                "(bound-<32 hex digits>) or a revealed sealed one (sealed-<name>-<64 hex digits>)."
            )
        found = builder.build(self.world, seed, layout or self.spec.layouts[0])
        return PromptList(
            name=self.spec.name,
            digest=found.digest,
            items=tuple(Item(prompt.id, text=prompt.text, detail={"prompt": prompt}) for prompt in found.prompts),
            images_per_prompt=found.images_per_prompt,
            noise_seeds=[
                [noise_seed(found.seed, prompt.id, k) for k in range(found.images_per_prompt)]
                for prompt in found.prompts
            ],
            jsonl=found.jsonl,
            detail=found,
        )

    def summary(self, opened: PromptList) -> str:
        """See `PromptSource.summary`; what the builder prints."""
        return describe(opened.detail)


OPEN = SimpleEvalPrompts(SIMPLEEVAL_OPEN, "open")
SHAPES = SimpleEvalPrompts(SIMPLEEVAL_SHAPES, "shapes")
