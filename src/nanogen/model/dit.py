"""The backbone: a decoupled diffusion transformer with conditions as tokens (DDT).

A deep, narrow encoder reads the noisy latent together with time and condition tokens and gives one vector per image
token; a shallow, wide decoder reads the noisy latent again, modulated token by token by those vectors.

Without a decoder the encoder's tokens are the output's (LightningDiT). A vector that is diffused along is one more
token of both, and the early output of internal guidance a `Head`.

Source: Wang et al. 2025 (arXiv 2504.05741); head as in RAE (arXiv 2510.11690); LightningDiT: Yao et al. 2025 (arXiv
2501.01423).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.utils import _pytree
from torch.utils.checkpoint import checkpoint

from nanogen.model.condition import ClassTokens, Condition, TextTokens, TimeTokens, VectorToken
from nanogen.model.layers import DecoderBlock, EncoderBlock, FinalLayer, pad_table, rotary_table, unpatchify
from nanogen.model.shape import NUM_FREQUENCIES, Shape
from nanogen.pair import Pair

Keep = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class Output:
    """Result of one forward pass.

    Attributes:
        pred: raw prediction [B, C, H, W], or of the type of the noisy state; the objective says of what.
        features: the taps that were asked for, by name.
    """

    pred: Any
    features: Mapping[str, Tensor] = field(default_factory=dict)


# As for `Pair`.
_pytree.register_dataclass(Output)


class Head(nn.Module):
    """Base class of further outputs of a network; trained, averaged and saved with it.

    Attributes:
        taps: features that `forward` reads, of `Shape.taps`.
    """

    taps: tuple[str, ...]

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Map features of B images to an output [B, ...]."""
        raise NotImplementedError


class EarlyHead(Head):
    """A prediction from the image tokens after a few blocks of the encoder; 0 at initialisation.

    Source: the early output of RAEv2, for guidance as in Karras et al. 2024 (arXiv 2406.02507).
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape, self.taps = shape, ("time", f"encoder.{shape.early_depth}")
        self.final = FinalLayer(shape.encoder_hidden_size, shape.token_width, modulated=shape.has_decoder)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return a prediction [B, C, H, W]."""
        embedding, s = (features[tap] for tap in self.taps)
        # Its own input is what modulates it.
        b = F.silu(embedding[:, None] + s) if self.shape.has_decoder else s
        return unpatchify(self.final(b, F.silu(b))[0], self.shape.latent_shape, self.shape.patch_size).float()


class DDT(nn.Module):
    """The network. Its output is exactly 0 at initialisation.

    Attributes:
        shape: the numbers; see `Shape`.
        heads: further outputs by name, each a `Head`; computed where a tap of that name is asked for.
        checkpointing: whether a backward pass computes the activations inside each block again.
    """

    encoder_rotary: Tensor
    decoder_rotary: Tensor
    checkpointing = False

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        e, d, p = shape.encoder_hidden_size, shape.decoder_hidden_size, shape.patch_size
        last = d if shape.has_decoder else e
        self.encoder_embed = nn.Conv2d(shape.latent_shape[0], e, kernel_size=p, stride=p)
        if shape.has_decoder:
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
        if shape.has_decoder:
            self.bridge = nn.Linear(e, d) if e != d else nn.Identity()
        self.decoder = nn.ModuleList(DecoderBlock(d, shape.decoder_num_heads) for _ in range(shape.decoder_depth))
        self.final = FinalLayer(last, shape.token_width, shape.has_decoder, shape.vector_width)
        self.heads = nn.ModuleDict({"early": EarlyHead(shape)} if shape.early_depth else {})
        sizes = {"encoder": e // shape.encoder_num_heads, "decoder": d // shape.decoder_num_heads}
        embeds = {"encoder": self.encoder_embed, **({"decoder": self.decoder_embed} if shape.has_decoder else {})}
        for name, embed in embeds.items():
            # Constant, so it is computed and never stored.
            self.register_buffer(f"{name}_rotary", rotary_table(*shape.grid, sizes[name]), persistent=False)
            nn.init.xavier_uniform_(embed.weight.view(len(embed.weight), -1))
            nn.init.zeros_(embed.bias)  # type: ignore[arg-type]
        if shape.vector_width is not None:
            self.encoder_vector = VectorToken(shape.vector_width, e)
            if shape.has_decoder:
                self.decoder_vector = VectorToken(shape.vector_width, d)

    def forward(
        self, z: Tensor | Pair, t: Tensor, condition: Condition, r: Tensor | None = None, taps: tuple[str, ...] = ()
    ) -> Output:
        """Predict from the noisy latent.

        Args:
            z: float32 [B, C, H, W], or a pair of it and a vector [B, V] for a network of both, as is the prediction.
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
        if isinstance(z, Pair) != (self.shape.vector_width is not None):
            raise ValueError(f"a network of vectors {self.shape.vector_width} wide was given a {type(z).__name__}")

        image, vector = (z.image, z.vector) if isinstance(z, Pair) else (z, None)
        features: dict[str, Tensor] = {}

        def keep(name: str, feature: Tensor) -> None:
            if name in wanted:
                features[name] = feature

        embedding, time_tokens = self.time(t if r is None else t - r)
        keep("time", embedding)
        if r is not None:
            time_tokens = torch.cat([time_tokens, self.absolute_time(t)[1]], dim=1)
        s = self._encode(image, vector, time_tokens, condition, keep)
        if self.shape.has_decoder:
            # Two silus on this path: one before the bridge, one before every modulation, which shares it.
            c = F.silu(self.bridge(F.silu(embedding[:, None] + s)))  # [B, N, D_d]
            tokens, vector_pred = self.final(self._decode(image, vector, c, keep), c)
        else:
            tokens, vector_pred = self.final(s, s)
        pred = unpatchify(tokens, self.shape.latent_shape, self.shape.patch_size).float()
        return Output(
            pred if vector_pred is None else Pair(pred, vector_pred.float()),
            {name: heads[name](features) if name in heads else features[name] for name in taps},
        )

    def _encode(
        self, image: Tensor, vector: Tensor | None, time_tokens: Tensor, condition: Condition, keep: Keep
    ) -> Tensor:
        """Return the tokens of the image, then that of the vector, after the last block [B, N or N + 1, D_e]."""
        num_image = self.shape.num_image_tokens
        num_kept = num_image + (vector is not None)
        tokens, mask = self.condition(condition)
        if mask is not None:
            mask = F.pad(mask, (num_kept + time_tokens.shape[1], 0), value=True)
        # Attention does not see the order of the tokens, only their angles.
        parts = [self.encoder_embed(image).flatten(2).mT, time_tokens, tokens]
        if vector is not None:
            parts.insert(1, self.encoder_vector(vector))
        # The residual stream is float32 under autocast too.
        s = torch.cat([part.float() for part in parts], dim=1)
        rotary = pad_table(self.encoder_rotary, s.shape[1] - num_image)
        for depth, block in enumerate(self.encoder, start=1):
            # After the last block only these tokens are read, so it computes no other.
            s = self._block(block, s, rotary, mask, num_kept if depth == len(self.encoder) else None)
            keep(f"encoder.{depth}", s[:, :num_image])
            keep(f"vector.{depth}", s[:, num_image:num_kept])
        keep("encoder", s[:, :num_image])
        return s

    def _decode(self, image: Tensor, vector: Tensor | None, c: Tensor, keep: Keep) -> Tensor:
        """Return the same tokens after the last block of the decoder, under silu(condition) c [B, N or N + 1, D_d]."""
        x, rotary = self.decoder_embed(image).flatten(2).mT.float(), self.decoder_rotary
        if vector is not None:
            x, rotary = torch.cat([x, self.decoder_vector(vector).float()], dim=1), pad_table(rotary, 1)
        for depth, block in enumerate(self.decoder, start=1):
            x = self._block(block, x, c, rotary)
            keep(f"decoder.{depth}", x[:, : self.shape.num_image_tokens])
        return x

    def _block(self, block: nn.Module, x: Tensor, *given: Any) -> Tensor:
        # A forward-mode derivative is over when the backward pass would compute it again.
        if self.checkpointing and torch.is_grad_enabled() and unpack_dual(x).tangent is None:
            return checkpoint(block, x, *given, use_reentrant=False, preserve_rng_state=False)
        return block(x, *given)

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks in order of computation."""
        return [*self.encoder, *self.decoder]

    def compile_blocks(self, **options: Any) -> None:
        """Compile each block in place: equal blocks share one compilation, and parameter names stay."""
        for block in (*self.blocks, self.final):
            block.compile(**options)
