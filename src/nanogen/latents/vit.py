"""Plain vision transformers: the block, and the decoder of a representation autoencoder.

Letters of shapes: B batch, N tokens, C channels of the latent, W width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusionbench.errors import CheckpointError
from nanogen.model.layers import attend, rotate
from nanogen.model.released import restack


class ViTBlock(nn.Module):
    """Pre-norm block: attention with biases, GELU, and a learned scale of both branches where asked for.

    Args:
        width: of a token.
        num_heads: of attention.
        hidden: width of the feed-forward.
        eps: of both norms.
        scaled: whether the branches have that scale.
        gelu: "none" for the exact one, or "tanh".

    Source: Dosovitskiy et al. 2020 (arXiv 2010.11929); the scale: Touvron et al. 2021 (arXiv 2103.17239).
    """

    def __init__(
        self, width: int, num_heads: int, hidden: int, eps: float, scaled: bool = False, gelu: str = "none"
    ) -> None:
        super().__init__()
        self.num_heads, self.gelu = num_heads, gelu
        self.norm1 = nn.LayerNorm(width, eps)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width, eps)
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.scale1 = nn.Parameter(torch.full((width,), 0.1)) if scaled else None
        self.scale2 = nn.Parameter(torch.full((width,), 0.1)) if scaled else None

    def forward(self, x: Tensor, rotary: Tensor | None = None) -> Tensor:
        """Map x [B, N, W] to [B, N, W]; `rotary` [2, N, head width] turns queries and keys."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        mixed = self.proj(attend(q, k, v, None).transpose(1, 2).flatten(2))
        x = x + (mixed if self.scale1 is None else self.scale1 * mixed)
        fed = self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate=self.gelu))
        return x + (fed if self.scale2 is None else self.scale2 * fed)


def sine_cosine(side: int, width: int) -> Tensor:
    """Return fixed positions of a square grid, float32 [side^2, width]: first half the column, second half the row.

    Each half has width / 4 sines, then as many cosines, of place * 10000^(-j / (width / 4)).
    """
    frequencies = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(side, dtype=torch.float64)[:, None] * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    column = line[None].expand(side, side, -1)
    return torch.cat([column, column.transpose(0, 1)], dim=-1).flatten(0, 1).float()


class ViTDecoder(nn.Module):
    """Tokens of a latent to an image in about [0, 1].

    Args:
        channels: C of the latent.
        width, depth, num_heads, hidden: of the transformer.
        patch: side in pixels of what a token becomes.
        side: tokens a side.

    Source: Zheng et al. 2025 (arXiv 2510.11690).
    """

    def __init__(
        self, channels: int, width: int, depth: int, num_heads: int, hidden: int, patch: int = 16, side: int = 16
    ) -> None:
        super().__init__()
        self.patch, self.side = patch, side
        self.embed = nn.Linear(channels, width)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.cat([torch.zeros(1, width), sine_cosine(side, width)])[None])
        self.blocks = nn.ModuleList(ViTBlock(width, num_heads, hidden, 1e-12) for _ in range(depth))
        self.norm = nn.LayerNorm(width, 1e-12)
        self.head = nn.Linear(width, 3 * patch**2)

    def tokens(self, latents: Tensor) -> Tensor:
        """Map latents [B, C, h, w] to tokens [B, side^2, 3 patch^2], each (row in patch, column, colour)."""
        x = self.embed(latents.flatten(2).transpose(1, 2))
        if latents.shape[2:] != (self.side, self.side):
            grid = x.transpose(1, 2).unflatten(2, latents.shape[2:])
            grid = F.interpolate(grid, size=(self.side, self.side), mode="bilinear", align_corners=False)
            x = grid.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))[:, 1:]

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents [B, C, h, w] to images [B, 3, side patch, side patch], not clamped."""
        tokens = self.tokens(latents).unflatten(2, (self.patch, self.patch, 3)).unflatten(1, (self.side, self.side))
        return tokens.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


# Our names -> those of a released decoder; within a block, below `decoder_layers.i.`.
_OUTER = {
    "cls": "trainable_cls_token",
    "positions": "decoder_pos_embed",
    "embed": "decoder_embed",
    "norm": "decoder_norm",
    "head": "decoder_pred",
}
_INNER: dict[str, Sequence[str]] = {
    "qkv": [f"attention.attention.{part}" for part in ("query", "key", "value")],
    "proj": ["attention.output.dense"],
    "fc1": ["intermediate.dense"],
    "fc2": ["output.dense"],
    "norm1": ["layernorm_before"],
    "norm2": ["layernorm_after"],
}


def released_names(name: str) -> list[str]:
    """Return the tensors of a released decoder that, stacked along the first axis, are our parameter `name`."""
    if name.startswith("blocks."):
        _, index, part, kind = name.split(".")
        return [f"decoder_layers.{index}.{source}.{kind}" for source in _INNER[part]]
    part, dot, kind = name.partition(".")
    return [f"{_OUTER[part]}{dot}{kind}"]


def to_released(net: ViTDecoder) -> dict[str, Tensor]:
    """Return the tensors of a decoder in the released layout, which `from_released` reads."""
    parts = {name: released_names(name) for name, _ in net.named_parameters()}
    return {
        part: piece.contiguous()
        for name, tensor in net.state_dict().items()
        for part, piece in zip(parts[name], tensor.chunk(len(parts[name])), strict=True)
    }


def from_released(released: Mapping[str, Tensor], channels: int, num_heads: int, patch: int = 16) -> ViTDecoder:
    """Return the decoder of a released state dict; its width, depth and number of tokens follow from the tensors.

    Args:
        channels: of the latent.
        num_heads: of attention, which no tensor tells.
        patch: side in pixels of what a token becomes.

    Raises:
        CheckpointError: if tensors are missing, left over or of another shape; the first are listed, all are counted.
    """
    depth = len({found[1] for name in released if (found := _BLOCK.match(name))})
    positions, hidden = (
        released.get(name) for name in ("decoder_pos_embed", "decoder_layers.0.intermediate.dense.bias")
    )
    _, places, width = positions.shape if positions is not None and positions.ndim == 3 else (1, 257, 1152)
    if width % 4 or width % num_heads:
        raise CheckpointError(f"decoder_pos_embed is {width} wide, expected a multiple of 4 and of {num_heads} heads")
    with torch.device("meta"):
        net = ViTDecoder(
            *(channels, width, depth, num_heads, 4096 if hidden is None else len(hidden)),
            patch=patch,
            side=max(1, round((places - 1) ** 0.5)),
        )
    tensors = restack(released, net, {name: released_names(name) for name, _ in net.named_parameters()})
    net.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, assign=True)
    return net


_BLOCK = re.compile(r"decoder_layers\.(\d+)\.")
