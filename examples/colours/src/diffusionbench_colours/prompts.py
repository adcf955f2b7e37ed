"""The prompt set `plain_colours`: three texts of our own, two images of each."""

import json

from diffusionbench.errors import RequestError
from diffusionbench.prompts import PromptList, PromptSource
from diffusionbench.sample import Item
from diffusionbench.schema import digest
from diffusionbench_colours import NAMES


class PlainColours(PromptSource):
    def open(self, seed: str, layout: str | None = None) -> PromptList:
        """Return the three prompts: one seed, one layout."""
        if seed != "public-0" or layout not in (None, "all"):
            raise RequestError(
                f"prompt set 'plain_colours' has no seed '{seed}' with layout '{layout}'. Use public-0 and all."
            )
        items = tuple(Item(key=name, label=label, text=f"a plain {name} image") for label, name in enumerate(NAMES))
        lines = [{"id": item.key, "prompt": item.text} for item in items]
        return PromptList(
            name="plain_colours",
            digest=digest(lines),
            items=items,
            images_per_prompt=2,
            noise_seeds=None,
            jsonl="".join(json.dumps(line) + "\n" for line in lines),
        )

    def summary(self, opened: PromptList) -> str:
        return f"{len(opened.items)} prompts with {opened.images_per_prompt} images each"


PLAIN_COLOURS = PlainColours()
