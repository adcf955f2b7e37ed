"""The table of prompt sets and what one is: texts to draw, and how many images of each.

To add a set: one file here (or a module that builds it) and one line in `PROMPTS`. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from diffusionbench.registry import Registry
from diffusionbench.schema import Strict

PROMPTS = Registry(
    "prompt set",
    {
        "simpleeval_v1": "diffusionbench.prompts.simpleeval:OPEN",
        "simpleeval_shapes_v1": "diffusionbench.prompts.simpleeval:SHAPES",
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


class PromptChoice(Strict):
    """Which prompts are asked, and what shows that they were new to the generator.

    Attributes:
        name: key in `PROMPTS`.
        seed, layout: of the set; without a layout its smallest one.
        weights_digest, beacon: what a bound seed is bound to.
        commitment: of a sealed set, as it was checked against its seed; what counts is the repository's own list.
        networks: every pretrained network the generator uses, or None where that was not declared.
        public: score and standard error of the same generator on the public set, to compare with.
        again: mean differences of images that were sampled again, by `<prompt id>/<k>` (`simpleeval.regeneration`).
    """

    name: str
    seed: str = "public-0"
    layout: str | None = None
    weights_digest: str | None = None
    beacon: str = "none"
    commitment: str | None = None
    networks: tuple[str, ...] | None = None
    public: tuple[float, float] | None = None
    again: dict[str, float] = {}


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
