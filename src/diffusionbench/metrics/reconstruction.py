"""How much of an image its reconstruction keeps: PSNR and SSIM of pairs, one value per image.

Sources: Wang et al. 2004, "Image quality assessment: from error visibility to structural similarity"; the border as in
torchmetrics 1.8, which averages all pixels.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusionbench.errors import RequestError

# Side and deviation of the Gaussian window.
_WINDOW, _SIGMA = 11, 1.5
# (k1 range)^2 and (k2 range)^2 for a range of 1.
_C1: Final = 0.01**2
_C2: Final = 0.03**2


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Return the peak signal to noise ratio in dB, float64 [B]; identical images give 100.

    Args:
        x, y: images [B, 3, H, W] in [0, 1] and their partners; uint8 is divided by 255.

    Raises:
        RequestError: if the two are of other shapes.
    """
    x, y = _pair(x, y)
    return -10 * (x - y).square().flatten(1).mean(1).clamp(min=1e-10).log10()


def ssim(x: Tensor, y: Tensor) -> Tensor:
    """Return the structural similarity, float64 [B]: mean over colours and all pixels, the border reflected.

    Args:
        x, y: as for `psnr`, of at least 6 pixels a side.

    Raises:
        RequestError: if the two are of other shapes or too small.
    """
    x, y = _pair(x, y)
    if min(x.shape[2:]) <= _WINDOW // 2:
        raise RequestError(f"SSIM needs images of {_WINDOW // 2 + 1} pixels a side or more, got {list(x.shape[2:])}.")
    mean_x, mean_y, square_x, square_y, product = _blurred(torch.stack([x, y, x * x, y * y, x * y]))
    # Rounding may leave a variance below 0.
    var_x, var_y = (square_x - mean_x**2).clamp(min=0), (square_y - mean_y**2).clamp(min=0)
    covariance = product - mean_x * mean_y
    light = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    structure = (2 * covariance + _C2) / (var_x + var_y + _C2)
    return (light * structure).flatten(1).mean(1)


def _pair(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    if x.shape != y.shape or x.ndim != 4:
        raise RequestError(
            f"images {list(x.shape)} and reconstructions {list(y.shape)}: each image needs a partner of its size, "
            "[B, 3, H, W]. Give both in one size."
        )
    x, y = (images.double() / (255 if images.dtype == torch.uint8 else 1) for images in (x, y))
    return x, y


def _blurred(images: Tensor) -> Tensor:
    """Return the mean of [..., H, W] in a Gaussian window around each pixel."""
    reach = _WINDOW // 2
    offsets = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    weights = torch.softmax(-offsets.square() / (2 * _SIGMA**2), 0)
    x = F.pad(images.flatten(0, 2)[:, None], (reach,) * 4, mode="reflect")
    x = F.conv2d(F.conv2d(x, weights[None, None, None]), weights[None, None, :, None])
    return x.reshape(images.shape)
