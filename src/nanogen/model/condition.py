"""Conditions as tensors, and the tokens made of them.

A condition knows its own null, so neither loop nor sampler asks which kind it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from nanogen.model.layers import RMSNorm


class Condition(Protocol):
    """The condition of B images."""

    def dropped(self, drop: Tensor) -> Condition:
        """Return the same batch with the null condition where bool [B] `drop` is True."""
        ...

    def null(self) -> Condition:
        """Return the null condition for every image of the batch."""
        ...

    def is_null(self) -> Tensor:
        """Return bool [B]: which images have the null condition."""
        ...

    def with_null(self) -> Condition | None:
        """Return the condition of 2 B images, these and then theirs without condition; None where that costs more."""
        ...


@dataclass(frozen=True)
class ClassCondition:
    """Class labels int64 [B] in 0..num_classes; the label `num_classes` is the null class."""

    labels: Tensor
    num_classes: int

    def dropped(self, drop: Tensor) -> ClassCondition:
        return ClassCondition(self.labels.masked_fill(drop, self.num_classes), self.num_classes)

    def null(self) -> ClassCondition:
        return ClassCondition(torch.full_like(self.labels, self.num_classes), self.num_classes)

    def is_null(self) -> Tensor:
        return self.labels == self.num_classes

    def with_null(self) -> ClassCondition:
        return ClassCondition(torch.cat([self.labels, self.null().labels]), self.num_classes)


@dataclass(frozen=True)
class TextCondition:
    """Text-encoder states float [B, L, text_width] and the mask bool [B, L] of real tokens (None: all are real).

    The null condition is "no text token visible".
    """

    states: Tensor
    mask: Tensor | None

    def dropped(self, drop: Tensor) -> TextCondition:
        mask = torch.ones(self.states.shape[:2], dtype=torch.bool, device=self.states.device)
        return TextCondition(self.states, (mask if self.mask is None else self.mask) & ~drop[:, None])

    def null(self) -> TextCondition:
        # A masked token changes nothing, so none is computed.
        return TextCondition(self.states[:, :0], None)

    def is_null(self) -> Tensor:
        if self.mask is None:
            batch, length = self.states.shape[:2]
            return torch.full((batch,), length == 0, device=self.states.device)
        return ~self.mask.any(1)

    def with_null(self) -> None:
        """Return None: in one batch the branch without text would be as long as the other."""


class ClassTokens(nn.Module):
    """Several tokens per class: one row of a table plus learned offsets."""

    def __init__(self, num_classes: int, num_tokens: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(num_classes + 1, width)
        self.offsets = nn.Parameter(torch.empty(num_tokens, width))
        nn.init.normal_(self.table.weight, std=0.02)
        nn.init.normal_(self.offsets, std=width**-0.5)

    def forward(self, condition: ClassCondition) -> tuple[Tensor, Tensor | None]:
        """Return tokens [B, num_tokens, width] and no mask."""
        return self.table(condition.labels)[:, None] + self.offsets, None


class TextTokens(nn.Module):
    """One token per text-encoder state: norm and a linear map, no positions of its own."""

    def __init__(self, text_width: int, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(text_width)
        self.proj = nn.Linear(text_width, width)

    def forward(self, condition: TextCondition) -> tuple[Tensor, Tensor | None]:
        """Return tokens [B, L, width] and the mask bool [B, L] or None."""
        return self.proj(self.norm(condition.states.float())), condition.mask


class TimeTokens(nn.Module):
    """Gaussian Fourier features of t, a small network, and learned offsets.

    The frequencies are learned, as in the released checkpoints.

    Source: Tancik et al. 2020 (arXiv 2006.10739).
    """

    def __init__(self, num_tokens: int, width: int, num_frequencies: int) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(num_frequencies))
        self.offsets = nn.Parameter(torch.empty(num_tokens, width))
        first, second = nn.Linear(2 * num_frequencies, width), nn.Linear(width, width)
        self.mlp = nn.Sequential(first, nn.SiLU(), second)
        nn.init.normal_(self.offsets, std=width**-0.5)
        nn.init.normal_(first.weight, std=0.02)
        nn.init.normal_(second.weight, std=0.02)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Map t float32 [B] to its embedding [B, width] and the tokens, embedding + offsets [B, num_tokens, width]."""
        angles = 2 * torch.pi * t[:, None] * self.frequencies
        embedding = self.mlp(torch.cat([angles.sin(), angles.cos()], dim=-1))
        return embedding, embedding[:, None] + self.offsets


class VectorToken(nn.Module):
    """One token of a vector: a linear map and a norm.

    Source: Wu et al. 2025 (arXiv 2507.01467), with RMSNorm in place of LayerNorm.
    """

    def __init__(self, vector_width: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(vector_width, width)
        self.norm = RMSNorm(width)

    def forward(self, vector: Tensor) -> Tensor:
        """Map vectors float32 [B, V] to tokens [B, 1, width]."""
        return self.norm(self.proj(vector))[:, None]
