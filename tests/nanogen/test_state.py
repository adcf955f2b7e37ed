"""What a training carries from step to step: extra losses, several optimizers, the first stage; saved and resumed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import losses as curve
from tiny import tiny
from torch import Tensor, nn
from watch import Projected, momentum, register, training

from diffusionbench.errors import CheckpointError, ConfigError
from nanogen import checkpoint, parallel
from nanogen.build import build_components
from nanogen.ema import EMA
from nanogen.latents.toy import ToyAE
from nanogen.optim import NonFiniteLoss, Updater
from nanogen.pipeline import load
from nanogen.run import read
from nanogen.state import Trained, TrainState
from nanogen.train import build, open_data, train

PROJECTED = "losses={projected: {weight: 0.5}}"
OFTEN = ("train.checkpoint_every=2 steps", "train.keep=9")


class Killed(BaseException):
    """Stands for a process that ends here."""


def die_after(monkeypatch, step: int) -> None:
    """End the process after the checkpoint of a step."""
    save = checkpoint.Saver.save

    def saved(self, state):
        save(self, state)
        if state.step == step:
            self.wait()
            raise Killed

    monkeypatch.setattr(checkpoint.Saver, "save", saved)


def run(folder: Path, steps: int, *more: str) -> dict[str, Tensor]:
    train(tiny(steps, *OFTEN, *more), folder, "cpu", ["test"])
    return load_file(folder / "checkpoints" / f"step-{steps:08d}" / "ema.safetensors")


def states_of(folder: Path, step: int, *more: str) -> TrainState:
    """The state that a checkpoint of a finished run holds."""
    data, config = open_data(tiny(step, *more).config)
    state = build(config, build_components(config, "cpu", "float32"), len(data))
    checkpoint.restore(checkpoint.Checkpoint(folder / "checkpoints" / f"step-{step:08d}", step), state)
    return state


def everything(state: TrainState) -> dict[str, Tensor]:
    found = {f"weights {name}": tensor for name, tensor in state.module.tensors().items()}
    found |= {f"average {name}": tensor for name, tensor in state.averaged().items()}
    for number, optimizer in enumerate(state.updater.optimizers):
        for place, values in enumerate(optimizer.state.values()):
            found |= {f"state {number} {place} {key}": value for key, value in values.items()}
    return found


OPTIMIZERS = [(f"optim.name={name}",) for name in ("momentum", "muon", "gram-muon")]


@pytest.mark.parametrize("more", [(), (PROJECTED,), *OPTIMIZERS, (PROJECTED, "optim.name=momentum")])
def test_a_killed_run_goes_on_bit_for_bit(more, tmp_path, monkeypatch):
    register(monkeypatch)
    whole = run(tmp_path / "whole", 4, *more)
    with monkeypatch.context() as patch:
        die_after(patch, 2)
        with pytest.raises(Killed):
            run(tmp_path / "killed", 4, *more)
    again = run(tmp_path / "killed", 4, *more)
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    wanted, found = (everything(states_of(tmp_path / name, 4, *more)) for name in ("whole", "killed"))
    assert wanted.keys() == found.keys()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert curve(tmp_path / "whole") == curve(tmp_path / "killed")


def test_what_an_extra_loss_trains_is_saved_and_averaged_and_its_frozen_network_is_not(tmp_path, monkeypatch):
    register(monkeypatch)
    more = (PROJECTED, "optim.lr=0.01", "train.ema_decay=0.5", "train.ema_ramp=false")
    stored = run(tmp_path / "run", 2, *more)
    own = sorted(name for name in stored if name.startswith("losses."))
    assert own == ["losses.projected.projection.bias", "losses.projected.projection.weight"]
    assert stored.keys() - set(own) == run(tmp_path / "plain", 2).keys()
    state = states_of(tmp_path / "run", 2, *more)
    raw = state.module.tensors()
    for name in (own[1], "final.linear.weight"):
        assert torch.equal(stored[name], state.averaged()[name])
        assert not torch.equal(stored[name], raw[name])
    seen = training(2, *more)
    wanted = seen.state.module.losses["projected"].projection.weight
    torch.testing.assert_close(raw[own[1]], wanted)


def test_the_average_follows_the_weights_of_extra_losses(monkeypatch):
    register(monkeypatch)
    state = training(0, PROJECTED, "train.ema_decay=0.75", "train.ema_ramp=false").state
    training.cache_clear()
    average, weights = (one.losses["projected"] for one in (state.ema.module, state.module))
    before = weights.projection.weight.detach().clone()
    with torch.no_grad():
        weights.projection.weight += 1
    state.ema.update(0)
    torch.testing.assert_close(average.projection.weight, before + 0.25)
    # Frozen networks are large.
    assert average.teacher[0].weight.data_ptr() == weights.teacher[0].weight.data_ptr()


def test_a_frozen_network_keeps_its_number_type():
    net = nn.Sequential(nn.Linear(2, 2).bfloat16(), nn.Linear(2, 2).bfloat16().requires_grad_(False))
    average = EMA(net, 0.5, ramp=False).module
    assert [weight.dtype for weight in net.parameters()] == 4 * [torch.bfloat16]
    assert [weight.dtype for weight in average.parameters()] == 2 * [torch.float32] + 2 * [torch.bfloat16]


def test_a_parameter_without_a_gradient_is_named_where_processes_share_them(monkeypatch):
    register(monkeypatch)
    training.cache_clear()
    state = training(0, PROJECTED).state
    training.cache_clear()
    state.check_gradients()
    for weight in state.module.net.parameters():
        weight.grad = torch.zeros_like(weight)
    monkeypatch.setattr(parallel, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match=r"step 0 gave none to losses\.projected\.projection\.weight, .*Freeze"):
        state.check_gradients()


def test_sampling_leaves_extra_losses_out(tmp_path, monkeypatch):
    register(monkeypatch)
    run(tmp_path / "run", 2, PROJECTED)
    loaded = load(tmp_path / "run" / "checkpoints" / "step-00000002" / "ema.safetensors", None, "cpu", "float32")
    assert not [name for name, _ in loaded.net.named_parameters() if "losses" in name]


def test_a_run_keeps_the_frozen_networks_of_its_losses(tmp_path, monkeypatch):
    register(monkeypatch)
    both = "losses={encoded: {weight: 1}, projected: {weight: 0.5}}"
    run(tmp_path / "run", 2, both)
    assert read(tmp_path / "run").facts["losses_digest"] == {"projected": "5" * 64}
    header = checkpoint.read_header(tmp_path / "run" / "checkpoints" / "step-00000002" / "ema.safetensors")
    assert json.loads(header["run"])["losses_digest"] == {"projected": "5" * 64}
    monkeypatch.setattr(Projected, "digest", "6" * 64)
    with pytest.raises(CheckpointError, match=r"trained with losses digest .*55.*, found .*66.*Restore it, or use"):
        run(tmp_path / "run", 2, both)


def test_a_run_keeps_the_weights_of_its_latent_space(tmp_path, monkeypatch):
    latent = ("latent.name=toy-ae", "data.image_size=32")
    run(tmp_path / "run", 2, *latent)
    weights = tmp_path / "run" / "checkpoints" / "step-00000002" / "ema.safetensors"
    assert checkpoint.read_header(weights)["latent_digest"] == read(tmp_path / "run").facts["latent_digest"] != ""
    begin = ToyAE.__init__

    def other(self, spec, device):
        begin(self, spec, device)
        self.digest = "7" * 64

    monkeypatch.setattr(ToyAE, "__init__", other)
    with pytest.raises(CheckpointError, match=r"trained with latent digest .*, found 777"):
        run(tmp_path / "run", 2, *latent)
    with pytest.raises(CheckpointError, match=r"latent space 'toy-ae' with weights .*, found 777.*Restore those"):
        load(weights, None, "cpu", "float32")


@pytest.mark.parametrize("optimizer", ["adamw", "momentum"])
@pytest.mark.parametrize("clip", [0.25, math.inf])
def test_the_gradient_of_everything_is_clipped_together(clip, optimizer, monkeypatch):
    register(monkeypatch)
    training.cache_clear()
    state = training(
        0, PROJECTED, f"optim.name={optimizer}", f"train.grad_clip={clip if clip < math.inf else '.inf'}"
    ).state
    training.cache_clear()
    for weight in state.module.parameters_by_name().values():
        weight.grad = torch.ones_like(weight)
    weights = list(state.module.parameters_by_name().values())
    free = math.sqrt(sum(weight.numel() for weight in weights))
    used = []
    state.updater.optimizers[0].register_step_pre_hook(
        lambda *given: used.append(math.sqrt(sum(weight.grad.square().sum().item() for weight in weights)))
    )
    norm = state.updater.step(0, 0.0, {})
    assert norm.item() == pytest.approx(free, rel=1e-5)
    assert used == [pytest.approx(min(clip, free), rel=1e-4)]


def test_a_second_optimizer_has_its_own_parameters_and_rate(monkeypatch):
    register(monkeypatch)
    training.cache_clear()
    seen = training(2, "optim.name=momentum", "optim.lr=1e-3")
    training.cache_clear()
    sgd, rest = seen.state.updater.optimizers
    assert min(weight.ndim for weight in sgd.param_groups[0]["params"]) == 2
    assert max(weight.ndim for weight in rest.param_groups[0]["params"]) == 1
    name, (first, second) = "final.linear.weight", seen.applied
    change = seen.weights[2][name] - seen.weights[1][name]
    torch.testing.assert_close(change, -seen.rates[1] * (0.9 * first[name] + second[name]), rtol=1e-3, atol=1e-8)
    assert seen.rates[1] == pytest.approx(3 * seen.state.schedule(1))


def test_a_refused_update_moves_no_optimizer():
    net = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3))
    updater = Updater(momentum(dict(net.named_parameters()), tiny(1).config.optim), 1.0, stop=True)
    for weight in net.parameters():
        weight.grad = torch.ones_like(weight)
    updater.step(0, 0.1, {})
    before = [weight.detach().clone() for weight in net.parameters()]
    for weight in net.parameters():
        weight.grad = torch.full_like(weight, math.nan)
    with pytest.raises(NonFiniteLoss):
        updater.step(1, 0.1, {})
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_an_optimizer_that_cannot_skip_is_refused():
    with pytest.raises(ConfigError, match="SGD takes no `found_inf`"):
        Updater([torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)], 1.0, stop=True)


def test_names_in_a_checkpoint_are_the_networks_own():
    net = nn.Linear(2, 2)
    assert [*Trained(net).tensors()] == ["weight", "bias"]
    named = Trained(net, {"own": nn.Linear(2, 1)}).parameters_by_name()
    assert [*named] == ["weight", "bias", "losses.own.weight", "losses.own.bias"]
