"""The judge of 8x8 digits: a small network trained by `tools/train_digits_judge.py`, shipped with its recipe.

It stands in for Inception where nothing may be downloaded. Its metrics carry its name: no value formed here is
called `fid`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from diffusionbench.judges import DIGITS
from diffusionbench.judges.float32 import PRECISION
from diffusionbench.judges.judge import Needs
from diffusionbench.judges.network import ArrayJudge
from diffusionbench.sample import Item
from diffusionbench.schema import verify_bundled_weights

WEIGHTS: Final = Path(__file__).with_name("digits_judge.safetensors")
CARD: Final = Path(__file__).with_name("digits_judge.json")
WIDTH: Final = 64
SIZE: Final = 8
# Grey levels between the channels of a pixel, on average, above which a batch is no picture of digits.
COLOURFUL: Final = 16


def forward(weights: Mapping[str, Tensor], grey: Tensor) -> tuple[Tensor, Tensor]:
    """Three 3x3 convolutions, one hidden layer, ten logits.

    Args:
        weights: tensors by name, as in the weight file.
        grey: float32 [B, 1, 8, 8] in [0, 1].

    Returns:
        features: float32 [B, 64], the hidden layer after its SiLU; logits: float32 [B, 10].
    """
    x = F.silu(F.conv2d(grey, weights["conv1.weight"], weights["conv1.bias"], padding=1))
    x = F.silu(F.conv2d(x, weights["conv2.weight"], weights["conv2.bias"], padding=1))
    x = F.avg_pool2d(x, 2)
    x = F.silu(F.conv2d(x, weights["conv3.weight"], weights["conv3.bias"], padding=1))
    x = F.avg_pool2d(x, 2)
    features = F.silu(F.linear(x.flatten(1), weights["hidden.weight"], weights["hidden.bias"]))
    return features, F.linear(features, weights["out.weight"], weights["out.bias"])


def to_grey(images: np.ndarray) -> Tensor:
    """Return the mean of the channels of uint8 [B, H, W, 3], and of the areas of an 8x8 grid, as float32 [B, 1, 8, 8].

    Images of 8x8 are taken as they are, and a digit that was enlarged by repeating pixels is the same digit again.
    """
    grey = torch.from_numpy(images.astype(np.float32).mean(axis=-1) / 255)[:, None]
    return grey if grey.shape[2:] == (SIZE, SIZE) else F.adaptive_avg_pool2d(grey, SIZE)


@cache
def card() -> dict[str, Any]:
    """Return the judge's recipe, accuracy, weight hash and self-test, as the training script wrote them."""
    return json.loads(CARD.read_text())


class DigitsJudge(ArrayJudge):
    """Features and class logits of digits, seen at 8x8."""

    spec = DIGITS
    preprocessing = "uint8, mean of the channels, areas of an 8 x 8 grid, / 255"

    def __init__(self, device: str = "cpu", options: Mapping[str, Any] | None = None) -> None:
        """Load the weights.

        Raises:
            RequestError: if they are missing or are not the ones the card names.
        """
        super().__init__(device, options)
        self.check()
        self._weights = {name: tensor.to(device) for name, tensor in load_file(WEIGHTS).items()}
        facts = {"input": "mean of RGB / 255", "features": "hidden, SiLU", "precision": PRECISION}
        self.digest = self.digest_of({"weights": card()["sha256"], **facts})

    @classmethod
    def check(cls) -> Needs:
        """See `Judge.check`."""
        verify_bundled_weights("judge 'digits'", WEIGHTS, card()["sha256"])
        return Needs(files=(WEIGHTS,))

    def outputs(self, images: np.ndarray, items: Sequence[Item]) -> Mapping[str, Tensor]:
        """Return features [B, 64] and logits [B, 10]."""
        if np.ptp(images, axis=-1).mean() > COLOURFUL:
            self.caution = (
                "judge 'digits' knows grey digits, and these images are in colour: of photographs its numbers mean "
                "nothing. Give real images with --reference FOLDER and ask for fd_efflite0."
            )
        features, logits = forward(self._weights, to_grey(images).to(self.device))
        return {"features": features, "logits": logits}

    def self_test(self) -> float:
        """See `Judge.self_test`."""
        stored = card()["self_test"]
        images = np.array(stored["images"], np.uint8).reshape(-1, 8, 8, 3)
        found, wanted = self(images)["features"], np.array(stored["features"])
        # Of noise in colour.
        self.caution = None
        return float(np.abs(found - wanted).max() / np.abs(wanted).max())
