"""Representation autoencoders: patch tokens of a frozen encoder as the latent, and a trained decoder.

images -> encoder -> patch tokens -> [B, C, h, w] -> (z - mean) / sqrt(var + 1e-5), one mean and variance per channel
and position; back without a clamp.

Source: Zheng et al. 2025 (arXiv 2510.11690).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from diffusionbench.errors import CheckpointError
from diffusionbench.schema import digest
from nanogen.latents import Latent, LatentSpec
from nanogen.latents.encoders import Encoder
from nanogen.latents.vit import ViTDecoder, from_released
from nanogen.latents.weights import obtain, read_tensors, tensors_digest

EPS: Final = 1e-5


class RAE(Latent):
    """One representation autoencoder.

    Options of a row: those of `Encoder`, and `decoder_heads`, heads of the decoder's attention.
    """

    def __init__(self, spec: LatentSpec, device: str) -> None:
        owner = f"latent space '{spec.name}'"
        self._encoder = Encoder(spec, device)
        self._decoder = read_decoder(obtain(spec, "decoder")[0], spec, owner).to(device)
        statistics = read_statistics(obtain(spec, "statistics")[0], spec, owner)
        self._mean = statistics["mean"].to(device)
        self._std = (statistics["var"] + EPS).sqrt().to(device)
        self.digest = digest(
            [self._encoder.digest, tensors_digest(self._decoder.state_dict()), tensors_digest(statistics)]
        )

    @classmethod
    def before_statistics(cls, spec: LatentSpec, device: str) -> Callable[[Tensor], Tensor]:
        encoder, (_, *grid) = Encoder(spec, device), spec.shape(spec.image_size or 0)
        return lambda images: encoder(images).transpose(1, 2).unflatten(2, grid)

    def encode(self, images: Tensor) -> Tensor:
        z = self._encoder(images).transpose(1, 2).unflatten(2, self._mean.shape[1:])
        return (z - self._mean) / self._std

    def decode(self, latents: Tensor) -> Tensor:
        return self._decoder(latents * self._std + self._mean)


def read_decoder(path: Path, spec: LatentSpec, owner: str) -> ViTDecoder:
    """Return the frozen decoder of a file in the released layout, on the CPU.

    Raises:
        CheckpointError: if the file is damaged or holds another decoder; differing names are listed.
    """
    try:
        net = from_released(read_tensors(path, owner), spec.channels, spec.options["decoder_heads"], spec.stride)
    except CheckpointError as error:
        if str(error).startswith(owner):
            raise
        raise CheckpointError(f"{owner}: {path}: {error}. Get the decoder of this latent space.") from None
    if net.side * net.patch != spec.image_size:
        raise CheckpointError(
            f"{owner}: the decoder {path} makes images of {net.side * net.patch} pixels, expected {spec.image_size}. "
            "Get the decoder of this latent space."
        )
    return net.eval().requires_grad_(False)


def read_statistics(path: Path, spec: LatentSpec, owner: str) -> dict[str, Tensor]:
    """Return "mean" and "var" of the latent, float32 [C, h, w] each, on the CPU; CheckpointError if they are none."""
    content = read_tensors(path, owner)
    shape = spec.shape(spec.image_size or 0)
    for name in ("mean", "var"):
        found = content.get(name)
        if not isinstance(found, Tensor) or tuple(found.shape) != shape:
            described = list(found.shape) if isinstance(found, Tensor) else "nothing of that name"
            raise CheckpointError(
                f"{owner}: statistics {path}: '{name}' is {described}, expected {list(shape)}. Get those of this "
                "latent space."
            )
    statistics = {name: content[name].float() for name in ("mean", "var")}
    if not torch.stack(list(statistics.values())).isfinite().all() or (statistics["var"] <= 0).any():
        raise CheckpointError(
            f"{owner}: statistics {path} hold a variance of 0 or a value that is not finite. Compute or get them again."
        )
    return statistics
