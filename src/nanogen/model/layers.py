"""Layers of the backbone: norm, rotary attention, gated feed-forward, and the two kinds of block.

Letters of shapes: B batch, S sequence, N image tokens, H heads, D head width, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogen.model.shape import swiglu_width


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + 1e-6) over the last axis, times a learned gain.

    Source: Zhang and Sennrich 2019 (arXiv 1910.07467).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        # The gain takes the input's type: a float32 gain would raise every normed bfloat16 tensor to float32.
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), 1e-6)


def rotary_angles(rows: int, columns: int, head_width: int) -> Tensor:
    """Return the angles of two-dimensional rotary embedding, rows first.

    Returns:
        float32 [rows * columns, head_width / 2]; angle a turns components 2a and 2a + 1.

    Source: Su et al. 2021 (arXiv 2104.09864), one half of the angles per axis.
    """
    half = head_width // 2
    frequencies = 10000.0 ** (-2 * torch.arange(half // 2, dtype=torch.float64) / half)
    row = torch.arange(rows, dtype=torch.float64)[:, None, None].expand(rows, columns, 1)
    column = torch.arange(columns, dtype=torch.float64)[None, :, None].expand(rows, columns, 1)
    return torch.cat([row * frequencies, column * frequencies], dim=-1).flatten(0, 1).float()


def rotary_table(rows: int, columns: int, head_width: int) -> Tensor:
    """Return cosines and signed sines for `rotate`, float32 [2, N, head_width]."""
    angles = rotary_angles(rows, columns, head_width)
    cos = angles.cos().repeat_interleave(2, dim=-1)
    sin = torch.stack([-angles.sin(), angles.sin()], dim=-1).flatten(-2)
    return torch.stack([cos, sin])


def pad_table(table: Tensor, num_unrotated: int) -> Tensor:
    """Append tokens with angle 0, which `rotate` leaves alone: [2, N, D] -> [2, N + num_unrotated, D]."""
    still = torch.stack([torch.ones_like(table[0, :1]), torch.zeros_like(table[0, :1])])
    return torch.cat([table, still.expand(-1, num_unrotated, -1)], dim=1)


def rotate(x_BHSD: Tensor, table: Tensor) -> Tensor:
    """Turn adjacent pairs (u, w) to (u cos - w sin, w cos + u sin) in float32; the dtype stays that of x."""
    swapped = x_BHSD.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return (x_BHSD * table[0] + swapped * table[1]).to(x_BHSD.dtype)


def attend(q_BHSD: Tensor, k_BHSD: Tensor, v_BHSD: Tensor, mask: Tensor | None) -> Tensor:
    """Return scaled dot-product attention [B, H, S, D]; `mask` bool [B, S] hides keys where it is False."""
    keys = None if mask is None else mask[:, None, None, :]
    if q_BHSD.device.type == "cpu" and q_BHSD.dtype == torch.bfloat16:
        # The fused CPU kernel runs bfloat16 at float32 speed; plain products are 2 to 3 times as fast.
        scores = (q_BHSD * q_BHSD.shape[-1] ** -0.5) @ k_BHSD.transpose(-2, -1)
        if keys is not None:
            scores = scores.masked_fill(~keys, float("-inf"))
        return scores.softmax(-1, dtype=torch.float32).to(v_BHSD.dtype) @ v_BHSD
    return F.scaled_dot_product_attention(q_BHSD, k_BHSD, v_BHSD, attn_mask=keys)


class Attention(nn.Module):
    """Multi-head self-attention with norm and rotation of queries and keys."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.q_norm = RMSNorm(width // num_heads)
        self.k_norm = RMSNorm(width // num_heads)

    def forward(self, x: Tensor, rotary: Tensor, mask: Tensor | None = None, num_queries: int | None = None) -> Tensor:
        """Map x [B, S, W] to [B, num_queries, W]: its first tokens (None: all) attend to all of x."""
        if num_queries is None:
            q, k, v = self._heads(self.qkv(x), 3)
        else:
            sizes = [x.shape[-1], 2 * x.shape[-1]]
            (q_weight, kv_weight), (q_bias, kv_bias) = self.qkv.weight.split(sizes), self.qkv.bias.split(sizes)
            (q,) = self._heads(F.linear(x[:, :num_queries], q_weight, q_bias), 1)
            k, v = self._heads(F.linear(x, kv_weight, kv_bias), 2)
        q, k = rotate(self.q_norm(q), rotary[:, :num_queries]), rotate(self.k_norm(k), rotary)
        return self.proj(attend(q, k, v, mask).transpose(1, 2).flatten(2))

    def _heads(self, x: Tensor, parts: int) -> Tensor:
        """Map [B, S, parts W] to [parts, B, H, S, D]."""
        return x.unflatten(-1, (parts, self.num_heads, -1)).permute(2, 0, 3, 1, 4)


class SwiGLU(nn.Module):
    """W3(silu(W1 x) * W2 x), with W1 and W2 as one product.

    Source: Shazeer 2020 (arXiv 2002.05202).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = swiglu_width(width)
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * up)


class EncoderBlock(nn.Module):
    """Pre-norm transformer block without modulation."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = RMSNorm(width)
        self.attn = Attention(width, num_heads)
        self.norm2 = RMSNorm(width)
        self.mlp = SwiGLU(width)

    def forward(self, x: Tensor, rotary: Tensor, mask: Tensor | None, num_kept: int | None = None) -> Tensor:
        """Map x [B, S, W] to [B, S, W], or its first `num_kept` tokens alone, where the others are read no more."""
        x = x[:, :num_kept] + self.attn(self.norm1(x), rotary, mask, num_kept)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    """adaLN-zero block: shift, scale and gate of both branches come from one condition vector per token.

    Source: Peebles and Xie 2022 (arXiv 2212.09748), per token as in DDT (arXiv 2504.05741).
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm1 = RMSNorm(width)
        self.attn = Attention(width, num_heads)
        self.norm2 = RMSNorm(width)
        self.mlp = SwiGLU(width)
        self.adaln = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.adaln.weight)
        nn.init.zeros_(self.adaln.bias)

    def forward(self, x: Tensor, c: Tensor, rotary: Tensor) -> Tensor:
        """Map x [B, S, W] under silu(condition) c [B, S, W]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaln(c).chunk(6, dim=-1)
        x = x + gate1 * self.attn(modulate(self.norm1(x), shift1, scale1), rotary)
        return x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FinalLayer(nn.Module):
    """Norm, modulated or not, and the map to patches, with another for the last token of a vector; 0 at first."""

    def __init__(self, width: int, token_width: int, modulated: bool = True, vector_width: int | None = None) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.adaln = nn.Linear(width, 2 * width) if modulated else None
        self.linear = nn.Linear(width, token_width)
        self.vector = nn.Linear(width, vector_width) if vector_width else None
        for layer in (self.adaln, self.linear, self.vector):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map x [B, N, W] under silu(condition) c [B, N, W] to patches [B, N, token_width] and None.

        With a vector x has N + 1 tokens, and its output [B, vector_width] is in place of None.
        """
        x = self.norm(x)
        if self.adaln is not None:
            x = modulate(x, *self.adaln(c).chunk(2, dim=-1))
        if self.vector is None:
            return self.linear(x), None
        return self.linear(x[:, :-1]), self.vector(x[:, -1])


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale) + shift


def unpatchify(tokens: Tensor, latent_shape: tuple[int, int, int], patch_size: int) -> Tensor:
    """Map tokens [B, N, P P C], channel fastest, to [B, C, H, W]."""
    channels, height, width = latent_shape
    rows, columns = height // patch_size, width // patch_size
    patches = tokens.view(-1, rows, columns, patch_size, patch_size, channels)
    return patches.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, height, width)
