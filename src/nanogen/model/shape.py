"""The numbers that fix a network: widths, depths, tokens; and what follows from them in closed form, without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Everything the constructor of the backbone needs, as plain numbers.

    Attributes:
        latent_shape: (channels, height, width) of the latent.
        patch_size: side of a patch on the latent grid, for encoder and decoder.
        encoder_depth, encoder_hidden_size, encoder_num_heads: the deep, narrow stack (conditions enter as tokens).
        decoder_depth, decoder_hidden_size, decoder_num_heads: the shallow, wide stack (modulated per token); depth 0:
            norm and output map follow the encoder (LightningDiT).
        num_times: 1 for a network of t; 2 for one of t and an earlier r, as mean flows need.
        num_time_tokens: tokens that carry each time.
        num_classes: classes without the null class, or None for text.
        num_class_tokens: tokens that carry the class.
        text_width: width of the text encoder's states, or None for classes.
        vector_width: width of a vector that is diffused along as one more token, or None.
        early_depth: encoder blocks before an early output, or None.

    Raises:
        ValueError: if the numbers do not fit each other.
    """

    latent_shape: tuple[int, int, int]
    patch_size: int
    encoder_depth: int
    encoder_hidden_size: int
    encoder_num_heads: int
    decoder_depth: int
    decoder_hidden_size: int
    decoder_num_heads: int
    num_times: Literal[1, 2]
    num_time_tokens: int
    num_classes: int | None
    num_class_tokens: int
    text_width: int | None
    vector_width: int | None = None
    early_depth: int | None = None

    def __post_init__(self) -> None:
        _, height, width = self.latent_shape
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(f"a latent of {height}x{width} cannot be cut into patches of {self.patch_size}")
        for part in ("encoder", "decoder")[: 1 + self.has_decoder]:
            size, heads = getattr(self, f"{part}_hidden_size"), getattr(self, f"{part}_num_heads")
            # Two axes, and pairs of components rotate together.
            if size % heads or (size // heads) % 4:
                raise ValueError(f"{part}: {heads} heads over width {size}: the head width must be a multiple of 4")
        if (self.num_classes is None) == (self.text_width is None):
            raise ValueError("a network is conditioned on classes or on text: give num_classes or text_width")
        if self.early_depth is not None and not 1 <= self.early_depth <= self.encoder_depth:
            raise ValueError(
                f"objective.early_depth is {self.early_depth}, and the encoder has {self.encoder_depth} block(s)"
            )

    @property
    def has_decoder(self) -> bool:
        return self.decoder_depth > 0

    @property
    def grid(self) -> tuple[int, int]:
        """Image tokens as (rows, columns)."""
        _, height, width = self.latent_shape
        return height // self.patch_size, width // self.patch_size

    @property
    def taps(self) -> tuple[str, ...]:
        """Features that a forward pass can return.

        "time" is the embedding of t, or of t - r for two times [B, encoder width]; "encoder.K" and "decoder.K" are the
        image tokens after K blocks [B, N, width], and "encoder" those after the last; "vector.K" the token of a vector
        after K blocks of the encoder [B, 1, width].
        """
        stacks = {"encoder": self.encoder_depth, "vector": self.encoder_depth if self.vector_width else 0}
        depths = [f"{name}.{depth + 1}" for name, count in stacks.items() for depth in range(count)]
        return ("time", *depths, "encoder", *(f"decoder.{depth + 1}" for depth in range(self.decoder_depth)))

    @property
    def num_image_tokens(self) -> int:
        return self.grid[0] * self.grid[1]

    @property
    def token_width(self) -> int:
        """Values in one patch of the latent."""
        return self.patch_size**2 * self.latent_shape[0]

    def num_parameters(self) -> int:
        """Learnable values of the network without heads that an objective adds, exactly."""
        e, d, p, v = self.encoder_hidden_size, self.decoder_hidden_size, self.token_width, self.vector_width
        time = NUM_FREQUENCIES + self.num_time_tokens * e + _linear(2 * NUM_FREQUENCIES, e) + _linear(e, e)
        time *= self.num_times
        if self.num_classes is not None:
            condition = self.num_class_tokens * e + (self.num_classes + 1) * e
        else:
            assert self.text_width is not None
            condition = self.text_width + _linear(self.text_width, e)
        total = time + condition + self.encoder_depth * block_parameters(e, self.encoder_num_heads)
        stacks = (e, d) if self.has_decoder else (e,)
        for width in stacks:
            total += _linear(p, width) + (_linear(v, width) + width if v else 0)
        if self.has_decoder:
            total += self.decoder_depth * block_parameters(d, self.decoder_num_heads, modulated=True)
            total += _linear(e, d) if e != d else 0
        total += self._output(stacks[-1]) + (_linear(stacks[-1], v) if v else 0)
        return total + (self._output(e) if self.early_depth else 0)

    def _output(self, width: int) -> int:
        """Values of an output layer over tokens of a width."""
        return width + _linear(width, self.token_width) + (_linear(width, 2 * width) if self.has_decoder else 0)

    def forward_flops(self, num_text_tokens: int = 256) -> int:
        """Floating-point operations of one image's forward pass: matrix products and attention, 2 per multiply-add.

        By the published count, with every token in every block, though the last block of the encoder skips those that
        nothing reads.
        """
        e, d, n = self.encoder_hidden_size, self.decoder_hidden_size, self.num_image_tokens
        condition = self.num_class_tokens if self.num_classes is not None else num_text_tokens
        decoded = n + (self.vector_width is not None)
        length = decoded + self.num_times * self.num_time_tokens + condition
        text = condition * self.text_width * e if self.text_width is not None else 0
        time = self.num_times * (2 * NUM_FREQUENCIES * e + e * e)
        encoder = self.encoder_depth * length * (4 * e * e + 3 * e * swiglu_width(e) + 2 * length * e)
        if not self.has_decoder:
            return 2 * (2 * n * self.token_width * e + time + text + encoder)
        embed = n * self.token_width * (e + d) + time + text
        decoder = self.decoder_depth * decoded * (4 * d * d + 3 * d * swiglu_width(d) + 2 * decoded * d + 6 * d * d)
        final = decoded * (e * d * (e != d) + 2 * d * d) + n * d * self.token_width
        return 2 * (embed + encoder + decoder + final)


NUM_FREQUENCIES = 256


def swiglu_width(width: int) -> int:
    """Hidden width of the gated feed-forward: 2/3 of 4 widths, in double precision from left to right."""
    return int((2 / 3) * width * 4)


def _linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def block_parameters(width: int, num_heads: int, modulated: bool = False) -> int:
    """Return the learnable values of one block: of the decoder where `modulated`, else of the encoder."""
    hidden = swiglu_width(width)
    attention = 4 * _linear(width, width) + 2 * (width // num_heads)
    feed_forward = 2 * _linear(width, hidden) + _linear(hidden, width)
    return 2 * width + attention + feed_forward + (_linear(width, 6 * width) if modulated else 0)
