"""Muon: momentum whose matrices are made orthogonal. Parameters of two axes follow it, all others AdamW.

`muon` is the rule of torch.optim.Muon; `gram_muon` takes Polar Express coefficients and iterates on the Gram matrix,
cheaper where a matrix is not square. Both take apart the maps that our layers fuse (query, key and value; gate and up),
which torch's own would make orthogonal as one matrix.

Sources: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/); scale of the update: Liu et al. 2025
(arXiv 2502.16982); coefficients: Amsel et al. 2025 (arXiv 2505.16932); Gram form: Zhang, Amsel, Chen and Dao.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn

from nanogen.optimizers.adamw import adamw
from nanogen.settings import OptimConfig

Coefficients = Sequence[tuple[float, float, float]]
_MOMENTUM: Final = 0.95
# Of each step X <- a X + b (X X^T) X + c (X X^T)^2 X: those of Jordan, and Polar Express with a safety factor of 1.05.
_QUINTIC: Final = ((3.4445, -4.7750, 2.0315),) * 5
_POLAR: Final = (
    (7.892582874424, -20.383013945880, 13.555306149407),
    (3.911484868135, -2.546463592906, 0.426898831967),
    (3.760657955697, -2.512819018217, 0.432364734907),
    (3.160399673686, -2.149649518898, 0.399636690766),
    (2.191097161862, -1.441662010215, 0.328146487623),
)
# After so many steps the Gram matrix is computed anew, which bounds the error of float16.
_RESTART: Final = 2
# Fused maps by the name of their layer -> how many are stacked along the first axis.
_FUSED: Final = {"qkv": 3, "w12": 2}


def muon(parameters: Mapping[str, nn.Parameter], optim: OptimConfig) -> list[torch.optim.Optimizer]:
    """Return Muon for parameters of two axes, and AdamW for the others."""
    return _routed(parameters, optim, partial(orthogonal, coefficients=_QUINTIC, gram=False, dtype=torch.bfloat16))


def gram_muon(parameters: Mapping[str, nn.Parameter], optim: OptimConfig) -> list[torch.optim.Optimizer]:
    """Return Muon in its Gram form for parameters of two axes, and AdamW for the others."""
    return _routed(parameters, optim, orthogonal)


def _routed(
    parameters: Mapping[str, nn.Parameter], optim: OptimConfig, orthogonalise: Callable[[Tensor], Tensor]
) -> list[torch.optim.Optimizer]:
    matrices = {name: weight for name, weight in parameters.items() if weight.ndim == 2}
    others = {name: weight for name, weight in parameters.items() if weight.ndim != 2}
    first = [Muon(matrices, optim.weight_decay, orthogonalise)] if matrices else []
    return [*first, *(adamw(others, optim) if others else [])]


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum; matrices of equal shape go together.

    Leaves weights and state as they are where `found_inf` is 1, without a host wait.

    Args:
        matrices: parameters of two axes by name; fused ones are taken apart by the name of their layer.
        weight_decay: decoupled, per unit of the rate.
        orthogonalise: maps bfloat16 directions [B, rows, columns] to float32 updates.
    """

    _step_supports_amp_scaling = True
    found_inf: Tensor | None = None

    def __init__(
        self, matrices: Mapping[str, nn.Parameter], weight_decay: float, orthogonalise: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__(matrices.values(), {"lr": 0.0, "weight_decay": weight_decay, "momentum": _MOMENTUM})
        self._orthogonalise = orthogonalise
        self._parts = {
            weight: next((count for layer, count in _FUSED.items() if f".{layer}." in f".{name}"), 1)
            for name, weight in matrices.items()
        }

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            directions: dict[tuple[int, ...], list[tuple[Tensor, Tensor]]] = {}
            for weight in (weight for weight in group["params"] if weight.grad is not None):
                momentum = self.state[weight].setdefault("momentum_buffer", torch.zeros_like(weight))
                moved = group["momentum"] * momentum + weight.grad
                ahead = weight.grad + group["momentum"] * moved
                momentum.copy_(self._kept(momentum, moved))
                count = self._parts[weight]
                for part, direction in zip(weight.chunk(count), ahead.chunk(count), strict=True):
                    directions.setdefault(tuple(part.shape), []).append((part, direction))
            for shape, pairs in directions.items():
                updates = self._orthogonalise(torch.stack([direction for _, direction in pairs]).bfloat16())
                scale = group["lr"] * 0.2 * max(shape) ** 0.5
                for (part, _), update in zip(pairs, updates, strict=True):
                    moved = (1 - group["lr"] * group["weight_decay"]) * part - scale * update
                    part.copy_(self._kept(part, moved))

    def _kept(self, old: Tensor, new: Tensor) -> Tensor:
        return new if self.found_inf is None else torch.where(self.found_inf == 1, old, new)


def orthogonal(
    matrices: Tensor, gram: bool = True, dtype: torch.dtype = torch.float16, coefficients: Coefficients = _POLAR
) -> Tensor:
    """Return matrices with the singular vectors of those given and singular values near 1.

    In exact arithmetic Polar Express sends values in [0.01, 1], relative to the Frobenius norm, to [0.846, 1.124].

    Args:
        matrices: [B, rows, columns].
        gram: iterate on the Gram matrix, where rows and columns differ; the same result otherwise.
        dtype: of the products.
        coefficients: of each step.

    Returns:
        float32 [B, rows, columns].
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).float()
    x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype)
    if not gram or x.shape[1] == x.shape[2]:
        for a, b, c in coefficients:
            r = x @ x.mT
            x = a * x + (b * r + c * r @ r) @ x
    else:
        for some in (coefficients[:_RESTART], coefficients[_RESTART:]):
            x = _gram_factor(x @ x.mT, some) @ x
    return (x.mT if tall else x).float()


def _gram_factor(r: Tensor, coefficients: Coefficients) -> Tensor:
    """Return what some steps multiply X by, from the left, as a matrix [B, rows, rows]; r is X X^T."""
    unit = torch.eye(r.shape[1], dtype=r.dtype, device=r.device)
    q: Tensor | None = None
    for a, b, c in coefficients:
        factor = b * r + c * r @ r + a * unit
        q = factor if q is None else q @ factor
        r = factor @ r @ factor
    assert q is not None
    return q
