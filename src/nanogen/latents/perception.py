"""Perception Encoder, vision tower: a plain transformer with learned and rotary positions.

Source: Bolya et al. 2025 (arXiv 2504.13181), whose files it reads.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusionbench.errors import CheckpointError
from nanogen.latents.vit import ViTBlock
from nanogen.model.released import restack

# What the files hold beside the blocks: pooling, projection, last norm, and the text tower.
_UNUSED = ("attn_pool.", "proj", "ln_post.", "logit_scale")
_BLOCK = re.compile(r"transformer\.resblocks\.(\d+)\.")


def rotary_table(rows: int, columns: int, head_width: int) -> Tensor:
    """Return cosines and signed sines for `rotate`, float32 [2, 1 + rows * columns, head_width].

    Columns come before rows and are counted from 1; the class token, which is first, has angle 0.
    """
    half = head_width // 2
    frequencies = 10000.0 ** (-2 * torch.arange(half // 2, dtype=torch.float64) / half)
    column = torch.arange(1, columns + 1, dtype=torch.float64)[None, :, None].expand(rows, columns, 1)
    row = torch.arange(1, rows + 1, dtype=torch.float64)[:, None, None].expand(rows, columns, 1)
    angles = torch.cat([column * frequencies, row * frequencies], dim=-1).flatten(0, 1)
    angles = torch.cat([torch.zeros_like(angles[:1]), angles])
    sines = torch.stack([-angles.sin(), angles.sin()], dim=-1).flatten(-2)
    return torch.stack([angles.cos().repeat_interleave(2, dim=-1), sines]).float()


class PerceptionEncoder(nn.Module):
    """Images to tokens, the class token first where there is one.

    Args:
        width, depth, hidden: of the transformer.
        num_heads: of attention.
        patch: side in pixels.
        places: rows of the learned table: one for each position of a square grid, and one for a class token or none.
        scaled: whether blocks scale their branches.
    """

    def __init__(
        self, width: int, depth: int, hidden: int, num_heads: int, patch: int, places: int, scaled: bool
    ) -> None:
        super().__init__()
        self.side, self.patch, self.head_width = math.isqrt(places), patch, width // num_heads
        self.embed = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.cls = nn.Parameter(torch.zeros(width)) if places > self.side**2 else None
        self.positions = nn.Parameter(torch.zeros(places, width))
        self.norm = nn.LayerNorm(width, 1e-5)
        self.blocks = nn.ModuleList(ViTBlock(width, num_heads, hidden, 1e-5, scaled) for _ in range(depth))

    def forward(self, pixels: Tensor) -> Tensor:
        """Map preprocessed images [B, 3, H, W] to the last block's output [B, (1 +) N, width], without a norm."""
        patches = self.embed(pixels)
        rows, columns = patches.shape[2:]
        grid = self.positions[-(self.side**2) :].T.unflatten(1, (self.side, self.side))[None]
        if (rows, columns) != (self.side, self.side):
            grid = F.interpolate(grid, size=(rows, columns), mode="bilinear", align_corners=False)
        x = (patches + grid).flatten(2).transpose(1, 2)
        rotary = rotary_table(rows, columns, self.head_width).to(x.device)
        if self.cls is None:
            rotary = rotary[:, 1:]
        else:
            x = torch.cat([(self.cls + self.positions[0]).expand(len(x), 1, -1), x], dim=1)
        x = self.norm(x)
        for block in self.blocks:
            x = block(x, rotary)
        return x


def released_names(name: str) -> list[str]:
    """Return the tensor of a released file that is our parameter `name`."""
    outer = {"embed.weight": "conv1.weight", "cls": "class_embedding", "positions": "positional_embedding"}
    if not name.startswith("blocks."):
        return [outer.get(name) or name.replace("norm.", "ln_pre.")]
    _, index, part, *kind = name.split(".")
    inner = {
        "norm1": "ln_1.",
        "norm2": "ln_2.",
        "qkv": "attn.in_proj_",
        "proj": "attn.out_proj.",
        "fc1": "mlp.c_fc.",
        "fc2": "mlp.c_proj.",
        "scale1": "ls_1.gamma",
        "scale2": "ls_2.gamma",
    }
    return [f"transformer.resblocks.{index}.{inner[part]}{''.join(kind)}"]


def from_released(released: Mapping[str, Tensor], num_heads: int) -> PerceptionEncoder:
    """Return the vision tower of a released state dict, alone or together with the text tower.

    Args:
        num_heads: of attention, which no tensor tells.

    Raises:
        CheckpointError: if tensors are missing, left over or of another shape; the first are listed, all are counted.
    """
    tower = {name.removeprefix("visual."): tensor for name, tensor in released.items() if name.startswith("visual.")}
    tensors = tower or dict(released)
    depth = len({found[1] for name in tensors if (found := _BLOCK.match(name))})
    try:
        width, _, patch, _ = tensors["conv1.weight"].shape
        places = len(tensors["positional_embedding"])
        hidden = len(tensors["transformer.resblocks.0.mlp.c_fc.bias"])
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"the file holds no vision tower of Perception Encoder: {error}") from None
    if width % (4 * num_heads):
        raise CheckpointError(f"conv1.weight has {width} outputs, expected a multiple of {4 * num_heads}")
    with torch.device("meta"):
        scaled = "transformer.resblocks.0.ls_1.gamma" in tensors
        net = PerceptionEncoder(width, depth, hidden, num_heads, patch, places, scaled)
    parts = {name: released_names(name) for name, _ in net.named_parameters()}
    stacked = restack(tensors, net, parts, _UNUSED)
    net.load_state_dict({name: tensor.float() for name, tensor in stacked.items()}, assign=True)
    return net
