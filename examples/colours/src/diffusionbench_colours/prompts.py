"""The prompt set `plain_colours`: three texts, two images of each."""

from __future__ import annotations

import json

from diffusionbench.errors import RequestError
from diffusionbench.prompts import PromptList
from diffusionbench.schema import digest
from diffusionbench_colours import COLOURS, TEXTS


class PlainColours:
    """A fixed set: one seed, one layout."""

    title = "Plain colours: three texts"
    licence = "Apache-2.0"
    layouts = ("all",)

    def open(self, seed: str, layout: str | None) -> PromptList:
        """See `diffusionbench.prompts.PromptSource.open`."""
        if seed != "public-0" or layout not in (None, *self.layouts):
            raise RequestError(
                f"prompt set 'plain_colours' has no seed '{seed}' with layout '{layout}'. Use public-0 and all."
            )
        lines = [{"id": colour, "prompt": text} for colour, text in zip(COLOURS, TEXTS, strict=True)]
        return PromptList(
            name="plain_colours",
            digest=digest(lines),
            texts=TEXTS,
            files=COLOURS,
            images_per_prompt=2,
            noise_seeds=None,
            jsonl="".join(json.dumps(line) + "\n" for line in lines),
            detail=None,
        )

    def summary(self, opened: PromptList) -> str:
        """What is in the set, in a line."""
        return f"{len(opened.texts)} prompts with {opened.images_per_prompt} images each"


PLAIN_COLOURS = PlainColours()
