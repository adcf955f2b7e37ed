"""The prompt set `plain_colours`: three texts, two images of each."""

from __future__ import annotations

import json

from diffusionbench.errors import RequestError
from diffusionbench.prompts import PromptList, PromptSource
from diffusionbench.sample import Item
from diffusionbench.schema import digest
from diffusionbench_colours import COLOURS, PROMPT_SET, TEXTS


class PlainColours(PromptSource):
    """A fixed set: one seed, one layout."""

    def open(self, seed: str, layout: str | None = None) -> PromptList:
        """See `diffusionbench.prompts.PromptSource.open`."""
        if seed != "public-0" or layout not in (None, *PROMPT_SET.layouts):
            raise RequestError(
                f"prompt set 'plain_colours' has no seed '{seed}' with layout '{layout}'. Use public-0 and all."
            )
        lines = [{"id": colour, "prompt": text} for colour, text in zip(COLOURS, TEXTS, strict=True)]
        return PromptList(
            name=PROMPT_SET.name,
            digest=digest(lines),
            items=tuple(Item(line["id"], text=line["prompt"]) for line in lines),
            images_per_prompt=2,
            noise_seeds=None,
            jsonl="".join(json.dumps(line) + "\n" for line in lines),
        )

    def summary(self, opened: PromptList) -> str:
        """See `diffusionbench.prompts.PromptSource.summary`."""
        return f"{len(opened.items)} prompts with {opened.images_per_prompt} images each"


PLAIN_COLOURS = PlainColours()
