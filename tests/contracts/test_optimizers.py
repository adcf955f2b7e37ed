"""What every optimizer promises: it holds each parameter once, and leaves everything as it is where told to."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny
from torch import nn

from nanogen.optim import Updater
from nanogen.optimizers import OPTIMIZERS


@pytest.fixture(params=list(OPTIMIZERS))
def made(request):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(16, 4), nn.LayerNorm(4), nn.Embedding(5, 4))
    return net, OPTIMIZERS.load(request.param)(dict(net.named_parameters()), tiny(1).config.optim)


def give_gradients(net: nn.Module, value: float = 0.0) -> None:
    for weight in net.parameters():
        weight.grad = torch.randn_like(weight) + value


def test_each_parameter_is_in_one_optimizer(made):
    net, optimizers = made
    held = [weight for one in optimizers for group in one.param_groups for weight in group["params"]]
    assert sorted(map(id, held)) == sorted(map(id, net.parameters()))


def test_a_refused_update_leaves_weights_and_state(made):
    net, optimizers = made
    updater = Updater(optimizers, float("inf"), stop=False)

    def everything() -> list[torch.Tensor]:
        states = [value for one in optimizers for state in one.state.values() for value in state.values()]
        return [*net.parameters(), *(value for value in states if isinstance(value, torch.Tensor))]

    for value, moves in ((0.0, True), (float("nan"), False), (0.0, True)):
        before = [tensor.detach().clone() for tensor in everything()]
        give_gradients(net, value)
        updater.step(0, 0.1, {})
        weights = list(net.parameters())
        assert all(torch.equal(a, b) != moves for a, b in zip(before[: len(weights)], weights, strict=True))
        if not moves:
            assert all(torch.equal(a, b) for a, b in zip(before, everything(), strict=True))
    assert updater.skipped.item() == 1
