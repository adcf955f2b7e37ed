"""Muon: which parameters follow it, what its matrices become, and how far they move."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from nanogen.config import compose
from nanogen.optimizers.muon import gram_muon, muon, orthogonal

OPTIM = compose("digits").config.optim.model_copy(update={"weight_decay": 0.1})


def with_values(values: np.ndarray, rows: int, columns: int) -> torch.Tensor:
    """A matrix [1, rows, columns] in float64 of given singular values and random vectors."""
    stream = np.random.default_rng(0)
    left, right = (np.linalg.qr(stream.normal(size=(side, len(values))))[0] for side in (rows, columns))
    return torch.tensor(left * values @ right.T)[None]


@pytest.mark.parametrize("least, low", [(0.001, 0.729), (0.01, 0.846)])
@pytest.mark.parametrize("gram, columns", [(False, 40), (True, 60), (True, 40)])
def test_singular_values_land_in_the_stated_interval(least, low, gram, columns):
    # The largest is 1 of the norm as far as the others leave it so.
    values = np.geomspace(least, 1, 40)
    values = np.concatenate([values[:-1] * 0.02, [1.0]]) if least < 0.01 else values
    matrix = with_values(values, 40, columns)
    relative = values / np.linalg.norm(values)
    found = torch.linalg.svdvals(orthogonal(matrix, gram, torch.float64)[0].double()).numpy()[::-1]
    inside = np.sort(relative) >= least
    assert inside.sum() >= 1
    assert found[inside].min() >= low - 1e-3
    assert found.max() <= 1.124 + 1e-3


def test_the_singular_vectors_stay():
    matrix = with_values(np.linspace(0.3, 1, 5), 5, 8)
    left, _, right = torch.linalg.svd(matrix[0], full_matrices=False)
    made = left.T @ orthogonal(matrix, dtype=torch.float64)[0].double() @ right.T
    torch.testing.assert_close(made, torch.diag(made.diagonal()), atol=1e-6, rtol=0)
    assert (made.diagonal() > 0.8).all()


@pytest.mark.parametrize("shape", [(6, 15), (15, 6), (7, 7)])
def test_the_gram_form_is_the_plain_one(shape):
    matrices = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    plain = orthogonal(matrices, gram=False, dtype=torch.float64)
    torch.testing.assert_close(orthogonal(matrices, dtype=torch.float64), plain, rtol=1e-4, atol=1e-5)
    # In the number type that is used the two differ by its rounding.
    torch.testing.assert_close(orthogonal(matrices), plain, rtol=0, atol=0.03)


def test_a_matrix_of_zeros_stays_one():
    assert orthogonal(torch.zeros(1, 3, 5)).abs().max() == 0


class Fused(nn.Module):
    """A fused map, an embedding, a patch embedder and vectors."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv = nn.Linear(8, 24)
        self.table = nn.Embedding(5, 8)
        self.embed = nn.Conv2d(3, 8, 2, stride=2)
        self.norm = nn.LayerNorm(8)


@pytest.mark.parametrize("function", [muon, gram_muon])
def test_parameters_of_two_axes_follow_muon_and_all_others_adamw(function):
    net = Fused()
    first, second = function(dict(net.named_parameters()), OPTIM)
    assert {id(weight) for weight in first.param_groups[0]["params"]} == {id(net.qkv.weight), id(net.table.weight)}
    assert isinstance(second, torch.optim.AdamW)
    assert len(second.param_groups[0]["params"]) == 5
    (alone,) = function({"weight": net.qkv.weight}, OPTIM)
    assert alone.param_groups[0]["weight_decay"] == 0.1
    (rest,) = function({"weight": net.qkv.bias}, OPTIM)
    assert isinstance(rest, torch.optim.AdamW)


@pytest.mark.parametrize("function", [muon, gram_muon])
def test_fused_maps_are_made_orthogonal_one_by_one_with_the_scale_of_their_size(function):
    whole = torch.randn(24, 8, generator=torch.Generator().manual_seed(1))
    parts = [nn.Parameter(torch.ones(8, 8)) for _ in range(3)]
    fused = nn.Parameter(torch.ones(24, 8))
    (together,) = function({"encoder.0.attn.qkv.weight": fused}, OPTIM)
    (alone,) = function({f"map.{place}": part for place, part in enumerate(parts)}, OPTIM)
    fused.grad = whole.clone()
    for part, gradient in zip(parts, whole.chunk(3), strict=True):
        part.grad = gradient.clone()
    for optimizer in (together, alone):
        optimizer.param_groups[0]["lr"] = 0.5
        optimizer.step()
    torch.testing.assert_close(fused.detach(), torch.cat([part.detach() for part in parts]), rtol=0, atol=1e-6)
    assert (fused - 0.95).abs().max() > 0.01


@pytest.mark.parametrize("shape", [(6, 15), (15, 6), (7, 7)])
def test_a_map_that_is_not_fused_moves_as_in_torch_own_muon(shape):
    ours, theirs = (nn.Parameter(torch.ones(shape)) for _ in range(2))
    (optimizer,) = muon({"weight": ours}, OPTIM)
    reference = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    optimizer.param_groups[0]["lr"] = 0.1
    for seed in range(3):
        ours.grad = theirs.grad = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        optimizer.step()
        reference.step()
    # Rounding of bfloat16, of updates that are about 0.03 in each value.
    torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=0, atol=8e-3)


def test_momentum_is_that_of_the_paper_in_both_forms():
    gradients = [torch.randn(4, 7, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    momentum = torch.zeros(4, 7)
    for gradient in gradients:
        momentum = 0.95 * momentum + gradient
    for function in (muon, gram_muon):
        weight = nn.Parameter(torch.zeros(4, 7))
        (optimizer,) = function({"weight": weight}, OPTIM)
        optimizer.param_groups[0]["lr"] = 0.1
        for gradient in gradients:
            weight.grad = gradient.clone()
            before = weight.detach().clone()
            optimizer.step()
        torch.testing.assert_close(optimizer.state[weight]["momentum_buffer"], momentum, rtol=1e-4, atol=1e-5)
        moved = weight.detach() - (1 - 0.1 * 0.1) * before
        # Both move by 0.2 sqrt(7) of a matrix whose singular values are near 1.
        values = torch.linalg.svdvals(moved) / (0.1 * 0.2 * 7**0.5)
        assert 0.6 < values.min() <= values.max() < 1.25
