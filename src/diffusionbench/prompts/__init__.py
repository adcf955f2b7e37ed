"""The table of prompt sets, the choice of one, and what an opened one is: texts to draw, and how many images of each.

To add a set: one row here and a module with its `PromptSource`. Nothing here imports torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import model_validator

from diffusionbench.benchmarks import simpleeval
from diffusionbench.errors import RequestError
from diffusionbench.registry import Table
from diffusionbench.sample import Item, Sample
from diffusionbench.schema import Strict
from diffusionbench.specs import PromptSpec

PROMPTS: Final[Table[PromptSpec]] = Table(
    "prompt set", {row.name: row for row in simpleeval.PROMPTS}, group="diffusionbench.prompts"
)


@dataclass(frozen=True)
class PromptList:
    """An opened prompt set.

    Attributes:
        name: as records call it.
        digest: SHA-256 over texts and all that is asked about the images.
        items: the prompts; their keys are where their images lie below an image folder, image k as `<key>/<k>.png`.
        images_per_prompt: images K asked for each prompt.
        noise_seeds: for each prompt the K seeds of the samples' own noise, or None where the set does not rule it.
        jsonl: the set as JSON Lines, which is what `diffusionbench prompts` writes.
        detail: what the set's own metric needs; nobody else looks inside.
    """

    name: str
    digest: str
    items: tuple[Item, ...]
    images_per_prompt: int
    noise_seeds: Sequence[Sequence[int]] | None
    jsonl: str
    detail: Any = None

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompts' texts."""
        return tuple(item.text or "" for item in self.items)

    @property
    def count(self) -> int:
        """Images of the whole set."""
        return len(self.items) * self.images_per_prompt

    def sample(self, place: int) -> Sample:
        """Return what is asked for at a place of the evaluation: prompt by prompt, K images each."""
        prompt, k = divmod(place, self.images_per_prompt)
        seed = None if self.noise_seeds is None else self.noise_seeds[prompt][k]
        return Sample(id=place, item=self.items[prompt], k=k, seed=seed)

    def samples(self) -> list[Sample]:
        """Return every image that is asked for, in the order of sample ids."""
        return [*map(self.sample, range(self.count))]


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


class PromptSource:
    """The code of a row: opens sets, and says what is in one."""

    def open(self, seed: str, layout: str | None = None) -> PromptList:
        """Return the prompts of a seed, in the smallest layout where none is named.

        Raises:
            RequestError: if the seed or the layout does not exist.
        """
        raise NotImplementedError

    def summary(self, opened: PromptList) -> str:
        """Return what is in an opened set, in lines for users."""
        raise NotImplementedError


def open_prompts(choice: PromptChoice) -> PromptList:
    """Return the chosen prompt set.

    Raises:
        RequestError: if the set, its seed or its layout is unknown, or a text stands in it twice.
    """
    found: PromptList = PROMPTS.load(choice.name).open(choice.seed, choice.layout)
    repeated = [text for text, times in Counter(found.texts).items() if times > 1]
    if repeated:
        raise RequestError(
            f"prompt set '{found.name}' has {len(repeated)} prompts more than once, the first: '{repeated[0]}'. "
            "Remove the repeats: every prompt counts once."
        )
    return found
