"""Costs of a config in closed form: parameters, floating-point operations, bytes of memory. No torch.

Operations are those of matrix products and attention, 2 per multiply-add; a backward pass counts as two forward passes.
Memory of activations is what the layers of `nanogen.model.layers` keep for the backward pass, eagerly; a compiled block
keeps less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nanogen.config import Config
from nanogen.losses import LOSSES
from nanogen.model.shape import Shape, block_parameters, swiglu_width
from nanogen.objectives import OBJECTIVES
from nanogen.optimizers import OPTIMIZERS
from nanogen.resolve import Derived
from nanogen.samplers import SAMPLERS
from nanogen.times import shift_time, to_float32

# Where attention keeps its scores: plain products in bfloat16 on a CPU; fused kernels keep none.
Kind = Literal["float32", "bfloat16 on a CPU", "bfloat16"]


@dataclass(frozen=True)
class _BlockBytes:
    """Bytes that a block keeps for each of its tokens.

    Attributes:
        encoder, decoder: for each unit of the width.
        hidden: for each unit of the feed-forward's hidden width.
        heads: for each head.
        scores: for each head and token that is attended to.
    """

    encoder: int
    decoder: int
    hidden: int
    heads: int
    scores: int


_KEPT: dict[Kind, _BlockBytes] = {
    "float32": _BlockBytes(encoder=60, decoder=112, hidden=16, heads=12, scores=0),
    "bfloat16 on a CPU": _BlockBytes(encoder=44, decoder=74, hidden=8, heads=8, scores=6),
    "bfloat16": _BlockBytes(encoder=50, decoder=80, hidden=8, heads=12, scores=0),
}


def kind(precision: str, device: str) -> Kind:
    """Return what the layers keep in "bfloat16" or "float32" on a device "cpu" or "cuda"."""
    if precision == "float32":
        return "float32"
    return "bfloat16" if device == "cuda" else "bfloat16 on a CPU"


# For each unit of width: of image tokens outside the blocks, and of the states of captions.
_OUTSIDE, _TEXT = 24, 5


def num_trainable(config: Config, shape: Shape) -> int:
    """Return the parameters that training changes: the network's and those of extra losses."""
    losses = ((LOSSES[name], values) for name, values in config.losses.items())
    chosen = ((row, row.options.model_validate(values)) for row, values in losses)
    extra = (row.parameters(options, shape.encoder_hidden_size) for row, options in chosen if options.weight)
    return shape.num_parameters() + sum(extra)


def training_flops(config: Config, shape: Shape, text_tokens: float = 64) -> float:
    """Return the operations of one image's training step, of the network alone: no frozen encoder.

    Args:
        text_tokens: mean length of a caption; networks of classes do not read it.
    """
    objective = OBJECTIVES[config.objective["name"]]
    passes = objective.passes(objective.options.model_validate(config.objective))
    return passes * shape.forward_flops(round(text_tokens))


def sampling_flops(config: Config, derived: Derived, text_tokens: float = 64) -> float:
    """Return the operations of drawing one image with the config's sampler and guidance, without the decoder."""
    num_steps, shape = config.sampler.num_steps, derived.shape
    low, high = map(to_float32, config.guidance.interval)
    times = [shift_time(1 - step / num_steps, derived.sampler_shift) for step in range(num_steps)]
    guided = sum(low <= to_float32(time) <= high for time in times) * (config.guidance.scale != 1)
    one = num_steps * shape.forward_flops(round(text_tokens)) + guided * shape.forward_flops(0)
    return SAMPLERS[config.sampler.name].evaluations * one


def activation_bytes(shape: Shape, kind: Kind, text_tokens: int, checkpointing: bool = False) -> float:
    """Return the bytes that one image's forward pass keeps for the backward pass.

    Args:
        text_tokens: length of the longest caption of the batch.
        checkpointing: only the input of each block is kept, and what is inside the largest one.
    """
    e, d, n = shape.encoder_hidden_size, shape.decoder_hidden_size, shape.num_image_tokens
    decoded = n + (shape.vector_width is not None)
    condition = shape.num_class_tokens if shape.num_classes is not None else text_tokens
    length = decoded + shape.num_times * shape.num_time_tokens + condition
    kept = _KEPT[kind]
    text = _TEXT * (shape.text_width or 0) * condition

    def block(width: int, heads: int, per_width: int, tokens: int, read: int) -> float:
        rest = kept.hidden * swiglu_width(width) + heads * (kept.heads + kept.scores * tokens) + 8
        # Keys and values are of all tokens; queries and what follows of those that are read.
        return per_width * width * (tokens + read) / 2 + rest * read

    encoder = block(e, shape.encoder_num_heads, kept.encoder, length, length)
    last = block(e, shape.encoder_num_heads, kept.encoder, length, decoded)
    decoder = block(d, shape.decoder_num_heads, kept.decoder, decoded, decoded) if shape.has_decoder else 0.0
    outside = _OUTSIDE * n * (d if shape.has_decoder else e) + text
    if checkpointing:
        inputs = 4 * (shape.encoder_depth * length * e + shape.decoder_depth * decoded * d)
        return outside + inputs + max(encoder, last, decoder)
    return outside + (shape.encoder_depth - 1) * encoder + last + shape.decoder_depth * decoder


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, by part.

    Attributes:
        weights, gradients, optimizer, ema: float32, this device's share of them.
        copies: weights in the type in which they multiply, and those of whole blocks where they are sharded.
        activations: of the micro-batch.
    """

    weights: float
    gradients: float
    optimizer: float
    ema: float
    copies: float
    activations: float

    @property
    def total(self) -> float:
        """All parts together; what is gathered or computed for a moment comes on top, a few percent."""
        return sum(vars(self).values())


def memory(config: Config, shape: Shape, kind: Kind, *, images: int, text_tokens: int, group: int = 1) -> Memory:
    """Return the memory of a training on one device: micro-batches of `images`, captions of at most `text_tokens`.

    Args:
        group: devices that share weights, gradients, optimizer and average among them.
    """
    parameters = num_trainable(config, shape)
    e, d = shape.encoder_hidden_size, shape.decoder_hidden_size
    largest = max(
        block_parameters(e, shape.encoder_num_heads),
        block_parameters(d, shape.decoder_num_heads, modulated=True) if shape.has_decoder else 0,
    )
    half = 4 if kind == "float32" else 2
    # Where weights are shared: two blocks that are gathered, and the gradient of one.
    gathered, cast = largest * (2 * half + 4), 0 if kind == "float32" else half * parameters
    copies = gathered if group > 1 else cast
    moments = OPTIMIZERS[config.optim.name].moments
    share = 4 * parameters / group
    kept = activation_bytes(shape, kind, text_tokens, config.train.checkpointing != "none")
    return Memory(share, share, moments * share, share, copies, images * kept)


def checkpoint_bytes(config: Config, shape: Shape) -> float:
    """Return about how large one checkpoint is: weights, optimizer, and the average."""
    return 4 * num_trainable(config, shape) * (2 + OPTIMIZERS[config.optim.name].moments)
