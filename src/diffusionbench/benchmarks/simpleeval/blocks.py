"""Blocks of four twins, their questions, and the prompt set they make: plain values, the same in both worlds.

A scene is a mapping from slot ("colour1", "place") to fact ("red", "in a kitchen"). A block fixes all facts but two,
the contrasted ones; its prompts take levels (0,0), (0,1), (1,0), (1,1) of them.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Final

from diffusionbench.benchmarks.simpleeval.stream import BalancedSampler, HashStream

#: Answer to a question about a fact that the prompt leaves open.
FREE: Final = -1
TWINS: Final = ((0, 0), (0, 1), (1, 0), (1, 1))


@dataclass(frozen=True)
class Question:
    """Which of these facts does the image show?

    Attributes:
        family: factor it counts for.
        slot: the fact of the scene it asks for.
        options: M facts; of a contrasted factor the first two are the levels.
        answer: index of the requested fact in `options`; `FREE` where nothing was requested.
        held: whether the fact is not contrasted (a probe; never in the score).
    """

    family: str
    slot: str
    options: tuple[str, ...]
    answer: int = FREE
    held: bool = False


@dataclass(frozen=True)
class Draft:
    """A block as drawn, before wording: common facts, the two contrasted questions and all others."""

    facts: Mapping[str, str]
    contrasts: tuple[Question, Question]
    probes: tuple[Question, ...]

    def twin(self, i: int, j: int) -> tuple[dict[str, str], tuple[Question, ...]]:
        """Return all named facts of the prompt with levels (i, j), and its questions."""
        first, second = self.contrasts
        facts = {**self.facts, first.slot: first.options[i], second.slot: second.options[j]}
        return facts, (replace(first, answer=i), replace(second, answer=j), *self.probes)


class BlockSampler(ABC):
    """Draws the blocks of one set and remembers which facts were used.

    Attributes:
        items: kind of fact -> the facts that are drawn evenly.
    """

    items: ClassVar[Mapping[str, Sequence[str]]]

    def __init__(self, seed: str) -> None:
        # Distractors of held questions have samplers of their own: what they skip must not become the next facts.
        self.asked, self.held = (
            {kind: BalancedSampler(facts, HashStream(seed, f"{path}/{kind}")) for kind, facts in self.items.items()}
            for path in ("deck", "held")
        )

    @abstractmethod
    def draw(self, type_: str, stratum: str, stream: HashStream) -> Draft:
        """Draw one block of a type of the world, "easy", "medium" or "hard", by its own stream.

        Raises:
            DeadEndError: if no legal fact is left for a slot.
        """


@dataclass(frozen=True)
class PromptWorld:
    """How the prompts of a world are drawn and worded.

    Attributes:
        types: block types, such as "colour-shape".
        families: families with a place in the score, in the order they are printed.
        layouts: layout -> (blocks per cell, images per prompt), the smallest first.
        vocabulary: kind of fact -> facts.
        sampler: made from a seed.
        caption: (facts, template) to text.
        kind: slot to kind of fact.
        space: number of distinct scenes that the rules allow, wording not counted.
    """

    types: tuple[str, ...]
    families: tuple[str, ...]
    layouts: Mapping[str, tuple[int, int]]
    vocabulary: Mapping[str, Sequence[str]]
    sampler: type[BlockSampler]
    caption: Callable[[Mapping[str, str], str], str]
    kind: Callable[[str], str]
    space: int


@dataclass(frozen=True)
class Prompt:
    """One text to draw, and what is asked about the pictures.

    Attributes:
        id: `<seed>/<block>/<ij>`; image k belongs into the file `<id>/<k>.png`.
        block: index of the block.
        type: block type, such as "colour-shape".
        facts: every fact the text names, by slot.
    """

    id: str
    text: str
    block: int
    type: str
    stratum: str
    template: str
    facts: Mapping[str, str]
    questions: tuple[Question, ...]

    def row(self, seeds: Sequence[int]) -> dict[str, Any]:
        """Return the prompt as one object of `prompts.jsonl`, with the noise seed of each image."""
        row = asdict(self)
        cell = [row.pop("type"), row.pop("stratum")]
        return {**row, "cell": cell, "seeds": seeds}


@dataclass(frozen=True)
class PromptSet:
    """A whole set.

    Attributes:
        world: "open" or "shapes".
        families: those with a place in the score, in the order they are printed.
        images_per_prompt: images K asked for each prompt.
        prompts: four in a row for each block, twins in the order of `TWINS`.
        rejected: redrawn blocks by reason.
    """

    world: str
    seed: str
    layout: str
    families: tuple[str, ...]
    images_per_prompt: int
    prompts: tuple[Prompt, ...]
    rejected: Mapping[str, int] = field(default_factory=dict)

    @property
    def num_blocks(self) -> int:
        """Number of blocks."""
        return len(self.prompts) // 4

    def block(self, index: int) -> tuple[Prompt, ...]:
        """Return the four twins of one block."""
        return self.prompts[4 * index : 4 * index + 4]

    @cached_property
    def noise_seeds(self) -> list[list[int]]:
        """Seeds in 0..2^63-1 of the images' own noise, by prompt and image: so choosing the best of many shows."""
        return [
            [HashStream(self.seed, f"gen/{prompt.id}/{k}").u64() % 2**63 for k in range(self.images_per_prompt)]
            for prompt in self.prompts
        ]

    @cached_property
    def jsonl(self) -> str:
        """The set as JSON Lines: sorted keys, LF, UTF-8."""
        rows = (prompt.row(seeds) for prompt, seeds in zip(self.prompts, self.noise_seeds, strict=True))
        return "".join(
            json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows
        )

    @property
    def digest(self) -> str:
        """SHA-256 (64 hex digits) of `jsonl`: that of the file `prompts.jsonl`."""
        return hashlib.sha256(self.jsonl.encode()).hexdigest()
