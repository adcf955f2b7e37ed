"""All that training changes: weights, their average, optimizers, the number of finished updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffusionbench.errors import ConfigError
from diffusionbench.shown import few
from nanogen import parallel
from nanogen.ema import EMA
from nanogen.optim import Updater

Optimizers = Callable[[Mapping[str, nn.Parameter]], list[torch.optim.Optimizer]]


class Trained(nn.Module):
    """Modules that one training trains together; a forward pass is the network's.

    Attributes:
        net: the network.
        losses: modules of extra losses by name, whose trainable parameters learn with the network.
    """

    def __init__(self, net: nn.Module, losses: Mapping[str, nn.Module] | None = None) -> None:
        super().__init__()
        self.net = net
        self.losses = nn.ModuleDict(losses)

    def forward(self, *given: Any, **named: Any) -> Any:
        return self.net(*given, **named)

    def parameters_by_name(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters: the network's by their own names, the others as "losses.NAME...."."""
        named = self.named_parameters()
        return {stored_name(name): weight for name, weight in named if weight.requires_grad}

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a checkpoint holds of this module, by name: its state without frozen networks."""
        weights = {f"{name}.": list(child.parameters()) for name, child in self.named_modules()}
        frozen = [name for name, some in weights.items() if some and not any(weight.requires_grad for weight in some)]
        state = self.state_dict()
        return {stored_name(name): state[name] for name in state if not name.startswith(tuple(frozen))}


def stored_name(name: str) -> str:
    """Return the name in checkpoints of a tensor of `Trained`."""
    return name.removeprefix("net.")


@dataclass
class TrainState:
    """One training at some step.

    Attributes:
        net: `module`, wrapped where several processes share the work; called as the network.
        ema: average of the modules.
        schedule: maps finished updates to the learning rate of the next one.
        step: finished updates.
        critic: another training beside this one, of a discriminator, which is kept in the same checkpoints.
        critic_start: step of this training after which that one makes its first update; then both keep pace.
    """

    module: Trained
    net: nn.Module
    ema: EMA[Trained]
    updater: Updater
    schedule: Callable[[int], float]
    step: int = 0
    critic: TrainState | None = None
    critic_start: int = 0

    def at(self, step: int) -> None:
        """Count `step` updates as finished."""
        self.step = step
        if self.critic is not None:
            self.critic.step = max(0, step - self.critic_start)

    @classmethod
    def begin(
        cls,
        module: Trained,
        optimizers: Optimizers,
        schedule: Callable[[int], float],
        *,
        ema_decay: float,
        ema_ramp: bool = False,
        grad_clip: float = 1.0,
        nonfinite: str = "stop",
        sharing: parallel.Sharing | None = None,
    ) -> TrainState:
        """Return the state before the first update; every process calls it, with the module on its device."""
        average = EMA(module, ema_decay, ema_ramp)
        net = parallel.wrap(module, sharing)
        average.cut(module)
        return cls(
            module=module,
            net=net,
            ema=average,
            updater=Updater(optimizers(module.parameters_by_name()), grad_clip, stop=nonfinite == "stop"),
            schedule=schedule,
        )

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def check_gradients(self) -> None:
        """Refuse what several processes cannot share: they wait for a gradient of each trainable parameter."""
        if parallel.world_size() > 1 and any(weight.grad is None for weight in self.updater.parameters):
            idle = [name for name, weight in self.module.parameters_by_name().items() if weight.grad is None]
            raise ConfigError(
                f"several processes need a gradient of each trainable parameter, and step {self.step} gave none to "
                f"{few(idle)}. Freeze them (requires_grad_(False)), let a term depend on them, or use one process."
            )

    def average_net(self) -> nn.Module:
        """Return the averaged network, whole; every process calls it."""
        return parallel.whole_copy(self.ema.module.net)

    def averaged(self) -> dict[str, Tensor]:
        """Return the average by the names of a checkpoint."""
        state = {stored_name(name): tensor for name, tensor in self.ema.module.state_dict().items()}
        return {name: state[name] for name in self.module.tensors()}
