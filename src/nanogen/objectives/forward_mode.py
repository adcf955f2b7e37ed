"""Forward-mode rules of the backbone's layers for a derivative through which nobody trains.

torch's own multiply the tangent of a weight, which is zero, as if it were not, and record every tangent for a backward
pass. These do neither, and keep the fused kernels for the values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.forward_ad import make_dual, unpack_dual
from torch.overrides import TorchFunctionMode

Rule = Callable[..., Tensor]


class ForwardRules(TorchFunctionMode):
    """Within it the functions of `RULES` on dual tensors go by these rules; their tangents carry no gradient."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        rule = RULES.get(func)
        if rule is None:
            return func(*args, **kwargs)
        tangents = [unpack_dual(arg).tangent if isinstance(arg, Tensor) else None for arg in args]
        if all(tangent is None for tangent in tangents):
            return func(*args, **kwargs)
        primals = [
            arg if tangent is None else unpack_dual(arg).primal for arg, tangent in zip(args, tangents, strict=True)
        ]
        value = func(*primals, **kwargs)
        with torch.no_grad():
            tangent = rule(func, primals, tangents, **kwargs).to(value.dtype)
        return make_dual(value, tangent)


def _affine(
    func: Any, primals: Sequence[Any], tangents: Sequence[Any], bias: Tensor | None = None, **options: Any
) -> Tensor:
    """y = W x + b: dy = W dx."""
    weight, without_bias = primals[1], (None, *primals[3:])
    return func(tangents[0], weight, *without_bias, **options)


def _bilinear(func: Any, primals: Sequence[Any], tangents: Sequence[Any]) -> Tensor:
    """y = f(a, b), linear in each: dy = f(da, b) + f(a, db)."""
    (a, b), (da, db) = primals, tangents
    if da is None or db is None:
        return func(a, db) if da is None else func(da, b)
    return func(da, b) + func(a, db)


def _silu(func: Any, primals: Sequence[Any], tangents: Sequence[Any], inplace: bool = False) -> Tensor:
    return torch.ops.aten.silu_backward(tangents[0], primals[0])


def _rms_norm(func: Any, primals: Sequence[Any], tangents: Sequence[Any], weight: Tensor, eps: float) -> Tensor:
    """y = w x / m with m^2 = mean(x^2) + eps: dy = w (dx - x mean(x dx) / m^2) / m."""
    exact = torch.promote_types(primals[0].dtype, torch.float32)
    x, dx = primals[0].to(exact), tangents[0].to(exact)
    inverse = torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    along = (x * dx).mean(-1, keepdim=True) * inverse.square()
    return torch.addcmul(dx, x, along, value=-1).mul_(inverse).mul_(weight)


def _attention(func: Any, primals: Sequence[Any], tangents: Sequence[Any], attn_mask: Tensor | None = None) -> Tensor:
    """y = P v with P = softmax(q k^T / sqrt(D)): dy = dP v + P dv, and dP as its backward pass has it."""
    (q, k, v), (dq, dk, dv) = primals, tangents
    # Stated: of both arguments of the derivative autocast on CUDA raises the weights alone, and their types must agree.
    exact = torch.promote_types(v.dtype, torch.float32)
    scale = q.shape[-1] ** -0.5
    q, dq = q * scale, dq * scale
    scores = q @ k.mT
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, float("-inf"))
    weights = scores.softmax(-1, dtype=exact)
    moved = torch.ops.aten._softmax_backward_data((dq @ k.mT + q @ dk.mT).to(exact), weights, -1, exact)
    return moved.to(v.dtype) @ v + weights.to(v.dtype) @ dv


RULES: Final[Mapping[Any, Rule]] = {
    F.linear: _affine,
    torch.conv2d: _affine,
    torch.Tensor.mul: _bilinear,
    torch.Tensor.matmul: _bilinear,
    F.silu: _silu,
    F.rms_norm: _rms_norm,
    F.scaled_dot_product_attention: _attention,
}
