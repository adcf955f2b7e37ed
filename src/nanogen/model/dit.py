"""The backbone: a decoupled diffusion transformer with conditions as tokens (DDT).

A deep, narrow encoder reads the noisy latent together with time and condition tokens and gives one vector per image
token; a shallow, wide decoder reads the noisy latent again, modulated token by token by those vectors.

Source: Wang et al. 2025 (arXiv 2504.05741); head as in RAE (arXiv 2510.11690).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanogen.model.condition import ClassTokens, Condition, TextTokens, TimeTokens
from nanogen.model.layers import DecoderBlock, EncoderBlock, FinalLayer, pad_table, rotary_table, unpatchify
from nanogen.model.shape import NUM_FREQUENCIES, Shape


@dataclass(frozen=True)
class Output:
    """Result of one forward pass.

    Attributes:
        pred: raw prediction [B, C, H, W], or of the type of the noisy state; the objective says of what.
        features: the taps that were asked for, by name.
    """

    pred: Any
    features: Mapping[str, Tensor] = field(default_factory=dict)


class Head(nn.Module):
    """Base class of further outputs of a network; trained, averaged and saved with it.

    Attributes:
        taps: features that `forward` reads, of `Shape.taps`.
    """

    taps: tuple[str, ...]

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Map features of B images to an output [B, ...]."""
        raise NotImplementedError


class DDT(nn.Module):
    """The network. Its output is exactly 0 at initialisation.

    Attributes:
        shape: the numbers; see `Shape`.
        heads: further outputs by name, each a `Head`; computed where a tap of that name is asked for.
    """

    encoder_rotary: Tensor
    decoder_rotary: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        e, d, p = shape.encoder_hidden_size, shape.decoder_hidden_size, shape.patch_size
        self.encoder_embed = nn.Conv2d(shape.latent_shape[0], e, kernel_size=p, stride=p)
        self.decoder_embed = nn.Conv2d(shape.latent_shape[0], d, kernel_size=p, stride=p)
        # Of t, or of two times the interval t - r; its embedding is what the decoder sees of time.
        self.time = TimeTokens(shape.num_time_tokens, e, NUM_FREQUENCIES)
        if shape.num_times == 2:
            self.absolute_time = TimeTokens(shape.num_time_tokens, e, NUM_FREQUENCIES)
        self.condition: nn.Module
        if shape.num_classes is not None:
            self.condition = ClassTokens(shape.num_classes, shape.num_class_tokens, e)
        else:
            assert shape.text_width is not None
            self.condition = TextTokens(shape.text_width, e)
        self.encoder = nn.ModuleList(EncoderBlock(e, shape.encoder_num_heads) for _ in range(shape.encoder_depth))
        self.bridge = nn.Linear(e, d) if e != d else nn.Identity()
        self.decoder = nn.ModuleList(DecoderBlock(d, shape.decoder_num_heads) for _ in range(shape.decoder_depth))
        self.final = FinalLayer(d, shape.token_width)
        self.heads = nn.ModuleDict()
        for name, head_width in (("encoder", e // shape.encoder_num_heads), ("decoder", d // shape.decoder_num_heads)):
            # Constant, so it is computed and never stored.
            self.register_buffer(f"{name}_rotary", rotary_table(*shape.grid, head_width), persistent=False)
        for name, parameter in self.named_parameters():
            if name.startswith(("encoder_embed.", "decoder_embed.")):
                if name.endswith("weight"):
                    nn.init.xavier_uniform_(parameter.view(len(parameter), -1))
                else:
                    nn.init.zeros_(parameter)
            elif ".adaln." in name or name.startswith("final.linear."):
                nn.init.zeros_(parameter)

    def forward(
        self, z: Tensor, t: Tensor, condition: Condition, r: Tensor | None = None, taps: tuple[str, ...] = ()
    ) -> Output:
        """Predict from the noisy latent.

        Args:
            z: float32 [B, C, H, W].
            t: float32 [B] in [0, 1]; 0 is data, 1 is noise.
            condition: B classes or captions, of the kind that `shape` names.
            r: earlier time float32 [B], r <= t, for a network of two times; else None.
            taps: features to return, of `Shape.taps` or names of `heads`; no others are kept.

        Raises:
            ValueError: if the network has another number of times, or no such tap.
        """
        if (r is None) != (self.shape.num_times == 1):
            raise ValueError(f"a network of {self.shape.num_times} time(s) was given {1 if r is None else 2}")
        heads = {tap: cast(Head, self.heads[tap]) for tap in taps if tap in self.heads}
        wanted = {tap for tap in taps if tap not in heads}.union(*(head.taps for head in heads.values()))
        if unknown := wanted - set(self.shape.taps):
            known = ", ".join((*self.shape.taps, *self.heads))
            raise ValueError(f"the network has no tap {', '.join(sorted(unknown))}; it has {known}")

        num_image = self.shape.num_image_tokens
        embedding, time_tokens = self.time(t if r is None else t - r)
        if r is not None:
            time_tokens = torch.cat([time_tokens, self.absolute_time(t)[1]], dim=1)
        features = {"time": embedding}
        tokens, mask = self.condition(condition)
        num_extra = time_tokens.shape[1] + tokens.shape[1]
        if mask is not None:
            mask = F.pad(mask, (num_image + time_tokens.shape[1], 0), value=True)

        image = self.encoder_embed(z).flatten(2).mT  # [B, N, D_e]
        # The residual stream is float32 under autocast too.
        s = torch.cat([image.float(), time_tokens.float(), tokens.float()], dim=1)
        rotary = pad_table(self.encoder_rotary, num_extra)
        for depth, block in enumerate(self.encoder, start=1):
            # After the last block only the image tokens are read, so it computes no other.
            s = block(s, rotary, mask, num_image if depth == len(self.encoder) else None)
            if f"encoder.{depth}" in wanted:
                features[f"encoder.{depth}"] = s[:, :num_image]
        features["encoder"] = s

        # Two silus on this path: one before the bridge, one before every modulation, which shares it.
        c = F.silu(self.bridge(F.silu(embedding[:, None] + s)))  # [B, N, D_d]
        x = self.decoder_embed(z).flatten(2).mT.float()
        for depth, block in enumerate(self.decoder, start=1):
            x = block(x, c, self.decoder_rotary)
            if f"decoder.{depth}" in wanted:
                features[f"decoder.{depth}"] = x
        pred = unpatchify(self.final(x, c), self.shape.latent_shape, self.shape.patch_size).float()
        return Output(pred, {name: heads[name](features) if name in heads else features[name] for name in taps})

    def compile_blocks(self, **options: Any) -> None:
        """Compile each block in place: equal blocks share one compilation, and parameter names stay."""
        for block in (*self.encoder, *self.decoder, self.final):
            block.compile(**options)
