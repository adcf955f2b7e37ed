"""Mask2Former (arXiv 2112.01527) with a Swin-S backbone, through transformers: instances with masks and boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diffusionbench.judges import MASK2FORMER, MASK2FORMER_ORIGINAL, MASK2FORMER_UPSTREAM, hub
from diffusionbench.judges.float32 import PRECISION
from diffusionbench.judges.network import RowJudge
from diffusionbench.sample import Item

MEAN: Final = (0.485, 0.456, 0.406)
STD: Final = (0.229, 0.224, 0.225)
_SHORT, _LONG, _MULTIPLE = 800, 1333, 32
# Instances that are taken from one image, and the score that they must exceed; GenEval never looks below.
_MOST: Final = 100
_LEAST: Final = 0.3


def prepare(image: np.ndarray) -> tuple[Tensor, tuple[int, int]]:
    """Return an image uint8 [H, W, 3] as float32 [3, h, w] padded to a multiple of 32, and its size before padding.

    The shorter side becomes 800, the longer at most 1333 (Pillow bilinear); ImageNet's mean and std; zeros behind.
    """
    height, width = image.shape[:2]
    scale = min(_SHORT / min(height, width), _LONG / max(height, width))
    size = round(height * scale), round(width * scale)
    resized = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR), np.float32) / 255
    pixels = (torch.from_numpy(resized) - torch.tensor(MEAN)) / torch.tensor(STD)
    return F.pad(pixels.permute(2, 0, 1), (0, -size[1] % _MULTIPLE, 0, -size[0] % _MULTIPLE)), size


def instances(
    classes: Tensor, masks: Tensor, padded: tuple[int, int], inner: tuple[int, int], size: tuple[int, int], mode: str
) -> list[tuple[int, float, np.ndarray]]:
    """Return class, score and mask bool [H, W] of the best pairs of query and class, by falling score.

    Args:
        classes: logits [Q, C + 1], the last for no object; masks: logits [Q, h, w].
        padded: height and width of the network's input; inner: of the image in it.
        size: of the image.
        mode: "fixed" removes the padding and takes the nearest pixel of a binary mask, "upstream" keeps the padding,
            "original" interpolates logits.
    """
    odds = classes.softmax(dim=-1)[:, :-1]
    top = odds.flatten().topk(min(_MOST, odds.numel()))
    found = []
    for place, odd in zip(top.indices.tolist(), top.values.tolist(), strict=True):
        query, label = divmod(place, odds.shape[1])
        if odd <= _LEAST:
            break
        logits = F.interpolate(masks[query][None, None], padded, mode="bilinear", align_corners=False)
        if mode != "upstream":
            logits = logits[..., : inner[0], : inner[1]]
        if mode == "original":
            logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        binary = logits > 0
        quality = float((logits.sigmoid() * binary).sum() / (binary.sum() + 1e-6))
        mask = F.interpolate(binary.float(), size, mode="nearest")[0, 0].bool().cpu().numpy()
        if mask.any() and odd * quality > _LEAST:
            found.append((label, odd * quality, mask))
    return sorted(found, key=lambda one: -one[1])


def as_row(label: str, score: float, mask: np.ndarray, inclusive: bool) -> dict[str, Any]:
    """Return an instance as evidence: its box, and the runs of its mask in the box, row by row, starting outside.

    Args:
        mask: bool [H, W], not empty.
        inclusive: whether the box ends on its last pixel instead of behind it.
    """
    ys, xs = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    y0, y1, x0, x1 = int(ys[0]), int(ys[-1]) + 1, int(xs[0]), int(xs[-1]) + 1
    flat = np.concatenate([[False], mask[y0:y1, x0:x1].ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], edges]))
    less = int(inclusive)
    return {"label": label, "score": score, "box": [x0, y0, x1 - less, y1 - less], "mask": runs.tolist(),
            "mask_box": [x0, y0, x1, y1]}  # fmt: skip


def mask_of(row: Mapping[str, Any], size: Sequence[int]) -> np.ndarray:
    """Return the mask bool [H, W] of an instance's row."""
    x0, y0, x1, y1 = row["mask_box"]
    values = np.repeat(np.arange(len(row["mask"])) % 2 == 1, row["mask"])
    mask = np.zeros(tuple(size), bool)
    inside = np.zeros((y1 - y0) * (x1 - x0), bool)
    inside[: len(values)] = values
    mask[y0:y1, x0:x1] = inside.reshape(y1 - y0, x1 - x0)
    return mask


class Mask2Former(RowJudge):
    """Judge `mask2former`: {"boxes": [{"label", "score", "box", "mask", "mask_box"}, ...]} by falling score."""

    spec = MASK2FORMER
    mode: ClassVar[str] = "fixed"
    memory_mb = 4000
    preprocessing = (
        "uint8, Pillow bilinear to shorter side 800, longer at most 1333, ImageNet's mean and std, padded to 32"
    )

    def __init__(self, device: str = "cpu", options: Mapping[str, Any] | None = None) -> None:
        super().__init__(device, options)
        self._network = hub.load(self.spec, "Mask2FormerForUniversalSegmentation", device)
        facts = {"weights": hub.weights_digest(self._network), "input": self.preprocessing, "mode": self.mode}
        self.digest = self.digest_of({**facts, "least": _LEAST, "precision": PRECISION})

    def row(self, image: np.ndarray, item: Item) -> dict[str, Any]:
        """Return the instances of an image."""
        pixels, inner = prepare(image)
        out = self._network(pixel_values=pixels[None].to(self.device))
        padded, size = (pixels.shape[1], pixels.shape[2]), (image.shape[0], image.shape[1])
        logits = out.class_queries_logits[0], out.masks_queries_logits[0]
        found = instances(*logits, padded, inner, size, self.mode)
        names, inclusive = self._network.config.id2label, self.mode == "upstream"
        return {"boxes": [as_row(names[label], score, mask, inclusive) for label, score, mask in found]}


class Mask2FormerUpstream(Mask2Former):
    """The published system's reading of the same network: inclusive boxes, padding kept."""

    spec = MASK2FORMER_UPSTREAM
    mode = "upstream"


class Mask2FormerOriginal(Mask2Former):
    """The original detector library's reading of the same network: logits interpolated to the image."""

    spec = MASK2FORMER_ORIGINAL
    mode = "original"
