"""What the loop hands on: draws to the network, gradients to the optimizer, weights to the average."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from tiny import tiny
from torch import nn
from watch import register, training

from nanogen import parallel
from nanogen.build import build_components
from nanogen.conditions.classes import ClassConditioner
from nanogen.data.order import Order, batches
from nanogen.ema import decay_at
from nanogen.model.layers import EncoderBlock
from nanogen.rng import PositionalNoise
from nanogen.times import shift_time
from nanogen.train import build, flow_updates, open_data, train

OTHER = ("seed=11", "time.mu=-0.4", "time.sigma=0.8", "time.shift=3", "condition.drop_prob=0.4")


@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_network_sees_the_data_with_the_noise_and_time_of_each_place(accumulation):
    seen = training(3, *OTHER, f"train.accumulation={accumulation}")
    data, config = open_data(tiny(3, *OTHER).config)
    loader = batches(data, seed=11, batch_size=8)
    for step in range(3):
        batch = next(loader)
        noise = PositionalNoise(11, range(8), step=step)
        t = shift_time(torch.sigmoid(-0.4 + 0.8 * noise.normal("time")), 3.0)
        eps = noise.normal("noise", (3, 8, 8))
        x = 2 * batch.image.float() / 255 - 1
        z = (1 - t[:, None, None, None]) * x + t[:, None, None, None] * eps
        labels = batch.label.masked_fill(noise.uniform("drop") < 0.4, 10)
        calls = seen.calls[step * accumulation : (step + 1) * accumulation]
        torch.testing.assert_close(torch.cat([call[0] for call in calls]), z)
        torch.testing.assert_close(torch.cat([call[1] for call in calls]), t)
        assert torch.cat([call[2].labels for call in calls]).tolist() == labels.tolist()
    assert config.train.batch_size == 8


def test_the_gradient_is_the_mean_over_the_batch_however_it_is_cut():
    """The optimizer's own scale would hide a factor."""
    whole = training(1, "train.grad_clip=.inf")
    parts = training(1, "train.grad_clip=.inf", "train.accumulation=4")
    assert whole.applied[0].keys() == parts.applied[0].keys()
    for name, gradient in whole.applied[0].items():
        torch.testing.assert_close(parts.applied[0][name], gradient, rtol=1e-4, atol=1e-6)


class Replicated(nn.Module):
    """Stands in for the wrapper of several processes: notes in which passes gradients stay in this one."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.local = False
        self.seen: list[bool] = []
        net.final.linear.weight.register_hook(lambda gradient: self.seen.append(self.local))

    def forward(self, *given, **named):
        return self.net(*given, **named)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        self.local = True
        yield
        self.local = False


def test_gradients_are_shared_in_the_last_micro_batch_alone(monkeypatch):
    data, config = open_data(tiny(2, "train.accumulation=4").config)
    parts = build_components(config, "cpu", "float32")
    state = build(config, parts, len(data))
    state.net = Replicated(state.module.net)
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    for _ in flow_updates(state, parts, config, batches(data, seed=0, batch_size=8, accumulation=4), 2):
        pass
    assert state.net.seen == [True, True, True, False] * 2


@pytest.mark.parametrize(
    "objective", ["{name: flow, predict: v}", "{name: meanflow, predict: v, fm_ratio: 0.5}; guidance.scale=1"]
)
def test_activations_that_are_computed_again_give_the_same_gradients(objective):
    calls = []
    for name in ("none", "block"):
        training.cache_clear()
        with pytest.MonkeyPatch.context() as patch:
            forward = EncoderBlock.forward
            patch.setattr(EncoderBlock, "forward", lambda *given: (calls.append(name), forward(*given))[1])  # noqa: B023
            seen = training(4, *f"objective={objective}".split("; "), f"train.checkpointing={name}")
        if name == "none":
            wanted = seen
    assert all(
        torch.equal(one[key], other[key])
        for one, other in zip(wanted.applied, seen.applied, strict=True)
        for key in one
    )
    # Steps that differentiate in forward mode keep what they computed.
    again = calls.count("block") - calls.count("none")
    assert again == sum("dudt_norm" not in str(values) for values in seen.values)
    assert again > 0


def test_the_numbers_of_a_step_are_those_before_clipping():
    seen = training(2, "train.grad_clip=0.01")
    free = training(1, "train.grad_clip=.inf")
    norm = torch.cat([gradient.flatten() for gradient in free.applied[0].values()]).norm().item()
    assert seen.values[0]["grad_norm"].item() == pytest.approx(norm, rel=1e-5)
    # At the start the network's output is 0: the loss is the mean square of the velocity.
    data, config = open_data(tiny(1).config)
    batch = next(batches(data, seed=config.seed, batch_size=8))
    eps = PositionalNoise(config.seed, range(8), step=0).normal("noise", (3, 8, 8))
    velocity = eps - (2 * batch.image.float() / 255 - 1)
    assert seen.values[0]["loss/flow"].item() == pytest.approx(velocity.square().mean().item(), rel=1e-5)


@pytest.mark.parametrize("ramp", ["true", "false"])
def test_the_average_takes_every_step_with_its_own_decay(ramp):
    seen = training(4, f"train.ema_ramp={ramp}", "train.ema_decay=0.3", "optim.lr=0.05")
    for name, average in seen.state.ema.module.net.named_parameters():
        wanted = seen.weights[0][name]
        for step, weights in enumerate(seen.weights[1:]):
            decay = decay_at(step, 0.3, ramp == "true")
            wanted = decay * wanted + (1 - decay) * weights[name]
        torch.testing.assert_close(average, wanted, rtol=1e-4, atol=1e-6)


def test_an_extra_loss_trains_what_it_measures_by_its_weight(monkeypatch):
    register(monkeypatch)
    free = "train.grad_clip=.inf"
    # At the start the output map hides the encoder from the objective, so its gradient is the extra loss's.
    off, one, three = (training(1, free, f"losses={{encoded: {{weight: {weight}}}}}") for weight in (0, 1, 3))
    alone = training(1, free)
    for name, gradient in alone.applied[0].items():
        torch.testing.assert_close(off.applied[0][name], gradient)
    names = [name for name in alone.applied[0] if name.startswith("encoder.0.") and "norm" not in name]
    assert names
    for name in names:
        assert one.applied[0][name].abs().max() > 0
        torch.testing.assert_close(three.applied[0][name], 3 * one.applied[0][name], rtol=1e-4, atol=1e-7)


def test_the_rates_are_those_of_the_schedule():
    overrides = ("optim.warmup=2 steps", "optim.decay_start=3 steps", "optim.decay_end=5 steps")
    seen = training(6, *overrides, "optim.final_factor=0.2", "optim.lr=1e-3")
    assert seen.rates == [seen.state.schedule(step) for step in range(6)]
    assert seen.rates[0] == pytest.approx(5e-4)
    assert seen.rates[2] == pytest.approx(1e-3)
    assert seen.rates[4] == pytest.approx(6e-4)
    assert seen.rates[5] == pytest.approx(2e-4)


@pytest.mark.parametrize("seed", [3, 4])
def test_a_run_reads_the_data_in_the_order_of_its_seed(tmp_path, seed):
    seen: list[int] = []

    def note(self: ClassConditioner, labels, captions):
        seen.extend(labels.tolist() if isinstance(labels, torch.Tensor) else [])
        return told(self, labels, captions)

    told = ClassConditioner.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClassConditioner, "__call__", note)
        train(tiny(3, f"seed={seed}"), tmp_path / "run", "cpu", ["test"])
    data = open_data(tiny(3).config)[0]
    order = Order(size=len(data), seed=seed, batch_size=8)
    assert seen == [data[index].label for step in range(3) for index in order.global_batch(step)]
