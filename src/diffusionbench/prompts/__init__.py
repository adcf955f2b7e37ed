"""The table of prompt sets and what one is: texts to draw, and how many images of each.

To add a set: one file here (or a module that builds it) and one line in `PROMPTS`. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pydantic import model_validator

from diffusionbench.registry import Registry
from diffusionbench.schema import Strict

PROMPTS = Registry(
    "prompt set",
    {
        "simpleeval_v1": "diffusionbench.benchmarks.simpleeval.prompts:OPEN",
        "simpleeval_shapes_v1": "diffusionbench.benchmarks.simpleeval.prompts:SHAPES",
    },
    group="diffusionbench.prompts",
)


@dataclass(frozen=True)
class PromptList:
    """An opened prompt set.

    Attributes:
        name: as records call it.
        digest: SHA-256 over texts and all that is asked about the images.
        texts: the prompts, all different.
        files: path of each prompt's images below an image folder; image k is `<file>/<k>.png`.
        images_per_prompt: images K asked for each prompt.
        noise_seeds: for each prompt the K seeds of the samples' own noise, or None where the set does not rule it.
        jsonl: the set as JSON Lines, which is what `diffusionbench prompts` writes.
        detail: what the set's own metric needs; nobody else looks inside.
    """

    name: str
    digest: str
    texts: tuple[str, ...]
    files: tuple[str, ...]
    images_per_prompt: int
    noise_seeds: Sequence[Sequence[int]] | None
    jsonl: str
    detail: Any

    def files_of_images(self) -> list[str]:
        """Return where every image belongs below an image folder, without the suffix, in the order of sample ids."""
        return [f"{file}/{k}" for file in self.files for k in range(self.images_per_prompt)]


# Facts of a claim that requests of before hold beside the name.
_CLAIM: Final = ("weights_digest", "beacon", "commitment", "networks", "public", "again")


class PromptChoice(Strict):
    """Which prompts are asked.

    Attributes:
        name: key in `PROMPTS`.
        seed, layout: of the set; without a layout its smallest one.
        claim: facts about the generator that the set's benchmark asks for, such as that its prompts were new to it.
    """

    name: str
    seed: str = "public-0"
    layout: str | None = None
    claim: dict[str, Any] = {}

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "claim" in data or not data.keys() & set(_CLAIM):
            return data
        rest = {key: value for key, value in data.items() if key not in _CLAIM}
        return {**rest, "claim": {key: data[key] for key in _CLAIM if key in data}}


@dataclass(frozen=True)
class Prompts:
    """What a metric on prompts is made for: the opened set and the choice that led to it."""

    opened: PromptList
    choice: PromptChoice


class PromptSource(Protocol):
    """One row of the table.

    Attributes:
        title: one line for people.
        licence: of the texts.
        layouts: sizes it comes in.
    """

    title: str
    licence: str
    layouts: tuple[str, ...]

    def open(self, seed: str, layout: str | None) -> PromptList:
        """Return the prompts of a seed.

        Raises:
            RequestError: if the seed or the layout does not exist.
        """
        ...

    def summary(self, opened: PromptList) -> str:
        """Return what is in an opened set, in lines for people."""
        ...
