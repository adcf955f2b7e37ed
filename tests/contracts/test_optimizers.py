"""Promises of every optimizer: each parameter once, the scheduled rate, refusal of non-finite updates, exact resume."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from nanogen.config import compose
from nanogen.optim import Updater
from nanogen.optimizers import OPTIMIZERS

OPTIM = compose("digits").config.optim


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2))


@pytest.fixture(params=list(OPTIMIZERS))
def create(request):
    """A function: a network and the updater of its parameters."""
    function = OPTIMIZERS.load(request.param)

    def made() -> tuple[nn.Module, Updater]:
        net = network()
        return net, Updater(function(dict(net.named_parameters()), OPTIM), grad_clip=1.0, stop=False)

    return made


def step(net: nn.Module, updater: Updater, number: int, lr: float = 1e-2, factor: float = 1.0) -> None:
    inputs = torch.randn(16, 4, generator=torch.Generator().manual_seed(number))
    loss = net(inputs).square().mean() * factor
    loss.backward()
    updater.step(number, lr, {"loss": loss.detach()})


def weights(net: nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in net.named_parameters()}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_row_says_what_it_is(name):
    assert OPTIMIZERS[name].title


def test_each_parameter_is_in_one_group(create):
    net, updater = create()
    held = [id(weight) for one in updater.optimizers for group in one.param_groups for weight in group["params"]]
    for name, weight in net.named_parameters():
        assert held.count(id(weight)) == 1, f"parameter '{name}' is in {held.count(id(weight))} groups instead of one"
    assert len(held) == len(list(net.parameters()))


def test_every_parameter_moves_with_the_rate_and_none_without(create):
    net, updater = create()
    before = weights(net)
    step(net, updater, 0, lr=0.0)
    assert all(torch.equal(weight, before[name]) for name, weight in weights(net).items())
    step(net, updater, 1)
    still = [name for name, weight in weights(net).items() if torch.equal(weight, before[name])]
    assert not still, f"a step does not move {still}"


def test_an_update_that_is_not_finite_changes_neither_weights_nor_state(create):
    net, updater = create()
    step(net, updater, 0)
    before, states = weights(net), copy.deepcopy([one.state_dict() for one in updater.optimizers])
    step(net, updater, 1, factor=float("inf"))
    assert int(updater.skipped) == 1
    moved = [name for name, weight in weights(net).items() if not torch.equal(weight, before[name])]
    assert not moved, f"{moved} change although found_inf is 1: use `fused=True`, or read `found_inf` in `step`"
    for one, state in zip(updater.optimizers, states, strict=True):
        for found, wanted in zip(one.state_dict()["state"].values(), state["state"].values(), strict=True):
            assert all(torch.equal(torch.as_tensor(found[key]), torch.as_tensor(wanted[key])) for key in wanted)


def test_a_restored_state_continues_exactly(create):
    net, updater = create()
    for number in range(4):
        step(net, updater, number)
        if number == 1:
            kept, states = copy.deepcopy(net.state_dict()), copy.deepcopy([o.state_dict() for o in updater.optimizers])
    again, restored = create()
    again.load_state_dict(kept)
    for one, state in zip(restored.optimizers, states, strict=True):
        one.load_state_dict(state)
    for number in (2, 3):
        step(again, restored, number)
    assert all(torch.equal(weight, weights(net)[name]) for name, weight in weights(again).items())
