"""Training and sampling under observation: what a config's values do where they act."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache

import pytest
import torch
from tiny import tiny
from torch import Tensor, nn

from nanogen.build import Components, build_components
from nanogen.config import Config
from nanogen.data.order import batches
from nanogen.latents.pixel import Pixel
from nanogen.losses import LOSSES, LossOptions, LossSpec
from nanogen.losses.loss import ExtraLoss
from nanogen.objectives import OBJECTIVES, FlowOptions, ObjectiveSpec
from nanogen.objectives.flow import Flow
from nanogen.objectives.objective import Pass
from nanogen.optimizers import OPTIMIZERS, OptimizerSpec
from nanogen.optimizers.adamw import adamw
from nanogen.pipeline import ImagePipeline
from nanogen.settings import OptimConfig
from nanogen.state import TrainState
from nanogen.train import build, flow_updates, open_data, training_source


class Other(Flow):
    """An objective under another name."""


class Encoded(ExtraLoss):
    """An extra loss: the mean square of the encoder's features."""

    taps = ("encoder",)

    def forward(self, p: Pass) -> dict[str, Tensor]:
        return {"encoded": p.features["encoder"].square().flatten(1).mean(1)}


class Projected(ExtraLoss):
    """An extra loss with a projection that it trains and a frozen network that it compares with."""

    taps = ("encoder",)
    digest = "5" * 64

    def __init__(self, options: LossOptions, components: Components) -> None:
        super().__init__(options, components)
        width = components.derived.shape.encoder_hidden_size
        self.projection = nn.Linear(width, 3)
        self.teacher = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).requires_grad_(False).eval()

    def forward(self, p: Pass) -> dict[str, Tensor]:
        wanted = self.teacher(p.x).mean((2, 3))[:, None]
        return {"projected": (self.projection(p.features["encoder"]) - wanted).square().flatten(1).mean(1)}


def momentum(parameters: Mapping[str, nn.Parameter], optim: OptimConfig) -> list[torch.optim.Optimizer]:
    """SGD with momentum for matrices, AdamW for the rest."""
    matrices = {name: weight for name, weight in parameters.items() if weight.ndim >= 2}
    rest = {name: weight for name, weight in parameters.items() if weight.ndim < 2}
    sgd = torch.optim.SGD([{"params": list(matrices.values()), "lr_scale": 3.0}], lr=0.0, momentum=0.9, fused=True)
    return [sgd, *adamw(rest, optim)]


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add an objective `other`, extra losses `encoded` and `projected`, and an optimizer `momentum` for one test."""
    other = ObjectiveSpec(title="flow again", options=FlowOptions, load="watch:Other")
    encoded = LossSpec(title="mean square of the encoder's features", options=LossOptions, load="watch:Encoded")
    monkeypatch.setitem(OBJECTIVES._rows, "other", other)
    monkeypatch.setitem(LOSSES._rows, "encoded", encoded)
    projected = LossSpec(title="distance of projected features", options=LossOptions, load="watch:Projected")
    monkeypatch.setitem(LOSSES._rows, "projected", projected)
    two = OptimizerSpec(title="SGD for matrices, AdamW for the rest", load="watch:momentum")
    monkeypatch.setitem(OPTIMIZERS._rows, "momentum", two)


@dataclass
class Training:
    """Some updates as they were made.

    Attributes:
        calls: (z, t, condition) of every call of the network.
        rates: learning rate of each update.
        applied: the gradient that each update used, after clipping, by parameter.
        weights: copies before the first update and after each.
        values: what the loop told of each update.
    """

    config: Config
    parts: Components
    state: TrainState
    calls: list[tuple] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    applied: list[dict[str, Tensor]] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)
    values: list[dict[str, Tensor]] = field(default_factory=list)


def copied(net: nn.Module) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in net.named_parameters()}


@cache
def training(steps: int, *overrides: str) -> Training:
    """Make updates of a tiny network on the digits; equal requests share what was seen."""
    data, config = open_data(tiny(steps, *overrides).config)
    parts = build_components(config, "cpu", "float32")
    state = build(config, parts, len(data))
    seen = Training(config, parts, state)
    state.module.net.register_forward_pre_hook(lambda module, given: seen.calls.append(given))

    def note(optimizer: torch.optim.Optimizer, *given: object) -> None:
        seen.rates.append(optimizer.param_groups[0]["lr"])
        seen.applied.append({name: weight.grad.clone() for name, weight in state.module.net.named_parameters()})

    state.updater.optimizers[0].register_step_pre_hook(note)
    seen.weights.append(copied(state.module.net))
    loader = batches(
        training_source(data, config, parts),
        seed=config.seed,
        batch_size=config.train.batch_size,
        accumulation=config.train.accumulation,
    )
    for values in flow_updates(state, parts, config, loader, steps):
        seen.values.append(values)
        seen.weights.append(copied(state.module.net))
    return seen


@dataclass
class Sampling:
    """Images as they were made; the velocity is 1 for what was asked for and 0 for the null condition, early 1 less.

    Attributes:
        nets: the networks that made them.
        times: when the conditional velocity was asked for.
        drift: how far a state went from noise to data, for each batch.
        noise: where it began, for each batch.
        labels: what each batch was asked to show.
    """

    nets: list[nn.Module] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    drift: list[float] = field(default_factory=list)
    noise: list[Tensor] = field(default_factory=list)
    labels: list[list[int]] = field(default_factory=list)


@contextmanager
def sampling() -> Iterator[Sampling]:
    """Watch every image that is made inside, with whatever command."""
    seen = Sampling()
    call: Callable = ImagePipeline.__call__
    making: list[ImagePipeline] = []

    def velocity(self: Flow, net: nn.Module, z: Tensor, t: float, r: float, condition) -> Tensor:
        told = condition.labels < condition.num_classes
        # Images without condition may follow in the same batch; a loss by time makes no images.
        if told[0] and making:
            seen.times.append(t)
            if t == 1:
                seen.noise.append(z[told].clone())
        return torch.ones_like(z) * told[:, None, None, None]

    def velocities(self: Flow, net: nn.Module, z: Tensor, t: float, r: float, condition) -> tuple[Tensor, Tensor]:
        v = velocity(self, net, z, t, r, condition)
        return v, v - 1

    def decode(self: Pixel, latents: Tensor) -> Tensor:
        seen.drift.append((seen.noise[-1] - latents).mean().item())
        return (latents + 1) / 2

    def make(self: ImagePipeline, condition, noise):
        seen.nets.append(self.net)
        seen.labels.append(condition.labels.tolist())
        making.append(self)
        try:
            return call(self, condition, noise)
        finally:
            making.pop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Flow, "velocity", velocity)
        patch.setattr(Flow, "velocities", velocities)
        patch.setattr(Pixel, "decode", decode)
        patch.setattr(ImagePipeline, "__call__", make)
        yield seen
