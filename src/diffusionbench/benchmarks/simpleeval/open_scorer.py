"""The weak scorer of the `open` world: two dual encoders on six damaged views, of which five must agree.

The encoders share no architecture, data, tokenizer or training code. A: CLIP ViT-B/32 (Radford et al. 2021). B: ALIGN
base, EfficientNet-B7 and BERT (Jia et al. 2021; COYO-700M weights). Weights come through transformers; pixels are
prepared by our own code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
from diffusionbench.judges.hub import access, found, weights_digest
from diffusionbench.judges.judge import Needs
from diffusionbench.registry import require

BATCH: Final = 64
PURPOSE: Final = "SimpleEval's scorer of natural prompts"
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
        licence: of the weights; "unstated" where its card names none.
    """

    name: str
    model: str
    architecture: str
    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    max_tokens: int
    licence: str


CLIP: Final = DualEncoderSpec(
    name="clip-vit-base-patch32",
    model="openai/clip-vit-base-patch32",
    architecture="CLIPModel",
    side=224,
    mean=(0.48145466 * 255, 0.4578275 * 255, 0.40821073 * 255),
    std=(0.26862954 * 255, 0.26130258 * 255, 0.27577711 * 255),
    max_tokens=77,
    licence="MIT",
)
ALIGN: Final = DualEncoderSpec(
    name="align-base",
    model="kakaobrain/align-base",
    architecture="AlignModel",
    side=289,
    mean=(127.5, 127.5, 127.5),
    std=(127.5, 127.5, 127.5),
    max_tokens=64,
    licence="unstated",
)


class HubEncoder:
    """A CLIP or ALIGN model loaded through transformers: maps images and texts to vectors of one space.

    Attributes:
        name: for records.
        digest: SHA-256 over the weights.
    """

    def __init__(self, spec: DualEncoderSpec, device: str = "cpu", model: str | None = None) -> None:
        """Load weights, in float32 on every device, and tokenizer; `model` replaces the hub id.

        Raises:
            MissingPackageError: if transformers is not installed.
            RequestError: if the weights cannot be found.
        """
        transformers = require("transformers", "eval-t2i", PURPOSE)
        source = model or spec.model
        with found(spec.name, source):
            network = getattr(transformers, spec.architecture).from_pretrained(
                source, dtype=torch.float32, **access(source)
            )
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(source, **access(source))
        self.name = spec.name
        self._spec, self._device = spec, device
        self._network: Any = network.to(device).eval().requires_grad_(False)
        self.digest = weights_digest(network)
        self._mean = torch.tensor(spec.mean).view(3, 1, 1)
        self._std = torch.tensor(spec.std).view(3, 1, 1)

    @staticmethod
    def check(spec: DualEncoderSpec) -> None:
        """Verify that a model is there by its small files; its weights are not loaded.

        Raises:
            MissingPackageError, RequestError: as `__init__`.
        """
        transformers = require("transformers", "eval-t2i", PURPOSE)
        with found(spec.name, spec.model):
            transformers.AutoConfig.from_pretrained(spec.model, **access(spec.model))

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
        """Load the published pair of encoders, or take another pair.

        Raises:
            MissingPackageError: if transformers is not installed.
            RequestError: if weights cannot be found.
        """
        super().__init__(device, options)
        self._encoders = encoders or (HubEncoder(CLIP, device), HubEncoder(ALIGN, device))
        self.digest = self.digest_of({encoder.name: encoder.digest for encoder in self._encoders})
        self._texts: tuple[dict[tuple[str, ...], Tensor], ...] = ({}, {})
        nulls = [square(background(f"null/{i}", "null", SIDE)) for i in range(NULL_IMAGES)]
        #: Mean vector of pictures without content; subtracted, so that no phrase gains from similarity to everything.
        self._null = [encoder.images(nulls).mean(dim=0) for encoder in self._encoders]

    @classmethod
    def check(cls) -> Needs:
        """Verify that transformers is installed, and that both models are in its cache or on the hub.

        Raises:
            MissingPackageError: saying how to install it.
            RequestError: if a model is in neither.
        """
        for spec in (CLIP, ALIGN):
            HubEncoder.check(spec)
        return Needs(packages=("transformers",), memory_mb=2000)

    def predict(self, images: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """See `Scorer.predict`."""
        copies = [views(image, prompt.id.split("/")[0]) for image, prompt in zip(images, prompts, strict=True)]
        # By image: the regions of its views, whole and, where asked, left, right, top, bottom.
        regions = [
            [(view, *halves(view)) if _by_place(prompt) else (view,) for view in seen]
            for seen, prompt in zip(copies, prompts, strict=True)
        ]
        flat = [view for one in regions for region in zip(*one, strict=True) for view in region]
        out = [np.zeros((2, len(FLIPPED), len(prompt.questions)), np.int8) for prompt in prompts]
        for number, encoder in enumerate(self._encoders):
            self._prepare_texts(number, prompts)
            encoded = iter(encoder.images(flat).split(len(FLIPPED)))
            for prompt, seen, answers in zip(prompts, regions, out, strict=True):
                vectors = torch.stack([next(encoded) for _ in seen[0]])  # [regions, 7, d]
                for view, flipped in enumerate(FLIPPED):
                    answers[number, view] = [
                        self._answer(number, vectors[:, view], question, prompt, flipped)
                        for question in prompt.questions
                    ]
        return out

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
        ordered = sorted(wanted)
        if not ordered:
            return
        vectors = self._encoders[number].texts([text for texts in ordered for text in texts])
        means = F.normalize(vectors.view(len(ordered), -1, vectors.shape[-1]).mean(dim=1), dim=-1)
        known.update(zip(ordered, means, strict=True))

    def _answer(self, number: int, regions: Tensor, question: Question, prompt: Prompt, flipped: bool) -> int:
        texts = torch.stack([self._texts[number][key] for key in _texts(question, prompt.facts)])
        if kind_of(question.slot) == "relation":
            across, down = _displacement(regions, texts)
            if flipped:
                across = -across
            values = {"to the left of": across, "to the right of": -across, "above": down, "below": -down}
            return int(np.argmax([values[option] for option in question.options]))
        image = regions[0]
        if question.family == "binding":
            nouns = torch.stack([self._texts[number][key] for key in _nouns(prompt.facts)])
            across, _ = _displacement(regions, nouns)
            first_is_left = across > 0
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
