"""Judges of pairs: how far a reconstruction is from its original, one number an image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusionbench.errors import RequestError
from diffusionbench.judges import EFFLITE0, LPIPS, PD_EFFLITE0, PSNR, SSIM
from diffusionbench.judges.efflite0 import EfficientNetLite0, open_network, prepare
from diffusionbench.judges.float32 import PRECISION
from diffusionbench.judges.hub import weights_digest
from diffusionbench.judges.judge import Needs
from diffusionbench.judges.lpips import missing_weights, open_lpips
from diffusionbench.judges.network import ArrayJudge
from diffusionbench.metrics.reconstruction import psnr, ssim
from diffusionbench.sample import Item


class PairJudge(ArrayJudge):
    """Gives {"value": float64 [B, 1]} of images and the partners of their items."""

    # LPIPS holds two maps of 64 x H x W for each.
    at_once = 10

    def __init__(self, device: str = "cpu", options: Mapping[str, Any] | None = None) -> None:
        super().__init__(device, options)
        self.check()
        self.digest = self.digest_of({"judge": self.name, "precision": PRECISION, **self._open()})

    def _open(self) -> dict[str, str]:
        """Load weights; return what they are."""
        return {}

    @classmethod
    def questions(cls, item: Item) -> tuple[str, ...]:
        """Return which original the image is compared with."""
        return (item.target or "",)

    def outputs(self, images: np.ndarray, items: Sequence[Item]) -> Mapping[str, Tensor]:
        """Compare images with the partners of their items.

        Raises:
            RequestError: if an item has none, or one of another size.
        """
        partners = np.stack([self._partner(image, item) for image, item in zip(images, items, strict=True)])
        return {"value": self._compared(images, partners).double()[:, None]}

    def _partner(self, image: np.ndarray, item: Item) -> np.ndarray:
        if "partner" not in item.detail:
            raise RequestError(
                f"judge '{self.name}' compares images with their originals, and image '{item.key}' has none. Use axis "
                "'reconstruction' and name the originals with --reference."
            )
        partner: np.ndarray = item.detail["partner"]()
        if partner.shape != image.shape:
            raise RequestError(
                f"image '{item.key}' is {image.shape[0]}x{image.shape[1]} and its original "
                f"{partner.shape[0]}x{partner.shape[1]}. Give both in one size; we do not resize."
            )
        return partner

    @abstractmethod
    def _compared(self, images: np.ndarray, partners: np.ndarray) -> Tensor:
        """Return one number [B] for each of two batches uint8 [B, H, W, 3]."""


class Psnr(PairJudge):
    """Judge `psnr`, in dB."""

    spec = PSNR

    def _compared(self, images: np.ndarray, partners: np.ndarray) -> Tensor:
        return psnr(self.pixels(images), self.pixels(partners))


class Ssim(PairJudge):
    """Judge `ssim`."""

    spec = SSIM

    def _compared(self, images: np.ndarray, partners: np.ndarray) -> Tensor:
        return ssim(self.pixels(images), self.pixels(partners))


class Lpips(PairJudge):
    """Judge `lpips`, with the published weights."""

    spec = LPIPS

    def _open(self) -> dict[str, str]:
        self._net = open_lpips(self.device)
        return {"weights": weights_digest(self._net)}

    @classmethod
    def check(cls) -> Needs:
        """See `Judge.check`."""
        if missing := missing_weights():
            raise RequestError(missing)
        return Needs()

    def _compared(self, images: np.ndarray, partners: np.ndarray) -> Tensor:
        # Divided whatever the largest value: an almost black batch is no batch of floats.
        found: Tensor = self._net(*(self.pixels(one).float() / 127.5 - 1 for one in (images, partners)))
        return found


class PdEfflite0(PairJudge):
    """Judge `pd_efflite0`: LPIPS' formula without learned weights over the seven stages of EfficientNet-Lite0.

    Both images are prepared as `efflite0` does it, so their middle is compared.
    """

    spec = PD_EFFLITE0

    def _open(self) -> dict[str, str]:
        self._net = open_network(self.device)
        return {"weights": EFFLITE0.sha256 or "", "input": EfficientNetLite0.preprocessing}

    @classmethod
    def check(cls) -> Needs:
        """See `Judge.check`."""
        return EfficientNetLite0.check()

    def _compared(self, images: np.ndarray, partners: np.ndarray) -> Tensor:
        both = (self._net.stages(prepare(one).to(self.device)) for one in (images, partners))
        distance = torch.zeros(len(images), device=self.device)
        for x, y in zip(*both, strict=True):
            x, y = (one / (one.norm(dim=1, keepdim=True) + 1e-10) for one in (x, y))
            distance = distance + (x - y).square().sum(1).mean((1, 2))
        return distance
