"""The first stage: an autoencoder, trained by the loop of `nanogen.train` with its average, log and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diffusionbench.errors import CheckpointError
from diffusionbench.writing import make_folder
from nanogen import checkpoint, parallel
from nanogen.data import Batch
from nanogen.lock import locked
from nanogen.outputs import Outputs, Periods
from nanogen.rng import PositionalNoise
from nanogen.run import CHECKPOINTS
from nanogen.state import Optimizers, Trained, TrainState
from nanogen.stop import Stop
from nanogen.train import updates, write_steps


@dataclass(frozen=True)
class FirstStage:
    """A training of an autoencoder.

    Attributes:
        name: of its recipe; a folder continues under the same one alone.
        net: the autoencoder, on its device.
        loss: maps the network as it is to be called, a micro-batch and its noise to weighted terms, float32 [B].
        loader: returns the micro-batches from a step on.
        optimizers: maps trainable parameters by name to optimizers.
        schedule: maps finished updates to the learning rate of the next one.
        last: updates of the whole training.
        periods: how often it writes.
        seed: of the noise.
        ema_decay, grad_clip: as in a config.
    """

    name: str
    net: nn.Module
    loss: Callable[[Callable[..., Any], Batch, PositionalNoise], dict[str, Tensor]]
    loader: Callable[[int], Iterator[Batch]]
    optimizers: Optimizers
    schedule: Callable[[int], float]
    last: int
    periods: Periods
    seed: int = 0
    ema_decay: float = 0.0
    grad_clip: float = 1.0


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
                hold(folder, stage.name, held)
        state = TrainState.begin(
            Trained(stage.net), stage.optimizers, stage.schedule, ema_decay=stage.ema_decay, grad_clip=stage.grad_clip
        )
        checkpoint.resume(folder / CHECKPOINTS, state)
        outputs = held.enter_context(Outputs(folder, state, stage.last, stage.periods, {"recipe": stage.name}))
        outputs.catch_up()
        loader = stage.loader(state.step)
        steps = updates(
            state, lambda batch, noise: stage.loss(state.net, batch, noise), loader, stage.last, seed=stage.seed
        )
        write_steps(steps, outputs, stop)
    return state


def hold(folder: Path, recipe: str, held: ExitStack) -> None:
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
    found = recipe if newest is None else checkpoint.read_header(newest.weights).get("recipe")
    if found != recipe:
        raise CheckpointError(
            f"{folder} was trained with recipe {found}, asked: {recipe}. Use the same, or another folder."
        )
