"""CLIP (arXiv 2103.00020) as a judge of image against text, and as the encoder that other judges ask."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diffusionbench.judges import CLIP_L14, hub
from diffusionbench.judges.float32 import PRECISION
from diffusionbench.judges.network import RowJudge
from diffusionbench.sample import Item
from diffusionbench.specs import JudgeSpec

MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
STD: Final = (0.26862954, 0.26130258, 0.27577711)
TOKENS: Final = 77
# Changes whenever the same weights would give other vectors; part of the digests.
PREPROCESSING: Final = (
    "uint8, Pillow bicubic to the network's side on the shorter side, centre crop, CLIP's mean and std"
)


def centred(image: np.ndarray, side: int) -> Tensor:
    """Return an image uint8 [H, W, 3] as CLIP sees it, shorter side at `side`, the middle alone: [3, side, side]."""
    height, width = image.shape[:2]
    short = min(height, width)
    size = tuple(side if length == short else int(side * length / short) for length in (width, height))
    resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC), np.float32)  # type: ignore[arg-type]
    top, left = (resized.shape[0] - side) // 2, (resized.shape[1] - side) // 2
    pixels = torch.from_numpy(resized[top : top + side, left : left + side] / 255).permute(2, 0, 1)
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


class ClipEncoder:
    """Maps images and texts to unit vectors of one space.

    Attributes:
        digest: SHA-256 over the weights.
        is_stand_in: see `Judge`.

    Raises:
        UserError: if transformers or the weights are not there.
    """

    def __init__(self, row: JudgeSpec, device: str) -> None:
        self._network = hub.load(row, "CLIPModel", device)
        self._tokenizer = hub.processor(row, "AutoTokenizer")
        self._side = self._network.config.vision_config.image_size
        self._tokens = min(TOKENS, self._network.config.text_config.max_position_embeddings)
        self._device = device
        self.digest, self.is_stand_in = hub.weights_digest(self._network), hub.is_stand_in(self._network)
        self._texts: dict[str, Tensor] = {}

    @torch.inference_mode()
    def image(self, image: np.ndarray) -> Tensor:
        """Return the vector float32 [d] of an image uint8 [H, W, 3]."""
        pooled = self._network.vision_model(pixel_values=centred(image, self._side)[None].to(self._device))
        return F.normalize(self._network.visual_projection(pooled.pooler_output)[0].float(), dim=0).cpu()

    @torch.inference_mode()
    def text(self, text: str) -> Tensor:
        """Return the vector float32 [d] of a text, of which the first 77 tokens count."""
        if text not in self._texts:
            ids = self._tokenizer(text, truncation=True, max_length=self._tokens, return_tensors="pt").to(self._device)
            pooled = self._network.text_model(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"])
            self._texts[text] = F.normalize(self._network.text_projection(pooled.pooler_output)[0].float(), dim=0).cpu()
        return self._texts[text]


class ClipMatch(RowJudge):
    """Judge `clip_vit_l14`: {"question", "score"}, the cosine of the image and its text, neither scaled nor clipped."""

    spec = CLIP_L14
    preprocessing = PREPROCESSING
    asks = True
    memory_mb = 2000

    def __init__(self, device: str = "cpu", options: Mapping[str, Any] | None = None) -> None:
        super().__init__(device, options)
        self._encoder = ClipEncoder(self.spec, device)
        self.is_stand_in = self._encoder.is_stand_in
        self.digest = self.digest_of({"weights": self._encoder.digest, "input": PREPROCESSING, "precision": PRECISION})

    @classmethod
    def questions(cls, item: Item) -> tuple[str, ...]:
        """See `Judge.questions`: the text."""
        return (item.text,) if item.text else ()

    def row(self, image: np.ndarray, item: Item) -> dict[str, Any]:
        """See `RowJudge.row`."""
        (text,) = self.questions(item)
        return {"question": text, "score": float(self._encoder.image(image) @ self._encoder.text(text))}
