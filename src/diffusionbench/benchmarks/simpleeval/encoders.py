"""The two frozen dual encoders of the `open` world, which share no architecture, data, tokenizer or training code.

A: CLIP ViT-B/32 (Radford et al. 2021). B: ALIGN base, EfficientNet-B7 and BERT (Jia et al. 2021; COYO-700M weights).
Weights come through transformers; pixels are prepared by our own code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusionbench.benchmarks.simpleeval.open_views import to_input
from diffusionbench.errors import RequestError
from diffusionbench.registry import require
from diffusionbench.shown import first_line

BATCH: Final = 64
PURPOSE: Final = "SimpleEval's scorer of natural prompts"


class DualEncoder(Protocol):
    """Images and texts to vectors of one space.

    Attributes:
        name: for records.
        digest: SHA-256 over the weights.
    """

    name: str
    digest: str

    def images(self, views: Sequence[Tensor]) -> Tensor:
        """Views float32 [3, h, w] in 0..255, of any sizes, to unit vectors float32 [B, d] on the CPU."""
        ...

    def texts(self, sentences: Sequence[str]) -> Tensor:
        """Sentences to unit vectors float32 [B, d] on the CPU."""
        ...


@dataclass(frozen=True)
class Row:
    """Where one encoder comes from.

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


CLIP: Final = Row(
    name="clip-vit-base-patch32",
    model="openai/clip-vit-base-patch32",
    architecture="CLIPModel",
    side=224,
    mean=(0.48145466 * 255, 0.4578275 * 255, 0.40821073 * 255),
    std=(0.26862954 * 255, 0.26130258 * 255, 0.27577711 * 255),
    max_tokens=77,
    licence="MIT",
)
ALIGN: Final = Row(
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
    """A CLIP or ALIGN model loaded through transformers."""

    def __init__(self, row: Row, device: str = "cpu", model: str | None = None) -> None:
        """Load weights and tokenizer.

        Args:
            row: which encoder.
            device: where it runs; bfloat16 towers on a GPU, float32 on a CPU.
            model: local folder in place of the hub id.

        Raises:
            MissingPackageError: if transformers is not installed.
            RequestError: if the weights cannot be found.
        """
        transformers = require("transformers", "eval-t2i", PURPOSE)
        source = model or row.model
        dtype = torch.float32 if torch.device(device).type == "cpu" else torch.bfloat16
        try:
            network = getattr(transformers, row.architecture).from_pretrained(source, dtype=dtype)
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise RequestError(
                f"the weights of {row.name} were not found at '{source}' ({first_line(error)}). "
                f"Run once with a connection, or give a local folder."
            ) from None
        self.name = row.name
        self._row, self._device, self._dtype = row, device, dtype
        self._network: Any = network.to(device).eval().requires_grad_(False)
        self.digest = weights_digest(network)
        self._mean = torch.tensor(row.mean).view(3, 1, 1)
        self._std = torch.tensor(row.std).view(3, 1, 1)

    @torch.no_grad()
    def images(self, views: Sequence[Tensor]) -> Tensor:
        """See `DualEncoder.images`."""
        out = []
        for start in range(0, len(views), BATCH):
            pixels = torch.stack([to_input(view, self._row.side) for view in views[start : start + BATCH]])
            pixels = ((pixels - self._mean) / self._std).to(self._device, self._dtype)
            pooled = self._network.vision_model(pixel_values=pixels).pooler_output
            if self._row.architecture == "CLIPModel":
                pooled = self._network.visual_projection(pooled)
            out.append(F.normalize(pooled.flatten(1).float(), dim=-1).cpu())
        return torch.cat(out)

    @torch.no_grad()
    def texts(self, sentences: Sequence[str]) -> Tensor:
        """See `DualEncoder.texts`."""
        out = []
        for start in range(0, len(sentences), BATCH):
            numbers = self._tokenizer(
                list(sentences[start : start + BATCH]),
                padding=True,
                truncation=True,
                max_length=self._row.max_tokens,
                return_tensors="pt",
            ).to(self._device)
            states = self._network.text_model(input_ids=numbers["input_ids"], attention_mask=numbers["attention_mask"])
            # CLIP reads the end-of-text state, ALIGN the first one.
            pooled = states.pooler_output if self._row.architecture == "CLIPModel" else states.last_hidden_state[:, 0]
            out.append(F.normalize(self._network.text_projection(pooled).float(), dim=-1).cpu())
        return torch.cat(out)


def weights_digest(network: torch.nn.Module) -> str:
    """SHA-256 over names and float32 values of all weights: the same for every file format they came in."""
    total = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        total.update(name.encode())
        total.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
