"""The table of prompt sets, the choice of one, and what an opened one is: texts to draw, and how many images of each.

To add a set: one row here and a module with its `PromptSource`. Nothing here imports torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import model_validator

from diffusionbench.benchmarks import dpgbench, genaibench, geneval, simpleeval
from diffusionbench.errors import RequestError
from diffusionbench.registry import Table
from diffusionbench.sample import Item, Sample
from diffusionbench.schema import Strict
from diffusionbench.specs import PromptSpec

_GITHUB: Final = "https://raw.githubusercontent.com"

PARTI: Final = PromptSpec(
    name="parti_prompts",
    title="PartiPrompts (P2): 12 categories, 11 challenges",
    licence="Apache-2.0",
    layouts=("1x", "4x"),
    load="diffusionbench.prompts.lists:PARTI_PROMPTS",
    count=1632,
    source="GitHub google-research/parti, commit 5a657978134374ce28973948331b319adef164bd",
    files={"PartiPrompts.tsv": "fab29e41bb512a169b56acab4cf2a41dcb675e285df2efcde6640c7dd3c440eb"},
    url=f"{_GITHUB}/google-research/parti/5a657978134374ce28973948331b319adef164bd/",
)
T2I_COMPBENCH: Final = PromptSpec(
    name="t2i_compbench",
    title="T2I-CompBench: the 300 validation prompts of each of 8 categories",
    licence="MIT",
    layouts=("1x", "10x"),
    load="diffusionbench.prompts.lists:COMPBENCH",
    count=2400,
    source="GitHub Karine-Huang/T2I-CompBench, commit 1b7094991a57f3c22abdd4f6e8ba6c1a15517073",
    files={
        "color_val.txt": "1634259756dbc77d13093d907d414480080ec9790a8c97ad09efaea7b2534f2d",
        "shape_val.txt": "37e1a276906c7ea9516cbd7ac8501be896006c0c17ca7344f260562834455bae",
        "texture_val.txt": "fbb5363515b4a28009e360afaaaf389d2dd2289e50dbb0c6ef4ea0c7fe4f3d4f",
        "spatial_val.txt": "8707a1d7e42ce3002d95363cf55f74bd043c843ae27108f5125aaaa7840ca988",
        "3d_spatial_val.txt": "c9953597315f36a5fcb41291bb19bdc6ab5f64a0fa760d691b4854a73f5d1fe9",
        "non_spatial_val.txt": "04c56cc9ac441dc9ea6c5157652058bd1635b5308526dd31bb29a1caab9a758d",
        "numeracy_val.txt": "dad8df141604b70ba7554bec724e3db0a80023680769b5c514854ea2d2527bbe",
        "complex_val.txt": "1b808018b8d9916db3d47d5aa2ef18377a3549a56901a474156f799824cdf3b4",
    },
    url=f"{_GITHUB}/Karine-Huang/T2I-CompBench/1b7094991a57f3c22abdd4f6e8ba6c1a15517073/examples/dataset/",
)

PROMPTS: Final[Table[PromptSpec]] = Table(
    "prompt set",
    {
        row.name: row
        for row in (
            *simpleeval.PROMPTS,
            *geneval.PROMPTS,
            *dpgbench.PROMPTS,
            *genaibench.PROMPTS,
            T2I_COMPBENCH,
            PARTI,
        )
    },
    group="diffusionbench.prompts",
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
        seed, layout: of the set; without a layout its first one.
        claim: facts about the generator that the set's benchmark asks for, such as that its prompts were new to it.
    """

    name: str
    seed: str = "public-0"
    layout: str | None = None
    claim: dict[str, Any] = {}

    @classmethod
    def parse(cls, text: str) -> PromptChoice:
        """Return the choice of a name, or of "NAME:LAYOUT", such as "geneval:1x"."""
        name, _, layout = text.partition(":")
        return cls(name=name, layout=layout or None)

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return self.name if self.layout is None else f"{self.name}:{self.layout}"

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "claim" in data or not data.keys() & set(_CLAIM):
            return data
        rest = {key: value for key, value in data.items() if key not in _CLAIM}
        return {**rest, "claim": {key: data[key] for key in _CLAIM if key in data}}


class PromptSource(ABC):
    """The code of a row: opens sets, and says what is in one."""

    @abstractmethod
    def open(self, seed: str, layout: str | None = None) -> PromptList:
        """Return the prompts of a seed, in the smallest layout where none is named.

        Raises:
            RequestError: if the seed or the layout does not exist.
        """

    @abstractmethod
    def summary(self, opened: PromptList) -> str:
        """Return what is in an opened set, in lines for users."""


def plain_texts(opened: PromptList) -> str:
    """Return the texts of a set, one a line; a RequestError names one that has several."""
    broken = [item.key for item in opened.items if len((item.text or "").splitlines()) != 1]
    if broken:
        raise RequestError(
            f"{len(broken)} texts of prompt set '{opened.name}' have several lines, the first of {broken[0]}. Write "
            "them as .jsonl."
        )
    return "".join(f"{text}\n" for text in opened.texts)


def open_prompts(choice: PromptChoice) -> PromptList:
    """Return the chosen prompt set.

    Raises:
        RequestError: if the set, its seed or its layout is unknown, or a key stands in it twice; texts may.
    """
    found: PromptList = PROMPTS.load(choice.name).open(choice.seed, choice.layout)
    repeated = [key for key, times in Counter(item.key for item in found.items).items() if times > 1]
    if repeated:
        raise RequestError(
            f"prompt set '{found.name}' has {len(repeated)} keys more than once, the first: '{repeated[0]}'. "
            "Rename or remove the repeats: every prompt counts once, and its images lie under its key."
        )
    return found
