"""The discriminator of the first stage: small heads on a frozen DINO ViT-S/8, and the augmentation before it.

Sources: Caron et al. 2021 (arXiv 2104.14294); Sauer et al. 2023 (arXiv 2301.09515) for heads on frozen features;
Zhao et al. 2020 (arXiv 2006.10738) for the augmentation; Zheng et al. 2025 (arXiv 2510.11690) for the whole.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from diffusionbench.errors import CheckpointError
from diffusionbench.writing import cache_folder
from nanogen.latents.vit import ViTBlock
from nanogen.latents.weights import read_tensors
from nanogen.model.released import restack
from nanogen.rng import PositionalNoise

FILE: Final = "dino_vit_small_patch8_224.pth"
_ORIGIN: Final = (
    "https://huggingface.co/nyu-visionx/RAE-collections, folder discs (87 MB, licence Apache-2.0, a conversion of DINO "
    "ViT-S/8 of facebookresearch/dino)"
)
_SIZE, _EPS, _KERNEL = 224, 1e-6, 9
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FrozenViT(nn.Module):
    """Images [B, 3, 224, 224] to the patch tokens [B, N, width] after chosen blocks; keys have no bias.

    Args:
        width, depth, num_heads, patch: of the transformer.
        taps: indices of the blocks, from 0; the output of the last block comes once more, and first.
    """

    def __init__(self, width: int, depth: int, num_heads: int, patch: int, taps: Sequence[int]) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + (_SIZE // patch) ** 2, width))
        self.embed = nn.Conv2d(3, width, patch, stride=patch)
        self.blocks = nn.ModuleList(ViTBlock(width, num_heads, 4 * width, _EPS, gelu="tanh") for _ in range(depth))
        # In the file, and never used.
        self.norm = nn.LayerNorm(width, _EPS)
        self.taps = tuple(taps)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.embed(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1) + self.positions
        tapped = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.taps:
                tapped.append(x[:, 1:])
        return [x[:, 1:], *tapped]

    @torch.no_grad()
    def without_key_bias(self) -> FrozenViT:
        """Set the key biases to 0, as the discriminator has them."""
        for block in self.blocks:
            block.qkv.bias.view(3, -1)[1].zero_()  # type: ignore[union-attr,operator]
        return self


class PositionNorm(nn.Module):
    """Normalise [B, C, N] over the positions of each image and channel, in float32."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x.float(), weight=self.weight, bias=self.bias, eps=_EPS)


class CriticHead(nn.Module):
    """Tokens [B, C, N] to logits [B, N]: a 1x1 and a residual circular convolution, each with norm and leaky ReLU."""

    def __init__(self, width: int, spectral: bool) -> None:
        super().__init__()
        divided: Any = partial(spectral_norm, eps=1e-12) if spectral else nn.Identity()
        self.first = divided(nn.Conv1d(width, width, 1))
        self.norm1 = PositionNorm(width)
        self.wide = divided(nn.Conv1d(width, width, _KERNEL, padding=_KERNEL // 2, padding_mode="circular"))
        self.norm2 = PositionNorm(width)
        self.out = divided(nn.Conv1d(width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm1(self.first(x)), 0.2)
        x = (F.leaky_relu(self.norm2(self.wide(x)), 0.2) + x) / 2**0.5
        return self.out(x)[:, 0]


class Discriminator(nn.Module):
    """Images in [-1, 1] to one logit for each token and tap; above 0 is real.

    Args:
        trunk: the frozen network.
        spectral: whether the convolutions of the heads are divided by their largest singular value.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, trunk: FrozenViT, spectral: bool = True) -> None:
        super().__init__()
        self.trunk = trunk
        width = trunk.positions.shape[2]
        self.heads = nn.ModuleList(CriticHead(width, spectral) for _ in range(1 + len(trunk.taps)))
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Map float32 [B, 3, H, W] to logits [B, heads x tokens]."""
        x = F.interpolate(images, size=(_SIZE, _SIZE), mode="bilinear", align_corners=False)
        tapped = self.trunk(((x + 1) / 2 - self.mean) / self.std)
        return torch.cat([head(x.transpose(1, 2)) for head, x in zip(self.heads, tapped, strict=True)], dim=1)


def missing_trunk() -> str | None:
    """Return what is missing of DINO ViT-S/8 and how to get it; None where it is there."""
    if (cache_folder() / FILE).is_file():
        return None
    return f"the discriminator needs {FILE} in {cache_folder()}. Get it from {_ORIGIN}."


def open_trunk() -> FrozenViT:
    """Return DINO ViT-S/8 from its file in the cache folder; sizes follow from the tensors.

    Raises:
        CheckpointError: if the file is missing, damaged or holds another network.
    """
    if missing := missing_trunk():
        raise CheckpointError(missing[0].upper() + missing[1:])
    path = cache_folder() / FILE
    tensors: Mapping[str, Tensor] = read_tensors(path, "discriminator")
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    embed = tensors.get("patch_embed.proj.weight")
    if embed is None or not depth or embed.ndim != 4:
        raise CheckpointError(f"discriminator: {path} holds no vision transformer. Get it from {_ORIGIN}.")
    width, taps = len(embed), range(depth // 4 - 1, depth, max(1, depth // 4))
    with torch.device("meta"):
        net = FrozenViT(width, depth, max(1, width // 64), embed.shape[-1], taps)
    outer = {"cls": "cls_token", "positions": "pos_embed"}
    parts = {
        name: [outer.get(name) or re.sub(r"\.(proj|qkv)\.", r".attn.\1.", re.sub(r"\.(fc.)\.", r".mlp.\1.", name))]
        for name, _ in net.named_parameters()
    }
    parts |= {name: [name.replace("embed", "patch_embed.proj")] for name in parts if name.startswith("embed.")}
    try:
        state = restack(tensors, net, parts, ("head.",))
    except CheckpointError as error:
        raise CheckpointError(f"discriminator: {path}: {error}. Get it from {_ORIGIN}.") from None
    net.load_state_dict({name: tensor.float() for name, tensor in state.items()}, assign=True)
    return net.requires_grad_(False).without_key_bias()


def augmented(images: Tensor, noise: PositionalNoise, purpose: str) -> Tensor:
    """Return images [B, 3, H, W] in [-1, 1], each moved by up to an eighth and its colours changed.

    Args:
        noise: of these images in this step.
        purpose: images of other purposes are changed otherwise.
    """
    # The first and the fourth number would say whether a batch is changed at all, which is always so.
    _, down, right, _, *colours = noise.uniform(f"augment/{purpose}", (7,)).unbind(1)  # [B] each
    brightness, saturation, contrast = (drawn[:, None, None, None] for drawn in colours)
    height, width = images.shape[2:]
    rows = torch.arange(height, device=images.device) - _offset(down, height)[:, None]  # [B, H]
    columns = torch.arange(width, device=images.device) - _offset(right, width)[:, None]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None]
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[
        batch, rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None]
    ]
    images = (moved * inside[..., None]).permute(0, 3, 1, 2).float() + brightness - 0.5
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (2 * saturation)
    middle = images.mean((1, 2, 3), keepdim=True)
    return middle + (images - middle) * (0.5 + contrast)


def _offset(drawn: Tensor, side: int) -> Tensor:
    """Map numbers of [0, 1) to whole ones from -side / 8 to side / 8."""
    most = round(0.125 * side)
    return (drawn * (2 * most + 1)).floor().long() - most


def quantised(images: Tensor) -> Tensor:
    """Return images in [-1, 1] as 8 bits keep them."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """Return the discriminator's loss [B] of logits [B, N] of real and made images."""
    return (F.relu(1 - real).mean(1) + F.relu(1 + fake).mean(1)) / 2


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, weight: Tensor) -> Tensor:
    """Return the ratio of the gradients' norms at a weight, at most 1e4 and without a gradient of its own."""
    wanted, other = (
        torch.autograd.grad(loss, weight, retain_graph=True)[0].float().norm() for loss in (reconstruction, adversarial)
    )
    return (wanted / (other + 1e-6)).clamp(0, 1e4).detach()
