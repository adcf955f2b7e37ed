"""Weights in the layout of the released checkpoints, mapped to ours: query, key and value, and gate and up, are fused.

Released files keep them apart, number all blocks through, and carry constant tables that are not loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from diffusionbench.errors import CheckpointError
from diffusionbench.shown import few
from nanogen.model.dit import DDT
from nanogen.model.shape import Shape

# Constant tables, and what served training alone.
_UNUSED = ("enc_rope.", "dec_rope.", "repa_projector.")
_FUSED = {"attn.qkv": ("attn.q", "attn.k", "attn.v"), "mlp.w12": ("mlp.w1", "mlp.w2")}
_KEPT = ("norm1", "norm2", "attn.proj", "attn.q_norm", "attn.k_norm", "mlp.w3")
_OUTER = {
    "encoder_embed": "s_embedder.proj",
    "decoder_embed": "x_embedder.proj",
    "bridge": "s_projector",
    "time.frequencies": "t_embedder.W",
    "time.offsets": "t_embedder.learnable_tokens",
    "time.mlp": "t_embedder.mlp",
    "absolute_time.frequencies": "t_abs_embedder.W",
    "absolute_time.offsets": "t_abs_embedder.learnable_tokens",
    "absolute_time.mlp": "t_abs_embedder.mlp",
    "condition.offsets": "ctx_embedder.learnable_tokens",
    "condition.table": "ctx_embedder.embedding_table",
    "condition.norm": "ctx_embedder.norm",
    "condition.proj": "ctx_embedder.proj",
    "final.norm": "final_layer.norm",
    "final.linear": "final_layer.linear",
    "final.adaln": "final_layer.adaln_modulation.1",
    "final.vector": "final_layer.cls_linear",
    "encoder_vector.proj": "cls_in_proj_enc",
    "encoder_vector.norm": "cls_in_norm_enc",
    "decoder_vector.proj": "cls_in_proj_dec",
    "decoder_vector.norm": "cls_in_norm_dec",
    "heads.early.final.norm": "base_final_layer.norm",
    "heads.early.final.linear": "base_final_layer.linear",
    "heads.early.final.adaln": "base_final_layer.adaln_modulation.1",
}
# Of a network without a decoder.
_ENCODER_ONLY = {
    "encoder_embed": "x_embedder.proj",
    "final.norm": "final_layer.norm_final",
    "encoder_vector.proj": "cls_in_proj",
    "encoder_vector.norm": "cls_in_norm",
    "heads.early.final.norm": "base_final_layer.norm_final",
}


def sources(name: str, shape: Shape) -> tuple[str, ...]:
    """Return the released tensors that, stacked along the first axis, are our parameter `name`."""
    stack, _, rest = name.partition(".")
    if stack in ("encoder", "decoder"):
        index, _, rest = rest.partition(".")
        number = int(index) + (shape.encoder_depth if stack == "decoder" else 0)
        part, _, kind = rest.rpartition(".")
        names = _FUSED.get(part) or ((part,) if part in _KEPT else ("adaln_modulation.1",))
        return tuple(f"blocks.{number}.{source}.{kind}" for source in names)
    outer = _OUTER if shape.has_decoder else _OUTER | _ENCODER_ONLY
    prefix = max((ours for ours in outer if name == ours or name.startswith(ours + ".")), key=len)
    return (outer[prefix] + name.removeprefix(prefix),)


def from_released(released: Mapping[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """Return a state dict for `DDT(shape)` from one in the released layout.

    Raises:
        CheckpointError: see `restack`.
    """
    with torch.device("meta"):
        net = DDT(shape)
    return restack(released, net, {name: sources(name, shape) for name, _ in net.named_parameters()}, _UNUSED)


def restack(
    released: Mapping[str, Tensor], net: nn.Module, parts: Mapping[str, Sequence[str]], ignored: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Return a state dict for a network from tensors of other names, some of which are stacked.

    Args:
        released: the tensors by name.
        net: on any device; its parameters say which shapes are needed.
        parts: parameter -> the tensors that, stacked along the first axis, are it.
        ignored: how names of tensors begin that the network does not have.

    Raises:
        CheckpointError: if tensors are missing, left over or of another shape; the first are listed, all are counted.
    """
    released = {str(name): tensor for name, tensor in released.items()}
    wanted = {name: tuple(parameter.shape) for name, parameter in net.named_parameters()}
    known = {source for name in wanted for source in parts[name]}
    problems = [f"missing {name}" for name in sorted(known - set(released))]
    problems += [f"unknown {name}" for name in sorted(set(released) - known) if not name.startswith(ignored)]
    if problems:
        raise CheckpointError(f"the file does not have the released layout of this network: {few(problems, '; ')}")
    problems = [
        f"{' + '.join(parts[name])}: {' + '.join(str(list(released[source].shape)) for source in parts[name])} instead "
        f"of {list(wanted[name])}"
        for name in wanted
        if _stacked([tuple(released[source].shape) for source in parts[name]]) != wanted[name]
    ]
    if problems:
        raise CheckpointError(f"shapes differ from this network's: {few(problems, '; ')}")
    return {name: torch.cat([released[source] for source in parts[name]]) for name in wanted}


def _stacked(shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    """Return the shape of tensors stacked along their first axis; None where they cannot be."""
    if not all(shapes) or len({shape[1:] for shape in shapes}) > 1:
        return None
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])
