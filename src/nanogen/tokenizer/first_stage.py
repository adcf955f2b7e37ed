"""The first stage: an autoencoder, trained by the loop of `nanogen.train` with its average, log and checkpoints.

A discriminator is a second training beside it, by the same loop: an update of its own after each of the network's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diffusionbench.errors import CheckpointError
from diffusionbench.writing import make_folder, write_atomic
from nanogen import checkpoint, parallel
from nanogen.data import Batch
from nanogen.lock import locked
from nanogen.outputs import Outputs, Periods
from nanogen.rng import PositionalNoise
from nanogen.run import CHECKPOINTS
from nanogen.state import Optimizers, Trained, TrainState
from nanogen.stop import Stop
from nanogen.train import updates, write_steps

Loss = Callable[[Callable[..., Any], Batch, PositionalNoise], dict[str, Tensor]]
# What a folder says of its training: a JSON object.
RECIPE = "recipe.json"


@dataclass(frozen=True)
class Critic:
    """A discriminator that learns beside a network.

    Attributes:
        net: on its device.
        loss: as in `FirstStage`, on the batch of the step.
        start: first step in which it learns.
        optimizers, schedule: its own; the schedule counts its own updates.
    """

    net: nn.Module
    loss: Loss
    start: int
    optimizers: Optimizers
    schedule: Callable[[int], float]


@dataclass(frozen=True)
class FirstStage:
    """A training of an autoencoder.

    Attributes:
        name: of its recipe; a folder continues under the same one alone.
        facts: what the folder says of it, JSON.
        net: the autoencoder, on its device.
        loss: maps the network as it is to be called, a micro-batch and its noise to weighted terms, float32 [B].
        loader: returns the micro-batches from a step on.
        optimizers: maps trainable parameters by name to optimizers.
        schedule: maps finished updates to the learning rate of the next one.
        last: updates of the whole training.
        periods: how often it writes.
        seed: of the noise.
        ema_decay, ema_ramp, grad_clip: as in a config.
        critic: its discriminator, or None.
        evaluate: what is measured of the averaged network, for the folder and the log, and every how many updates.
    """

    name: str
    facts: dict[str, Any]
    net: nn.Module
    loss: Loss
    loader: Callable[[int], Iterator[Batch]]
    optimizers: Optimizers
    schedule: Callable[[int], float]
    last: int
    periods: Periods
    seed: int
    ema_decay: float
    ema_ramp: bool
    grad_clip: float
    critic: Critic | None
    evaluate: Callable[[nn.Module, Path, int], dict[str, float]]
    evaluate_every: int | None


def train_tokenizer(folder: Path, stage: FirstStage) -> TrainState:
    """Train, or continue from the newest intact checkpoint of a folder; every process calls it.

    Raises:
        CheckpointError: if the folder is in use, cannot be written or belongs to another recipe.
        NonFiniteLoss: if training diverges; the last checkpoint is intact.
        Stopped: by a signal; what was trained is in a checkpoint.
    """
    with Stop() as stop, ExitStack() as held:
        with parallel.agreed():
            if parallel.is_main():
                hold(folder, stage, held)
        state = TrainState.begin(
            Trained(stage.net),
            stage.optimizers,
            stage.schedule,
            ema_decay=stage.ema_decay,
            ema_ramp=stage.ema_ramp,
            grad_clip=stage.grad_clip,
        )
        if stage.critic is not None:
            state.critic_start = stage.critic.start
            state.critic = TrainState.begin(
                *(Trained(stage.critic.net), stage.critic.optimizers, stage.critic.schedule),
                ema_decay=0.0,
                grad_clip=stage.grad_clip,
            )
        checkpoint.resume(folder / CHECKPOINTS, state)
        outputs = held.enter_context(StageOutputs(folder, state, stage))
        outputs.catch_up()
        write_steps(steps_of(state, stage), outputs, stop)
    return state


def steps_of(state: TrainState, stage: FirstStage) -> Iterator[dict[str, Tensor]]:
    """Make the updates of a first stage, those of its discriminator among them; see `nanogen.train.updates`."""
    seen: list[Batch] = []

    def loss(batch: Batch, noise: PositionalNoise) -> dict[str, Tensor]:
        seen[:] = [batch]
        return stage.loss(state.net, batch, noise)

    def critic_loss(batch: Batch, noise: PositionalNoise) -> dict[str, Tensor]:
        assert state.critic is not None
        assert stage.critic is not None
        state.critic.module.train()
        return stage.critic.loss(state.critic.net, batch, noise)

    made = updates(state, loss, stage.loader(state.step), stage.last, seed=stage.seed)
    if state.critic is None:
        yield from made
        return
    learned = updates(state.critic, critic_loss, iter(lambda: seen[0], None), stage.last, seed=stage.seed)
    for values in made:
        if state.step > state.critic_start:
            found = next(learned)
            values = values | {"loss/critic": found["loss/critic"], "critic_grad_norm": found["grad_norm"]}
        yield values


class StageOutputs(Outputs):
    """Measurements of the averaged network beside what `Outputs` writes."""

    def __init__(self, folder: Path, state: TrainState, stage: FirstStage) -> None:
        super().__init__(folder, state, stage.last, stage.periods, {"recipe": stage.name})
        self.stage = stage

    def after_step(self, values: Any) -> None:
        super().after_step(values)
        step, every = self.state.step, self.stage.evaluate_every
        if step == self.last or (every and step % every == 0):
            with parallel.agreed():
                if self.log is not None:
                    found = self.stage.evaluate(self.state.ema.module.net, self.folder, step)
                    self.log.write_record(step, found)


def hold(folder: Path, stage: FirstStage, held: ExitStack) -> None:
    """Make a folder and hold it against other processes, or refuse it.

    Raises:
        CheckpointError: see `train_tokenizer`.
    """
    try:
        make_folder(folder)
        held.enter_context(locked(folder))
    except OSError as error:
        raise CheckpointError(f"folder {folder} cannot be written: {error.strerror}. Choose another one.") from None
    newest, _ = checkpoint.newest(folder / CHECKPOINTS)
    found = stage.name if newest is None else checkpoint.read_header(newest.weights).get("recipe")
    if found != stage.name:
        raise CheckpointError(
            f"{folder} was trained with recipe {found}, asked: {stage.name}. Use the same, or another folder."
        )
    write_atomic(folder / RECIPE, json.dumps(stage.facts, indent=1) + "\n")
