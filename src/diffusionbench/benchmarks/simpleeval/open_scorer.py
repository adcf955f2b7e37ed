"""The weak scorer of the `open` world: two dual encoders on six damaged views, of which five must agree.

The encoders share no architecture, data, tokenizer or training code. A: CLIP ViT-B/32 (Radford et al. 2021). B: ALIGN
base, EfficientNet-B7 and BERT (Jia et al. 2021; COYO-700M weights). Weights come through transformers; pixels are
prepared by our own code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diffusionbench.benchmarks.simpleeval import OPEN_JUDGE
from diffusionbench.benchmarks.simpleeval.blocks import Prompt, Question
from diffusionbench.benchmarks.simpleeval.evidence import OPEN_RULE, Scorer
from diffusionbench.benchmarks.simpleeval.open_views import SIDE, halves, square, to_input, views
from diffusionbench.benchmarks.simpleeval.open_words import kind_of, owner_of, scorer_texts
from diffusionbench.benchmarks.simpleeval.renderer import background
from diffusionbench.judges import clip, hub
from diffusionbench.judges.judge import Needs

BATCH: Final = 64
NULL_IMAGES: Final = 32
LEFT, RIGHT, TOP, BOTTOM = range(1, 5)
#: View 0 is the undamaged image.
FLIPPED: Final = (False, *OPEN_RULE.mirrored)


@dataclass(frozen=True)
class DualEncoderSpec:
    """Origin and input of one encoder.

    Attributes:
        model: hub id or local folder.
        architecture: class name in transformers.
        side: input side in pixels.
        mean, std: of the channels, on 0..255.
        max_tokens: longest text.
    """

    name: str
    model: str
    architecture: str
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    max_tokens: int


CLIP: Final = DualEncoderSpec(
    name="clip-vit-base-patch32",
    model=OPEN_JUDGE.hub[0],
    architecture="CLIPModel",
    side=224,
    mean=tuple(255 * one for one in clip.MEAN),
    std=tuple(255 * one for one in clip.STD),
    max_tokens=clip.TOKENS,
)
ALIGN: Final = DualEncoderSpec(
    name="align-base",
    model=OPEN_JUDGE.hub[1],
    architecture="AlignModel",
    side=289,
    mean=(127.5,) * 3,
    std=(127.5,) * 3,
    max_tokens=64,
)


class HubEncoder:
    """A CLIP or ALIGN model loaded through transformers: maps images and texts to vectors of one space.

    Attributes:
        name: for records.
        digest: SHA-256 over the weights.

    Raises:
        UserError: if transformers or the weights are not there, or tensors are missing.
    """

    def __init__(self, spec: DualEncoderSpec, device: str = "cpu") -> None:
        row = replace(OPEN_JUDGE, name=spec.name, hub=(spec.model,))
        self._network: Any = hub.load(row, spec.architecture, device)
        self._tokenizer = hub.processor(row, "AutoTokenizer")
        self.name = spec.name
        self._spec, self._device = spec, device
        self.digest = hub.weights_digest(self._network)
        self._mean = torch.tensor(spec.mean).view(3, 1, 1)
        self._std = torch.tensor(spec.std).view(3, 1, 1)

    @torch.no_grad()
    def images(self, views: Sequence[Tensor]) -> Tensor:
        """Map views float32 [3, h, w] in 0..255, of any sizes, to unit vectors float32 [B, d] on the CPU."""
        out = []
        for start in range(0, len(views), BATCH):
            pixels = torch.stack([to_input(view, self._spec.side) for view in views[start : start + BATCH]])
            pixels = ((pixels - self._mean) / self._std).to(self._device)
            pooled = self._network.vision_model(pixel_values=pixels).pooler_output
            if self._spec.architecture == "CLIPModel":
                pooled = self._network.visual_projection(pooled)
            out.append(F.normalize(pooled.flatten(1).float(), dim=-1).cpu())
        return torch.cat(out)

    @torch.no_grad()
    def texts(self, sentences: Sequence[str]) -> Tensor:
        """Map sentences to unit vectors float32 [B, d] on the CPU."""
        out = []
        for start in range(0, len(sentences), BATCH):
            numbers = self._tokenizer(
                list(sentences[start : start + BATCH]),
                padding=True,
                truncation=True,
                max_length=self._spec.max_tokens,
                return_tensors="pt",
            ).to(self._device)
            states = self._network.text_model(input_ids=numbers["input_ids"], attention_mask=numbers["attention_mask"])
            # CLIP reads the end-of-text state, ALIGN the first one.
            pooled = states.pooler_output if self._spec.architecture == "CLIPModel" else states.last_hidden_state[:, 0]
            out.append(F.normalize(self._network.text_projection(pooled).float(), dim=-1).cpu())
        return torch.cat(out)


class OpenScorer(Scorer):
    """Both encoders on all views; memory does not grow with the number of images, only with distinct sentences."""

    spec = OPEN_JUDGE
    rule = OPEN_RULE

    def __init__(
        self,
        device: str = "cpu",
        options: Mapping[str, Any] | None = None,
        encoders: tuple[HubEncoder, HubEncoder] | None = None,
    ) -> None:
        """Load the published pair of encoders, or take another pair."""
        super().__init__(device, options)
        self._encoders = encoders or (HubEncoder(CLIP, device), HubEncoder(ALIGN, device))
        self.digest = self.digest_of({encoder.name: encoder.digest for encoder in self._encoders})
        self._texts: tuple[dict[tuple[str, ...], Tensor], ...] = ({}, {})
        nulls = [square(background(f"null/{i}", "null", SIDE)) for i in range(NULL_IMAGES)]
        #: Mean vector of pictures without content; subtracted, so that no phrase gains from similarity to everything.
        self._null = [encoder.images(nulls).mean(dim=0) for encoder in self._encoders]

    @classmethod
    def check(cls) -> Needs:
        """See `Judge.check`."""
        return hub.check(cls.spec, memory_mb=2000)

    def predict(self, images: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """See `Scorer.predict`."""
        # By image and view: the whole and, where asked, left, right, top and bottom.
        seen = [
            [(view, *halves(view)) if _by_place(prompt) else (view,) for view in views(image, prompt.id.split("/")[0])]
            for image, prompt in zip(images, prompts, strict=True)
        ]
        flat = [region for one in seen for view in one for region in view]
        out = [np.zeros((2, len(FLIPPED), len(prompt.questions)), np.int8) for prompt in prompts]
        for number, encoder in enumerate(self._encoders):
            vectors = encoder.images(flat).split([len(one) * len(one[0]) for one in seen])
            for prompt, found, answers in zip(prompts, vectors, out, strict=True):
                for view, regions in enumerate(found.unflatten(0, (len(FLIPPED), -1))):
                    answers[number, view] = [
                        self._answer(number, regions, question, prompt, FLIPPED[view]) for question in prompt.questions
                    ]
        return out

    def _vectors(self, number: int, sentences: Sequence[tuple[str, ...]]) -> Tensor:
        """Return one unit vector for each group of sentences, float32 [n, d]; none is encoded twice."""
        known = self._texts[number]
        for group in sentences:
            if group not in known:
                known[group] = F.normalize(self._encoders[number].texts(group).mean(dim=0), dim=0)
        return torch.stack([known[group] for group in sentences])

    def _answer(self, number: int, regions: Tensor, question: Question, prompt: Prompt, flipped: bool) -> int:
        texts = self._vectors(number, _texts(question, prompt.facts))
        if kind_of(question.slot) == "relation":
            across, down = _displacement(regions, texts)
            if flipped:
                across = -across
            values = {"to the left of": across, "to the right of": -across, "above": down, "below": -down}
            return int(np.argmax([values[option] for option in question.options]))
        image = regions[0]
        if question.family == "binding":
            first_is_left = _displacement(regions, self._vectors(number, _nouns(prompt.facts)))[0] > 0
            image = regions[LEFT if first_is_left == (owner_of(question.slot) == "object") else RIGHT]
        return int((texts @ (image - self._null[number])).argmax())


def _by_place(prompt: Prompt) -> bool:
    """Return whether any question needs the halves of a view."""
    return any(question.family == "binding" or kind_of(question.slot) == "relation" for question in prompt.questions)


def _nouns(facts: Mapping[str, str]) -> list[tuple[str, ...]]:
    return [scorer_texts("object", facts[slot]) for slot in ("object", "companion")]


def _texts(question: Question, facts: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Return the sentences a question compares: one triple an option, or the two nouns whose places are compared."""
    kind = kind_of(question.slot)
    if kind == "relation":
        return _nouns(facts)
    noun = None if kind == "noun" else facts.get(owner_of(question.slot) or "")
    return [scorer_texts("object" if kind == "noun" else kind, option, noun) for option in question.options]


def _displacement(regions: Tensor, nouns: Tensor) -> tuple[float, float]:
    """Return how much further left, and up, the first noun is than the second: a difference of differences."""
    first_less_second = nouns[0] - nouns[1]
    left, right, top, bottom = (float(regions[i] @ first_less_second) for i in (LEFT, RIGHT, TOP, BOTTOM))
    return left - right, top - bottom
