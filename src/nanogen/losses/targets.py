"""Features of frozen encoders at the image tokens of a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusionbench.judges import EFFLITE0
from diffusionbench.judges.efflite0 import EfficientNetLite0, Network
from diffusionbench.schema import digest
from nanogen.latents import LATENTS
from nanogen.latents.encoders import Encoder
from nanogen.losses import EFFLITE0_WIDTH

# Side of the whole picture that EfficientNet-Lite0 is shown; its map is 1/32 of it.
_SIDE = 224
# Pictures in one of its forward passes: more are no faster, and take more memory.
_AT_ONCE = 8


@dataclass(frozen=True)
class FrozenFeatures:
    """A frozen encoder as a function.

    Attributes:
        tokens: maps images float32 [B, 3, H, W] in [0, 1] to features float32 [B, N, width], row by row.
        width: of a feature.
        digest: SHA-256 over weights and preprocessing.
        class_token: maps the same images to float32 [B, width], or None where the encoder has none.
    """

    tokens: Callable[[Tensor], Tensor]
    width: int
    digest: str
    class_token: Callable[[Tensor], Tensor] | None = None


def on_grid(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return maps [B, C, h, w] as tokens [B, rows * columns, C] of another grid, bilinearly."""
    if maps.shape[2:] != grid:
        maps = F.interpolate(maps, size=grid, mode="bilinear", align_corners=False)
    return maps.flatten(2).mT


def open_features(name: str, grid: tuple[int, int], device: str) -> FrozenFeatures:
    """Return the frozen encoder of an alignment loss, see `AlignmentOptions`.

    Args:
        grid: image tokens of the network as (rows, columns).

    Raises:
        UserError: if its files are missing, damaged or those of another network.
    """
    if name == EFFLITE0.name:
        return _efflite0(grid, device)
    encoder, channels = Encoder(LATENTS[name], device), LATENTS[name].channels

    def tokens(images: Tensor) -> Tensor:
        found = encoder(images)  # [B, side^2, C]
        side = round(found.shape[1] ** 0.5)
        return on_grid(found.mT.unflatten(2, (side, side)), grid).float()

    class_token = (lambda images: encoder.class_token(images)) if encoder.has_class_token else None
    return FrozenFeatures(tokens, channels, encoder.digest, class_token)


def _efflite0(grid: tuple[int, int], device: str) -> FrozenFeatures:
    """Return the map after the last block, 320 wide, each position with mean 0 and variance 1.

    The whole picture is resized, not cropped as for the judge, so that each feature lies at its token.
    """
    (path,) = EfficientNetLite0.check().files
    net = Network(torch.load(path, map_location=device, weights_only=True))

    def tokens(images: Tensor) -> Tensor:
        shown = F.interpolate(images, size=(_SIDE, _SIDE), mode="bicubic", antialias=True, align_corners=False)
        shown = ((255 * shown - 127) / 128).contiguous(memory_format=torch.channels_last)
        maps = torch.cat([net.map(some) for some in shown.split(_AT_ONCE)])  # [B, 320, 7, 7]
        return F.layer_norm(on_grid(maps, grid), maps.shape[1:2])

    return FrozenFeatures(tokens, EFFLITE0_WIDTH, digest([EFFLITE0.sha256, f"whole picture at {_SIDE}"]))
