"""The weak scorer of the `open` world: two dual encoders, six damaged views, five votes of six, both must agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diffusionbench.benchmarks.simpleeval import open_views
from diffusionbench.benchmarks.simpleeval.answers import Panel
from diffusionbench.benchmarks.simpleeval.blocks import Prompt, Question
from diffusionbench.benchmarks.simpleeval.encoders import ALIGN, CLIP, DualEncoder, HubEncoder
from diffusionbench.benchmarks.simpleeval.open_views import halves, views
from diffusionbench.benchmarks.simpleeval.shapes import background
from diffusionbench.benchmarks.simpleeval.vocabulary import kind_of, owner_of
from diffusionbench.benchmarks.simpleeval.wording import scorer_texts

NULL_IMAGES: Final = 32
LEFT, RIGHT, TOP, BOTTOM = range(1, 5)
#: View 0 is the undamaged image.
FLIPPED: Final = (False, *open_views.MIRRORED)


class OpenAnswerer:
    """Both encoders on all views; memory does not grow with the number of images, only with distinct sentences."""

    def __init__(self, first: DualEncoder, second: DualEncoder) -> None:
        self._encoders = (first, second)
        self.panel = Panel(need=5, mirrored=open_views.MIRRORED, names=(first.name, second.name))
        self.digests = {encoder.name: encoder.digest for encoder in self._encoders}
        self._texts: tuple[dict[tuple[str, ...], Tensor], ...] = ({}, {})
        nulls = [open_views.square(background(f"null/{i}", "null", open_views.SIDE)) for i in range(NULL_IMAGES)]
        #: Mean vector of pictures that show nothing: a phrase's liking for it is what the phrase gets for free.
        self._null = [encoder.images(nulls).mean(dim=0) for encoder in self._encoders]

    @classmethod
    def from_hub(cls, device: str = "cpu") -> OpenAnswerer:
        """The published pair of encoders.

        Raises:
            MissingPackageError: if transformers is not installed.
            RequestError: if weights cannot be found.
        """
        return cls(HubEncoder(CLIP, device), HubEncoder(ALIGN, device))

    def votes(self, images: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """See `answers.Answerer`."""
        copies = [views(image, prompt.id.split("/")[0]) for image, prompt in zip(images, prompts, strict=True)]
        out = [np.zeros((2, len(FLIPPED), len(prompt.questions)), np.int8) for prompt in prompts]
        for number, encoder in enumerate(self._encoders):
            self._prepare_texts(number, prompts)
            for place, vectors in enumerate(self._vectors(encoder, copies, prompts)):
                prompt = prompts[place]
                for view, flipped in enumerate(FLIPPED):
                    regions = [vectors[region][view] for region in range(len(vectors))]
                    out[place][number, view] = [
                        self._answer(number, regions, question, prompt, flipped) for question in prompt.questions
                    ]
        return out

    @staticmethod
    def _vectors(
        encoder: DualEncoder, copies: Sequence[Sequence[Tensor]], prompts: Sequence[Prompt]
    ) -> list[list[Tensor]]:
        """Image vectors by image, region (whole; where asked left, right, top, bottom) and view: [7, d] each."""
        flat: list[Tensor] = []
        counts = []
        for seen, prompt in zip(copies, prompts, strict=True):
            regions: list[tuple[Tensor, ...]] = [
                (view, *halves(view)) if _by_place(prompt) else (view,) for view in seen
            ]
            counts.append(len(regions[0]))
            flat += [region[i] for i in range(len(regions[0])) for region in regions]
        encoded = iter(encoder.images(flat).split(len(FLIPPED)))
        return [[next(encoded) for _ in range(count)] for count in counts]

    def _prepare_texts(self, number: int, prompts: Sequence[Prompt]) -> None:
        """Encode every sentence that is new, in one go."""
        known = self._texts[number]
        wanted = {
            texts
            for prompt in prompts
            for question in prompt.questions
            for texts in (*_texts(question, prompt.facts), *(_nouns(prompt.facts) if _by_place(prompt) else ()))
            if texts not in known
        }
        if not wanted:
            return
        ordered = sorted(wanted)
        vectors = self._encoders[number].texts([text for texts in ordered for text in texts])
        means = F.normalize(vectors.view(len(ordered), -1, vectors.shape[-1]).mean(dim=1), dim=-1)
        known.update(zip(ordered, means, strict=True))

    def _answer(self, number: int, regions: Sequence[Tensor], question: Question, prompt: Prompt, flipped: bool) -> int:
        texts = torch.stack([self._texts[number][key] for key in _texts(question, prompt.facts)])
        if kind_of(question.slot) == "relation":
            across, down = _displacement(regions, texts)
            if flipped:
                across = -across
            values = {
                "to the left of": across,
                "to the right of": -across,
                "above": down,
                "below": -down,
            }
            return int(np.argmax([values[option] for option in question.options]))
        image = regions[0]
        if question.family == "binding":
            nouns = torch.stack([self._texts[number][key] for key in _nouns(prompt.facts)])
            across, _ = _displacement(regions, nouns)
            first_is_left = across > 0
            image = regions[LEFT if first_is_left == (owner_of(question.slot) == "object") else RIGHT]
        return int((texts @ (image - self._null[number])).argmax())


def _by_place(prompt: Prompt) -> bool:
    """Whether any question needs the halves of a view."""
    return any(question.family == "binding" or kind_of(question.slot) == "relation" for question in prompt.questions)


def _nouns(facts: Mapping[str, str]) -> list[tuple[str, ...]]:
    return [scorer_texts("object", facts[slot]) for slot in ("object", "companion")]


def _texts(question: Question, facts: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Sentences that a question compares: one triple an option, or the two nouns whose places are compared."""
    kind = kind_of(question.slot)
    if kind == "relation":
        return _nouns(facts)
    noun = None if kind == "noun" else facts.get(owner_of(question.slot) or "")
    return [scorer_texts("object" if kind == "noun" else kind, option, noun) for option in question.options]


def _displacement(regions: Sequence[Tensor], nouns: Tensor) -> tuple[float, float]:
    """How much further left, and up, the first noun is than the second: a difference of differences."""
    first_less_second = nouns[0] - nouns[1]
    left, right, top, bottom = (float(regions[i] @ first_less_second) for i in (LEFT, RIGHT, TOP, BOTTOM))
    return left - right, top - bottom
