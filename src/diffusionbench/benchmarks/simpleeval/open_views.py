"""Damaged copies that the dual encoders see instead of the image: mirrors, crops, noise, blur, block-DCT."""

from __future__ import annotations

import hashlib
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from diffusionbench.benchmarks.simpleeval.stream import octets

SIDE: Final = 256
SMALL: Final = 160
CROP: Final = 217
#: Halves overlap, so that an object near the middle is in both.
HALF: Final = 0.55

_LUMINANCE: Final = (
    16, 11, 10, 16, 24, 40, 51, 61,
    12, 12, 14, 19, 26, 58, 60, 55,
    14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62,
    18, 22, 37, 56, 68, 109, 103, 77,
    24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101,
    72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_TO_YCBCR: Final = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def square(image: np.ndarray) -> Tensor:
    """Pad uint8 [H, W, 3] with its mean to a square and area-resize: float32 [3, 256, 256] in 0..255."""
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float()
    height, width = pixels.shape[1:]
    side = max(height, width)
    canvas = pixels.mean(dim=(1, 2), keepdim=True).expand(3, side, side).clone()
    top, left = (side - height) // 2, (side - width) // 2
    canvas[:, top : top + height, left : left + width] = pixels
    return _area(canvas, SIDE)


def views(image: np.ndarray, seed: str) -> list[Tensor]:
    """Return the undamaged square image and the six views, each float32 [3, h, w] in 0..255.

    Args:
        image: uint8 [H, W, 3].
        seed: of the prompt set; noise and offsets follow from it and from the image's own bytes.
    """
    whole = square(image)
    key = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
    flipped = whole.flip(-1)
    return [
        whole,
        _area(whole, SMALL),
        block_dct(flipped, 60),
        _noisy(_crop(whole, seed, key, 2), seed, key, 2),
        blur(flipped, 1.2),
        block_dct(_crop(whole, seed, key, 4), 75),
        _noisy(_area(flipped, SMALL), seed, key, 5),
    ]


def halves(view: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return left, right, top and bottom 55 % of a view [3, h, w]."""
    height, width = view.shape[1:]
    high, wide = round(HALF * height), round(HALF * width)
    return view[..., :wide], view[..., width - wide :], view[:, :high], view[:, height - high :]


def to_input(view: Tensor, side: int) -> Tensor:
    """Resize to a scorer's input (bicubic with antialias): float32 [3, side, side] in 0..255."""
    out = F.interpolate(view[None], size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    return out[0].clamp(0, 255)


def _area(view: Tensor, side: int) -> Tensor:
    return F.interpolate(view[None], size=(side, side), mode="area")[0]


def _crop(view: Tensor, seed: str, key: str, number: int) -> Tensor:
    y, x = (byte % (SIDE - CROP + 1) for byte in octets(seed, f"crop/{key}/{number}", 2))
    return view[:, y : y + CROP, x : x + CROP]


def _noisy(view: Tensor, seed: str, key: str, number: int) -> Tensor:
    raw = np.frombuffer(octets(seed, f"noise/{key}/{number}", view.numel()), np.uint8)
    noise = torch.from_numpy(raw.astype(np.float32) % 41 - 20).reshape(view.shape)
    return (view + noise).clamp(0, 255)


def blur(view: Tensor, sigma: float, radius: int = 4, mode: str = "reflect") -> Tensor:
    """Blur [3, h, w] by a Gaussian of some pixels; `mode` pads the edges as `torch.nn.functional.pad` does."""
    taps = torch.arange(-radius, radius + 1, dtype=torch.float32)
    weights = torch.exp(-(taps**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    padded = F.pad(view[None], (radius,) * 4, mode=mode)
    rows = F.conv2d(padded, weights.view(1, 1, 1, -1).expand(3, 1, 1, -1), groups=3)
    return F.conv2d(rows, weights.view(1, 1, -1, 1).expand(3, 1, -1, 1), groups=3)[0]


def block_dct(view: Tensor, quality: int) -> Tensor:
    """Quantise 8 x 8 blocks of full-range YCbCr by the JPEG luminance table at a quality of 1..100; no codec.

    Source: ITU-T T.81 Annex K; quality scaling of the Independent JPEG Group.
    """
    height, width = view.shape[1:]
    padded = F.pad(view[None], (0, -width % 8, 0, -height % 8), mode="replicate")[0]
    matrix = torch.tensor(_TO_YCBCR)
    ycbcr = torch.einsum("oc,chw->ohw", matrix, padded)
    ycbcr[0] -= 128
    rows, columns = padded.shape[1] // 8, padded.shape[2] // 8
    blocks = ycbcr.reshape(3, rows, 8, columns, 8).permute(0, 1, 3, 2, 4)
    # The orthonormal DCT-II, [8, 8].
    k, n = torch.arange(8.0)[:, None], torch.arange(8.0)[None]
    basis = torch.cos(torch.pi * (2 * n + 1) * k / 16) / 2
    basis[0] /= 2**0.5
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    table = torch.tensor([max(1, (scale * entry + 50) // 100) for entry in _LUMINANCE]).float().reshape(8, 8)
    coefficients = torch.round(basis @ blocks @ basis.T / table) * table
    blocks = basis.T @ coefficients @ basis
    ycbcr = blocks.permute(0, 1, 3, 2, 4).reshape(3, rows * 8, columns * 8)
    ycbcr[0] += 128
    rgb = torch.einsum("oc,chw->ohw", torch.linalg.inv(matrix), ycbcr)
    return rgb[:, :height, :width].clamp(0, 255)
