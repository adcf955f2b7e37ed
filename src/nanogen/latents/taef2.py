"""`taef2`: a small autoencoder whose packed latent is that of FLUX.2, normalised.

Layers as in TAESD of Ollin Boer Bohan (github.com/madebyollin/taesd, variant for FLUX.2), whose weight files it reads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusionbench.schema import digest, file_digest
from nanogen.checkpoint import load_weights
from nanogen.latents import Latent, LatentSpec
from nanogen.latents.weights import obtain, read_tensors

WIDTH = 64
# Channels of the latent before packing.
CHANNELS = 32


class Block(nn.Module):
    """relu(f(u) + u) with f three convolutions; u is the input, plus the gate's branch where there is one.

    The norm of the gate's branch takes its statistics over all positions, so every position sees the whole image.

    Args:
        gated: whether there is that branch.
    """

    def __init__(self, gated: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(), nn.ReLU(), _conv(), nn.ReLU(), _conv())
        self.pool = _gate() if gated else None

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return F.relu(self.conv(x) + x)


class Bound(nn.Module):
    """3 tanh(z / 3): latents stay in (-3, 3)."""

    def forward(self, z: Tensor) -> Tensor:
        return 3 * torch.tanh(z / 3)


def _conv(inputs: int = WIDTH, outputs: int = WIDTH, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)


def _gate() -> nn.Sequential:
    wide = 4 * WIDTH
    return nn.Sequential(
        *(nn.Conv2d(WIDTH, wide, 1, bias=False), nn.GroupNorm(4, wide)),
        *(nn.ReLU(), nn.Conv2d(wide, WIDTH, 1, bias=False)),
    )


def encoder() -> nn.Sequential:
    """Map images [B, 3, H, W] in [0, 1] to [B, 32, H/8, W/8]; layers are numbered as in the files."""
    return nn.Sequential(
        *(_conv(3), Block()),
        *(_conv(stride=2, bias=False), Block(), Block(), Block()),
        *(_conv(stride=2, bias=False), Block(), Block(), Block()),
        *(_conv(stride=2, bias=False), Block(True), Block(True), Block(True)),
        _conv(outputs=CHANNELS),
    )


def decoder() -> nn.Sequential:
    """Map [B, 32, h, w] to images [B, 3, 8h, 8w], about [0, 1]; layers are numbered as in the files."""

    def doubling() -> tuple[nn.Module, nn.Module]:
        return nn.Upsample(scale_factor=2), _conv(bias=False)

    return nn.Sequential(
        *(Bound(), _conv(CHANNELS), nn.ReLU(), Block(True), Block(True), Block(True), *doubling()),
        *(Block(), Block(), Block(), *doubling()),
        *(Block(), Block(), Block(), *doubling()),
        *(Block(), _conv(outputs=3)),
    )


class TAEF2(Latent):
    """The maps between images and the packed latent: channel 4c + 2dy + dx is channel c at offset (dy, dx).

    Nothing is scaled or shifted: the latent approximates the normalised one of FLUX.2.
    """

    def __init__(self, spec: LatentSpec, device: str) -> None:
        paths = obtain(spec, "autoencoder")
        self._encoder, self._decoder = encoder(), decoder()
        for net, path in zip((self._encoder, self._decoder), paths, strict=True):
            tensors = read_tensors(path, f"latent space '{spec.name}'")
            load_weights(net, tensors, str(path))
            # On a CPU the other layout takes half as long again.
            net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            net.eval().requires_grad_(False)
        self.digest = digest([file_digest(path) for path in paths])

    def encode(self, images: Tensor) -> Tensor:
        return F.pixel_unshuffle(self._encoder(images), 2)

    def decode(self, latents: Tensor) -> Tensor:
        return self._decoder(F.pixel_shuffle(latents, 2)).clamp(0, 1)
