"""`toy-ae` and `toy-vae`: latent spaces of small convolutional autoencoders that ship, for runs of minutes.

They stand in for the large autoencoders where nothing may be downloaded. The decoder of `toy-ae` expects imprecise
latents; `toy-vae` is a KL autoencoder.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from diffusionbench.schema import verify_bundled_weights
from nanogen.latents import Latent, LatentSpec

WIDTH: Final = 96


class Residual(nn.Module):
    """x + conv(silu(conv(silu(x)))) with 3x3 kernels; the identity at initialisation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        for parameter in self.conv2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


def _to_stride_4(width: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(3, width, 4, stride=4), Residual(width), Residual(width), nn.SiLU()


def _decoder(first: Sequence[nn.Module], width: int, half: int, quarter: int) -> nn.Sequential:
    """Return three stages of the given widths, each at twice the resolution of the one before."""
    return nn.Sequential(
        *first,
        *(Residual(width), Residual(width), Residual(width), nn.SiLU()),
        *(nn.Conv2d(width, 4 * half, 1), nn.PixelShuffle(2), Residual(half), Residual(half), nn.SiLU()),
        *(nn.Conv2d(half, 4 * quarter, 1), nn.PixelShuffle(2), Residual(quarter), nn.SiLU()),
        nn.Conv2d(quarter, 3, 3, padding=1),
    )


class Autoencoder(nn.Module):
    """Images in [0, 1] to normalised latents and back.

    The norm has no gain: every channel has mean 0 and deviation 1 over the training images, so noise of a given
    deviation hides equally much of each.

    Args:
        channels: of the latent.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*_to_stride_4(WIDTH), nn.Conv2d(WIDTH, channels, 2, stride=2))
        self.norm = nn.BatchNorm2d(channels, affine=False, momentum=0.02)
        self.decoder = _decoder((nn.Conv2d(channels, 4 * WIDTH, 1), nn.PixelShuffle(2)), WIDTH, 48, 16)

    def encode(self, images: Tensor) -> Tensor:
        """Map float32 [B, 3, H, W] to float32 [B, channels, H/8, W/8]."""
        return self.norm(self.encoder(2 * images - 1))

    def decode(self, latents: Tensor) -> Tensor:
        """Map float32 [B, channels, h, w] to float32 [B, 3, 8h, 8w], about [0, 1]."""
        return (self.decoder(latents) + 1) / 2


class KLAutoencoder(nn.Module):
    """Images in [0, 1] to mean and logarithm of the variance of latents of stride 4, and back.

    Args:
        channels: of the latent.
        width: of the hidden layers at stride 4; half of it at stride 2, a quarter at full size.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(*_to_stride_4(width), nn.Conv2d(width, 2 * channels, 1))
        self.decoder = _decoder((nn.Conv2d(channels, width, 1),), width, width // 2, width // 4)

    def moments(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map float32 [B, 3, H, W] to mean and log variance, float32 [B, channels, H/4, W/4] each."""
        mean, logvar = self.encoder(2 * images - 1).chunk(2, dim=1)
        return mean, logvar.clamp(-30, 20)

    def decode(self, latents: Tensor) -> Tensor:
        """Map float32 [B, channels, h, w] to float32 [B, 3, 4h, 4w], about [0, 1]."""
        return (self.decoder(latents) + 1) / 2


def card(name: str = "toy-ae") -> dict[str, Any]:
    """Recipe, reconstruction figures and weight hash, as the training script wrote them."""
    return json.loads(_file(name, "json").read_text())


def _file(name: str, kind: str) -> Path:
    return Path(__file__).with_name(f"{name.replace('-', '_')}.{kind}")


def bundled(name: str) -> tuple[dict[str, Tensor], str]:
    """Return the weights float32 of a latent space that ships, and their hash.

    Raises:
        RequestError: if they are missing or are not the ones the card names.
    """
    weights, digest = _file(name, "safetensors"), card(name)["sha256"]
    verify_bundled_weights(f"latent space '{name}'", weights, digest)
    return {key: tensor.float() for key, tensor in load_file(weights).items()}, digest


class ToyAE(Latent):
    """The maps between 32 px images and their 4x4 latents."""

    def __init__(self, spec: LatentSpec, device: str) -> None:
        weights, self.digest = bundled(spec.name)
        self._net = Autoencoder(spec.channels)
        self._net.load_state_dict(weights)
        self._net.to(device).eval().requires_grad_(False)

    def encode(self, images: Tensor) -> Tensor:
        return self._net.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        return self._net.decode(latents)


class ToyVAE(Latent):
    """The maps between images and the mode of the posterior, normalised per channel; `width` is an option of a row."""

    def __init__(self, spec: LatentSpec, device: str) -> None:
        weights, self.digest = bundled(spec.name)
        self._mean, self._std = (weights.pop(name).to(device) for name in ("mean", "std"))  # [C, 1, 1]
        self._net = KLAutoencoder(spec.channels, spec.options["width"])
        self._net.load_state_dict(weights)
        self._net.to(device).eval().requires_grad_(False)

    def encode(self, images: Tensor) -> Tensor:
        return (self._net.moments(images)[0] - self._mean) / self._std

    def decode(self, latents: Tensor) -> Tensor:
        return self._net.decode(latents * self._std + self._mean)
