"""Base classes of judges that run a network: over batches of pictures to arrays, or over one picture at a time to rows.

Both hold the arithmetic at float32 and keep no gradients.
"""

from __future__ import annotations

import json
import sys
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusionbench.errors import RequestError
from diffusionbench.judges import Unjudged, hub
from diffusionbench.judges.float32 import in_float32
from diffusionbench.judges.judge import Evidence, Judge, Needs
from diffusionbench.sample import Item


class NetworkJudge(Judge):
    """A judge whose weights come from the hub where its row names repositories, and ship with it otherwise.

    Attributes:
        memory_mb: see `Needs`.
        shipped: file of its outputs on `patterns`, written by `tools/judge_selftests.py`; only with the row's flag.
    """

    memory_mb: ClassVar[int] = 0
    shipped: ClassVar[Path]

    @classmethod
    def check(cls) -> Needs:
        """See `Judge.check`; no weights are read."""
        return hub.check(cls.spec, cls.memory_mb) if cls.spec.hub else Needs()

    def numbers(self, picture: np.ndarray) -> Mapping[str, np.ndarray]:
        """Return what self-tests compare, arrays [n] by name, of a picture uint8 [H, W, 3]: its arrays of evidence."""
        evidence: Any = self(picture[None])
        return {name: rows[0] for name, rows in evidence.items()}

    def self_test(self) -> float:
        """See `Judge.self_test`; of every so many of the numbers of each pattern."""
        known, worst = json.loads(self.shipped.read_text()), 0.0
        for picture, wanted in zip(patterns(), known["outputs"], strict=True):
            found = self.numbers(picture)
            for name, step in known["every"].items():
                values = np.array(wanted[name])
                worst = max(worst, float(np.abs(found[name][::step] - values).max() / np.abs(values).max()))
        return worst


class ArrayJudge(NetworkJudge):
    """Maps 8-bit RGB images to arrays.

    Attributes:
        at_once: images in one pass through the network.
    """

    at_once: ClassVar[int] = sys.maxsize

    @in_float32()
    def __call__(
        self, images: np.ndarray, items: Sequence[Item] = (), given: Mapping[str, Evidence] | None = None
    ) -> Mapping[str, np.ndarray]:
        """See `Judge`.

        Raises:
            RequestError: if the images are not 8-bit RGB.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise RequestError(
                f"judge '{self.name}' needs uint8 images [B, H, W, 3], got {images.dtype} {images.shape}. Convert them "
                "first, with a stated rounding."
            )
        found: dict[str, list[np.ndarray]] = defaultdict(list)
        with torch.inference_mode():
            for start in range(0, len(images), self.at_once):
                part = slice(start, start + self.at_once)
                for name, rows in self.outputs(images[part], items[part]).items():
                    found[name].append(rows.cpu().numpy())
        return {name: np.concatenate(rows) for name, rows in found.items()}

    @abstractmethod
    def outputs(self, images: np.ndarray, items: Sequence[Item]) -> Mapping[str, Tensor]:
        """Return the arrays by name, B rows each, of at most `at_once` images uint8 [B, H, W, 3]."""

    def pixels(self, images: np.ndarray) -> Tensor:
        """Return images uint8 [B, H, W, 3] as uint8 [B, 3, H, W] on the judge's device."""
        return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(self.device)


class RowJudge(NetworkJudge):
    """Judges one image at a time, so that batches play no part.

    Attributes:
        asks: whether an image of whose item it asks nothing stays unjudged.
    """

    asks: ClassVar[bool] = False

    @in_float32()
    @torch.inference_mode()
    def __call__(
        self, images: np.ndarray, items: Sequence[Item] = (), given: Mapping[str, Evidence] | None = None
    ) -> list[Mapping[str, Any] | Unjudged]:
        """See `Judge`."""
        return [
            Unjudged("nothing was asked about it") if self.asks and not self.questions(item) else self.row(image, item)
            for image, item in zip(images, items or [Item("")] * len(images), strict=True)
        ]

    @abstractmethod
    def row(self, image: np.ndarray, item: Item) -> Mapping[str, Any] | Unjudged:
        """Return the row of an image uint8 [H, W, 3]."""


def patterns() -> list[np.ndarray]:
    """Return the pictures of self-tests: waves of whole numbers, one as large as judges see it, one small, one long."""
    pictures = []
    for number, (height, width) in enumerate(((256, 256), (32, 32), (80, 60))):
        y, x, c = np.mgrid[:height, :width, :3]
        waves = (x * (3 + c) + y * (7 - 2 * c)) * (5 + number) + (x - width // 2) * (y - height // 3) * (c + 1) // 9
        pictures.append((np.abs(waves % 511 - 255)).astype(np.uint8))
    return pictures
