"""The first stage: an autoencoder, trained by the loop of `nanogen.train` with its average, log and checkpoints.

A discriminator is a second training beside it, by the same loop: an update of its own after each of the network's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusionbench.errors import CheckpointError, ConfigError
from diffusionbench.images import grid, save_png
from diffusionbench.judges.lpips import missing_weights, open_lpips
from diffusionbench.schema import digest
from diffusionbench.writing import make_folder, write_atomic
from nanogen import checkpoint, parallel, precision
from nanogen.data import Batch, Dataset
from nanogen.data.order import batches, in_order
from nanogen.lock import locked
from nanogen.log import say
from nanogen.optimizers import OPTIMIZERS
from nanogen.outputs import Outputs, Periods
from nanogen.rng import PositionalNoise, initial_seed
from nanogen.run import CHECKPOINTS, SAMPLES
from nanogen.settings import due, to_steps
from nanogen.state import Trained, TrainState
from nanogen.stop import Stop
from nanogen.tokenizer.data import Source, kept, open_sources
from nanogen.tokenizer.discriminator import Discriminator, missing_trunk, open_trunk
from nanogen.tokenizer.measure import COLUMNS, Measured
from nanogen.tokenizer.nets import Tokenizer, build_net
from nanogen.tokenizer.reconstruction import ReconstructionLoss
from nanogen.tokenizer.settings import TokenizerConfig
from nanogen.train import updates, write_steps

# What a folder says of its training: a JSON object.
RECIPE = "recipe.json"


@dataclass(frozen=True)
class Cosine:
    """Learning rate: a rise over `warmup` steps, then a cosine down to `final_factor` of it at step `last`."""

    lr: float
    warmup: int
    last: int
    final_factor: float

    def __call__(self, step: int) -> float:
        """Rate of the update that follows `step` finished updates."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = min(1.0, (step - self.warmup) / max(1, self.last - self.warmup))
        return self.lr * (self.final_factor + (1 - self.final_factor) * (1 + math.cos(math.pi * done)) / 2)


@dataclass(frozen=True)
class FirstStage:
    """A checked request to train.

    Attributes:
        config: with weight 0 for terms whose networks are absent.
        data, held_out: the images, and those that are only measured, by source.
        loss: with the network and the discriminator, on their device.
        schedule: of the network, and of the discriminator by its own updates.
        critic_start: first step in which the discriminator learns.
        facts: what the folder says of it.
    """

    config: TokenizerConfig
    data: Source
    held_out: Mapping[str, Dataset]
    loss: ReconstructionLoss
    schedule: Cosine
    critic_start: int
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        """Identity of the training: a folder continues under the same one alone."""
        settings: dict[str, Any] = self.facts["config"]
        return digest([settings | {"log": None, "eval": None}, self.facts["data"]])[:12]

    def steps(self, duration: str, whole: int | None = None) -> int | None:
        """Return a duration in steps."""
        return to_steps(duration, self.config.train.batch_size, len(self.data), whole)

    def state(self) -> TrainState:
        """Return the state before the first update; every process calls it."""
        optimizer, train = OPTIMIZERS.load(self.config.optim.name), self.config.train

        def begin(net: nn.Module, decay: float) -> TrainState:
            return TrainState.begin(
                Trained(net),
                lambda parameters: optimizer(parameters, self.config.optim),
                self.schedule,
                ema_decay=decay,
                ema_ramp=train.ema_ramp,
                grad_clip=train.grad_clip,
            )

        state = begin(self.loss.net, train.ema_decay)
        if self.loss.critic is not None:
            state.critic, state.critic_start = begin(self.loss.critic, 0.0), self.critic_start
        return state


def build_stage(config: TokenizerConfig, device: str) -> FirstStage:
    """Return the training that a config describes; nothing is written.

    Raises:
        UserError: for whatever is wrong with the request.
    """
    config = with_what_is_here(config)
    training, held_out = open_sources(config)
    data, losses, optim = kept(training, config), config.losses, config.optim

    def steps(duration: str, whole: int | None = None) -> int:
        return to_steps(duration, config.train.batch_size, len(data), whole) or 0

    last, start = steps(config.train.duration), steps(losses.critic_start)
    adversarial_start = steps(losses.adversarial_start)
    if not last or (losses.adversarial and start > adversarial_start):
        raise ConfigError(
            f"train.duration is {last} steps, losses.critic_start {start} and adversarial_start {adversarial_start}: "
            "there must be a step, and a discriminator that learns no later than it is listened to."
        )
    number = precision.choose(config.train.precision, device)
    loss = ReconstructionLoss(
        losses,
        build_net(config, data, device),
        open_lpips(device) if losses.lpips else None,
        _critic(config.seed).to(device) if losses.adversarial else None,
        adversarial_start,
        config.data.mirror,
        cast=lambda: precision.autocast(number, device),
    )
    schedule = Cosine(optim.lr, steps(optim.warmup, last), last, optim.final_factor)
    settings = config.model_dump(mode="json")
    facts = {"config": settings, "data": training.digest, "images": len(data), "precision": number}
    return FirstStage(config, data, held_out, loss, schedule, start, facts)


def with_what_is_here(config: TokenizerConfig) -> TokenizerConfig:
    """Return the config with weight 0 for the terms whose networks are absent, and say so once."""
    absent = {"lpips": missing_weights(), "adversarial": missing_trunk()}
    off = {name: reason for name, reason in absent.items() if reason and getattr(config.losses, name)}
    if off and parallel.is_main():
        say(" ".join(f"losses.{name} is 0 here: {reason}" for name, reason in off.items()))
    return config.model_copy(update={"losses": config.losses.model_copy(update=dict.fromkeys(off, 0.0))})


def _critic(seed: int) -> Discriminator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(initial_seed(seed, "critic"))
        return Discriminator(open_trunk())


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
        state = stage.state()
        checkpoint.resume(folder / CHECKPOINTS, state)
        outputs = held.enter_context(StageOutputs(folder, state, stage))
        outputs.catch_up()
        write_steps(steps_of(state, stage), outputs, stop)
    return state


def steps_of(state: TrainState, stage: FirstStage) -> Iterator[dict[str, Tensor]]:
    """Make the updates of a first stage, those of its discriminator among them; see `nanogen.train.updates`."""
    config, last, seen = stage.config, stage.schedule.last, []  # type: ignore[var-annotated]
    loader = batches(
        stage.data,
        seed=config.seed,
        batch_size=config.train.batch_size,
        first_step=state.step,
        rank=parallel.rank(),
        world=parallel.world_size(),
        workers=config.data.workers,
    )

    def loss(batch: Batch, noise: PositionalNoise) -> dict[str, Tensor]:
        seen[:] = [batch]
        return stage.loss(state.net, batch, noise)

    made = updates(state, loss, loader, last, seed=config.seed)
    if (critic := state.critic) is None:
        yield from made
        return
    learned = updates(
        critic,
        lambda batch, noise: stage.loss.of_critic(critic.net, batch, noise),
        iter(lambda: seen[0], None),
        last,
        seed=config.seed,
    )
    for values in made:
        if state.step > state.critic_start:
            found = next(learned)
            values = values | {"loss/critic": found["loss/critic"], "critic_grad_norm": found["grad_norm"]}
        yield values


class StageOutputs(Outputs):
    """Measurements of the averaged network, and pictures, beside what `Outputs` writes."""

    def __init__(self, folder: Path, state: TrainState, stage: FirstStage) -> None:
        train, log = stage.config.train, stage.config.log
        every = [stage.steps(period) for period in (log.every, train.checkpoint_every)]
        periods = Periods(train.batch_size, every[0], every[1], train.keep, sinks=log.sinks)
        super().__init__(folder, state, stage.schedule.last, periods, {"recipe": stage.name})
        self.stage, self.every = stage, stage.steps(stage.config.eval.every)
        self.measured: Measured | None = None

    def after_step(self, values: Mapping[str, Tensor]) -> None:
        super().after_step(values)
        if self.state.step == self.last or due(self.state.step, self.every):
            with parallel.patience(True), parallel.agreed():
                if self.log is not None:
                    self.log.write_record(self.state.step, self.measure())

    def measure(self) -> dict[str, float]:
        """Return metrics of the averaged network by source and name, and write pictures of the first source."""
        config, net, pictures = self.stage.config, self.state.ema.module.net, []
        assert isinstance(net, Tokenizer)
        self.measured = self.measured or Measured(config.eval.judges, str(self.state.device))
        values: dict[str, float] = {}
        for name, data in self.stage.held_out.items():
            within = range(min(len(data), config.eval.num))
            shown = in_order(data, min(64, config.train.batch_size), config.data.workers, within)
            found, rows = self.measured(lambda images: net.decode(net.encode(images)).float(), shown)
            values |= {f"{name}/{key}": value for key, value in found.items()}
            pictures.append(rows)
        facts = {"step": self.state.step, "rows": "images, each above the row of their reconstructions"}
        save_png(grid(pictures[0], COLUMNS), self.folder / SAMPLES / f"step-{self.state.step:08d}.png", facts)
        return values


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
