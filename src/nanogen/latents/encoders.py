"""Frozen vision encoders whose patch tokens are a latent: classes of transformers, and our own Perception Encoder.

Nothing is executed from a hub or a repository: the classes are those of the library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusionbench.errors import CheckpointError
from diffusionbench.judges.hub import RENAMED
from diffusionbench.registry import require
from nanogen.latents import LatentSpec
from nanogen.latents.perception import from_released
from nanogen.latents.weights import check_whole, obtain, open_pretrained, read_tensors, tensors_digest

Combination = Literal["mean", "sum", "mean and token"]


@dataclass(frozen=True)
class Preprocessing:
    """What an encoder is shown: (image - mean) / std per colour, then a resize where the size is another.

    Attributes:
        size: pixels a side.
        mode: of interpolation, "bilinear" or "bicubic".
        antialias: of it, where it shrinks.
        mean, std: per colour, for images in [0, 1].
    """

    size: int
    mode: str
    antialias: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: Tensor) -> Tensor:
        """Map images [B, 3, H, W] in [0, 1] to [B, 3, size, size]."""
        mean, std = (images.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        x = (images - mean) / std
        if x.shape[-2:] == (self.size, self.size):
            return x
        return F.interpolate(
            x, size=(self.size, self.size), mode=self.mode, antialias=self.antialias, align_corners=False
        )


@dataclass(frozen=True)
class Tower:
    """A network with what its patch tokens are read from.

    Attributes:
        net: takes preprocessed images.
        width: of a token.
        patch: side in pixels of what a token sees.
        num_skipped: tokens before those of the patches.
        norm: what tokens go through after a block.
        blocks: in order.
    """

    net: nn.Module
    width: int
    patch: int
    num_skipped: int
    norm: nn.Module
    blocks: Sequence[nn.Module]


# Class of transformers -> where its last norm and its blocks are, and whether a class token comes first.
_PLACES: Final = {
    "ConvNextV2Model": ("layernorm", "encoder.stages", False),
    "Dinov2Model": ("layernorm", "encoder.layer", True),
    "Dinov2WithRegistersModel": ("layernorm", "encoder.layer", True),
    "DINOv3ViTModel": ("norm", "model.layer", True),
    "SiglipVisionModel": ("post_layernorm", "encoder.layers", False),
    "Tipsv2VisionModel": ("layernorm", "encoder.layer", True),
    "ViTMAEModel": ("layernorm", "layers", True),
}


class Unmasked(nn.Module):
    """A masked autoencoder's encoder that sees every patch, in order and at any size."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: Any = model
        model.config.mask_ratio = 0.0

    def forward(self, pixels: Tensor) -> Tensor:
        """Map preprocessed images [B, 3, H, W] to the last block's tokens, normed, [B, 1 + N, C]."""
        num_patches = pixels[0, 0].numel() // self.model.config.patch_size**2
        # Patches are shuffled by the order of this noise.
        in_order = torch.arange(num_patches, device=pixels.device).float().expand(len(pixels), -1)
        return self.model(pixels, noise=in_order, interpolate_pos_encoding=True).last_hidden_state


def open_tower(spec: LatentSpec) -> Tower:
    """Return the encoder of a row, on the CPU; raises as `Encoder`."""
    kind, owner = spec.options["encoder"], f"latent space '{spec.name}'"
    path = obtain(spec, "encoder")[0]
    if kind not in _PLACES:
        tensors = read_tensors(path, owner)
        try:
            vision = from_released(tensors.get("state_dict", tensors), spec.options["heads"])
        except CheckpointError as error:
            raise CheckpointError(f"{owner}: {path}: {error}") from None
        width, patch = vision.embed.out_channels, vision.patch
        return Tower(vision, width, patch, int(vision.cls is not None), nn.Identity(), list(vision.blocks))
    norm, blocks, has_class = _PLACES[kind]
    model = open_model(path.parent, kind, owner)
    sizes: Any = model.config
    is_conv = kind == "ConvNextV2Model"
    width = sizes.hidden_sizes[-1] if is_conv else sizes.hidden_size
    return Tower(
        net=Unmasked(model) if kind == "ViTMAEModel" else model,
        width=width,
        # Each stage but the first halves the grid.
        patch=sizes.patch_size * 2 ** (len(sizes.hidden_sizes) - 1) if is_conv else sizes.patch_size,
        num_skipped=has_class + getattr(sizes, "num_register_tokens", 0),
        norm=getattr(model, norm)
        if spec.options.get("affine")
        else nn.LayerNorm(width, 1e-5, elementwise_affine=False),
        blocks=list(model.get_submodule(blocks)),
    )


class Encoder:
    """A frozen encoder: images [B, 3, H, W] in [0, 1] to patch tokens [B, N, C].

    Options of a row: `encoder`, a class of transformers or "PerceptionEncoder"; `preprocessing`; `affine`: the last
    norm keeps its gain and bias, else one without them and with an epsilon of 1e-5 takes its place; `blocks` and
    `combine`: features of these blocks, counted from 0, instead of the last one's.

    Attributes:
        digest: SHA-256 of its weights.

    Raises:
        RequestError: if its files are missing.
        CheckpointError: if they are damaged or give other tokens than the row states.
    """

    def __init__(self, spec: LatentSpec, device: str) -> None:
        tower = open_tower(spec)
        self._preprocess = Preprocessing(**spec.options["preprocessing"])
        self._combine: Combination = spec.options.get("combine", "mean")
        chosen = spec.options.get("blocks", (len(tower.blocks) - 1,))
        side = self._preprocess.size // tower.patch
        if (tower.width, side, side) != spec.shape(spec.image_size or 0):
            raise CheckpointError(
                f"latent space '{spec.name}': its encoder gives {side}x{side} tokens of {tower.width}, expected a "
                f"latent of {list(spec.shape(spec.image_size or 0))}. Get the right files."
            )
        if max(chosen) >= len(tower.blocks):
            raise CheckpointError(
                f"latent space '{spec.name}' reads block {max(chosen)}, and its encoder has {len(tower.blocks)} "
                "blocks. Get the right files."
            )
        self._layers = [tower.blocks[index] for index in chosen]
        tower.net.to(device).eval().requires_grad_(False)
        tower.norm.to(device)
        self._tower = tower
        self.digest = tensors_digest(tower.net.state_dict())

    def __call__(self, images: Tensor) -> Tensor:
        skipped, norm = self._tower.num_skipped, self._tower.norm
        return combined([norm(tokens[:, skipped:]) for tokens in self._tokens(images)], self._combine)

    @property
    def has_class_token(self) -> bool:
        return self._tower.num_skipped > 0

    @torch.no_grad()
    def class_token(self, images: Tensor) -> Tensor:
        """Return the class token after the last block and a norm without affine, float32 [B, C], for images as above.

        Raises:
            CheckpointError: if the encoder has none.
        """
        if not self.has_class_token:
            raise CheckpointError(f"{type(self._tower.net).__name__} has no class token. Choose another encoder.")
        with torch.autocast(images.device.type, enabled=False):
            token = self._tokens(images)[-1][:, 0]
            return F.layer_norm(token, token.shape[1:])

    def _tokens(self, images: Tensor) -> list[Tensor]:
        """Return all tokens after each of the chosen blocks, before the norm."""
        kept: list[Tensor] = []

        def keep(module: nn.Module, given: Any, output: Any) -> None:
            tokens = output[0] if isinstance(output, tuple) else output
            kept.append(tokens.flatten(2).mT if tokens.ndim == 4 else tokens)

        hooks = [layer.register_forward_hook(keep) for layer in self._layers]
        try:
            self._tower.net(self._preprocess(images))
        finally:
            for hook in hooks:
                hook.remove()
        return kept


def combined(layers: Sequence[Tensor], how: Combination) -> Tensor:
    """Combine patch tokens [B, N, C] of several blocks into [B, N, C].

    Args:
        how: their mean; their sum; or their mean plus the mean over the tokens of the last one.
    """
    total = torch.stack(list(layers)).sum(0)
    if how == "sum":
        return total
    mean = total / len(layers)
    return mean if how == "mean" else mean + layers[-1].mean(1, keepdim=True)


def open_model(folder: Path, name: str, owner: str) -> Any:
    """Return a vision model of transformers from a folder, float32, on the CPU.

    Raises:
        CheckpointError: if the files are damaged or lack tensors; the missing ones are listed.
    """
    transformers = require("transformers", "encoders", owner[0].upper() + owner[1:])
    # A pickled file is read by the restricted loader.
    safely = {"use_safetensors": None, "weights_only": True, "ignore_mismatched_sizes": True}
    options = {"dtype": torch.float32, "key_mapping": RENAMED.get(name), **safely}
    model, loaded = open_pretrained(transformers, name, folder, owner, **options)
    # A file may hold a text tower too.
    check_whole(loaded, folder, owner)
    return model
