"""The tiny network and closed-form weights behind the reference outputs (methods 13): one fill for every tensor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nanogen.model.dit import DDT
from nanogen.model.released import from_released
from nanogen.model.shape import Shape, swiglu_width


def tiny_shape(*, text: bool = False, **numbers: Any) -> Shape:
    return Shape(
        **{
            "latent_shape": (3, 8, 8),
            "patch_size": 2,
            "encoder_depth": 2,
            "encoder_hidden_size": 24,
            "encoder_num_heads": 2,
            "decoder_depth": 1,
            "decoder_hidden_size": 32,
            "decoder_num_heads": 2,
            "num_times": 1,
            "num_time_tokens": 2,
            "num_classes": None if text else 5,
            "num_class_tokens": 3,
            "text_width": 10 if text else None,
            **numbers,
        }
    )


def _linear(name: str, inputs: int, outputs: int) -> list[tuple[str, tuple[int, ...]]]:
    return [(f"{name}.weight", (outputs, inputs)), (f"{name}.bias", (outputs,))]


def released_layout(shape: Shape) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a released checkpoint in file order, constant tables left out (methods 12)."""
    channels, patch = shape.latent_shape[0], shape.patch_size
    e, d, v = shape.encoder_hidden_size, shape.decoder_hidden_size, shape.vector_width
    layout: list[tuple[str, tuple[int, ...]]] = []
    for name, width in (("s_embedder", e), ("x_embedder", d)) if shape.has_decoder else (("x_embedder", e),):
        layout += [(f"{name}.proj.weight", (width, channels, patch, patch)), (f"{name}.proj.bias", (width,))]
    if shape.has_decoder:
        layout += _linear("s_projector", e, d)
    for name in ("t_embedder", "t_abs_embedder")[: shape.num_times]:
        layout += [(f"{name}.W", (256,)), (f"{name}.learnable_tokens", (shape.num_time_tokens, e))]
        layout += _linear(f"{name}.mlp.0", 512, e) + _linear(f"{name}.mlp.2", e, e)
    if shape.num_classes is not None:
        layout.append(("ctx_embedder.learnable_tokens", (shape.num_class_tokens, e)))
        layout.append(("ctx_embedder.embedding_table.weight", (shape.num_classes + 1, e)))
    else:
        assert shape.text_width is not None
        layout += [
            ("ctx_embedder.norm.weight", (shape.text_width,)),
            *_linear("ctx_embedder.proj", shape.text_width, e),
        ]
    stacks = [(e, shape.encoder_num_heads)] * shape.encoder_depth + [(d, shape.decoder_num_heads)] * shape.decoder_depth
    for index, (width, heads) in enumerate(stacks):
        block = f"blocks.{index}"
        layout += [(f"{block}.norm1.weight", (width,)), (f"{block}.norm2.weight", (width,))]
        for part in ("q", "k", "v", "proj"):
            layout += _linear(f"{block}.attn.{part}", width, width)
        layout += [(f"{block}.attn.{part}_norm.weight", (width // heads,)) for part in ("q", "k")]
        hidden = swiglu_width(width)
        layout += _linear(f"{block}.mlp.w1", width, hidden) + _linear(f"{block}.mlp.w2", width, hidden)
        layout += _linear(f"{block}.mlp.w3", hidden, width)
        if index >= shape.encoder_depth:
            layout += _linear(f"{block}.adaln_modulation.1", width, 6 * width)
    layout += _output("final_layer", d if shape.has_decoder else e, shape)
    if v is not None:
        layout += _linear("final_layer.cls_linear", d if shape.has_decoder else e, v)
        for suffix, width in (("_enc", e), ("_dec", d)) if shape.has_decoder else (("", e),):
            layout += [*_linear(f"cls_in_proj{suffix}", v, width), (f"cls_in_norm{suffix}.weight", (width,))]
    return layout + (_output("base_final_layer", e, shape) if shape.early_depth else [])


def _output(name: str, width: int, shape: Shape) -> list[tuple[str, tuple[int, ...]]]:
    if not shape.has_decoder:
        return [(f"{name}.norm_final.weight", (width,)), *_linear(f"{name}.linear", width, shape.token_width)]
    layout = [(f"{name}.norm.weight", (width,)), *_linear(f"{name}.linear", width, shape.token_width)]
    return layout + _linear(f"{name}.adaln_modulation.1", width, 2 * width)


def filled(layout: list[tuple[str, tuple[int, ...]]]) -> dict[str, Tensor]:
    """Closed-form weights: tensor r, flat index k."""
    tensors = {}
    for r, (name, shape) in enumerate(layout):
        k = np.arange(math.prod(shape), dtype=np.float64)
        values = 0.25 * np.sin(0.713 * k + 0.0137 * k**2 + 0.37 * r + 0.5)
        is_gain = "norm" in name and name.endswith("weight")
        tensors[name] = torch.tensor(values + is_gain, dtype=torch.float32).reshape(shape)
    return tensors


def wave(frequency: float, phase: float, shape: tuple[int, ...]) -> Tensor:
    """sin(frequency k + phase) over the flat index k."""
    k = np.arange(math.prod(shape), dtype=np.float64)
    return torch.tensor(np.sin(frequency * k + phase), dtype=torch.float32).reshape(shape)


def reference_network(**numbers: Any) -> DDT:
    shape = tiny_shape(**numbers)
    net = DDT(shape)
    net.load_state_dict(from_released(filled(released_layout(shape)), shape))
    return net


def summary(values: Tensor) -> list[float]:
    """Mean, population deviation, first four values, last value: as the reference prints them."""
    flat = values.detach().double().flatten()
    return [flat.mean().item(), flat.std(correction=0).item(), *flat[:4].tolist(), flat[-1].item()]
