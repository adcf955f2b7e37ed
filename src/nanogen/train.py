"""The training loop, top to bottom: one image's way from the data to the loss, and what happens between steps.

Everything random is a function of (seed, step, position in the global batch), so that a run that was killed and
started again, or cut over other processes, trains the same network; evaluating or sampling draws from other streams.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from diffusionbench.errors import ConfigError, Stopped
from nanogen import checkpoint, evaluate, parallel, precision
from nanogen.build import Components, build_components, build_losses, build_network
from nanogen.conditions import CONDITIONS
from nanogen.config import ComposedConfig, Config
from nanogen.data import Batch, Dataset
from nanogen.data.corrupt import CorruptLog
from nanogen.data.memory import SupportsBatches, cache_latents
from nanogen.data.opening import open_dataset
from nanogen.data.order import Order, batches, in_order
from nanogen.ema import EMA
from nanogen.log import say
from nanogen.losses.base import weighted_terms
from nanogen.model.dit import DDT
from nanogen.optim import NonFiniteLoss, Schedule, Updater, adamw
from nanogen.outputs import Outputs
from nanogen.rng import PositionalNoise, initial_seed
from nanogen.run import Run, check_data, describe, open_run
from nanogen.settings import to_steps
from nanogen.stop import Stop

Mark = Callable[[str], None]
# Pixels that are encoded together where latents are made beforehand.
CHUNK_PIXELS = 2**19


@dataclass
class Trainee:
    """All that training changes, and how: the network, its average, its optimizer.

    Attributes:
        net: the network, wrapped where several processes share the work.
        updates: finished optimizer updates.
    """

    model: DDT
    net: nn.Module
    ema: EMA
    updater: Updater
    schedule: Schedule
    updates: int = 0


def open_data(config: Config) -> tuple[Dataset, Config]:
    """Return the training data, and the config with what is counted in it.

    Raises:
        DataError: if the data is missing or unreadable.
        ConfigError: if it has other classes than the config says, or lacks what the condition needs.
    """
    data = open_dataset(
        config.data.name,
        config.data.path,
        image_size=config.data.image_size,
        weights=config.data.weights,
        template=config.data.template,
        corrupt=config.data.corrupt,
    )
    settings = CONDITIONS.load(config.condition.kind).infer_from_data(config.condition.model_dump(), data)
    return data, config.model_copy(update={"condition": config.condition.model_copy(update=settings)})


def training_source(data: Dataset, config: Config, parts: Components) -> Dataset | SupportsBatches:
    """Return what the loop reads: the data, or its latents in memory where the config allows it and it saves work.

    It does where the run is longer than one pass, by the config alone: a run that continues decides the same.

    Raises:
        DataError: if an image cannot be read; it is named.
    """
    steps = to_steps(config.train.duration, config.train.batch_size, len(data)) or 0
    size = 4 * len(data) * math.prod(parts.derived.shape.latent_shape)
    again = steps * config.train.batch_size > len(data)
    if size > config.latent.cache_mb * 2**20 or not again or config.losses or config.data.corrupt == "skip":
        return data
    if parallel.is_main():
        say(f"making the latents of {len(data):,} images once, {size / 2**20:.0f} MiB (latent.cache_mb)")
    return cache_latents(
        data,
        in_order(data, max(1, CHUNK_PIXELS // config.data.image_size**2), config.data.workers),
        lambda batch: latents_of(batch, parts),
    )


@torch.no_grad()
def latents_of(batch: Batch, parts: Components) -> Tensor:
    """Return the latents of a batch, float32 [B, C, h, w] on the device: kept, or encoded now."""
    if batch.image is None:
        assert batch.latent is not None
        return batch.latent.to(parts.device, non_blocking=True)
    return parts.latent.encode(batch.image.to(parts.device, non_blocking=True).float() / 255)


def build(config: Config, parts: Components, num_images: int) -> Trainee:
    """Return the network with its initial weights, which depend on the seed only, and its optimizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(initial_seed(config.seed, "weights"))
        model = build_network(parts).to(parts.device)
    if config.train.compile:
        model.compile_blocks()

    def steps(point: str) -> int:
        whole = to_steps(config.train.duration, config.train.batch_size, num_images)
        return to_steps(point, config.train.batch_size, num_images, whole) or 0

    optim = config.optim
    return Trainee(
        model=model,
        net=parallel.wrap(model, parts.device),
        ema=EMA(model, config.train.ema_decay, config.train.ema_ramp),
        updater=Updater(
            adamw(model.parameters(), optim.betas, optim.eps, optim.weight_decay),
            config.train.grad_clip,
            stop=config.train.nonfinite == "stop",
        ),
        schedule=Schedule(
            optim.lr, steps(optim.warmup), steps(optim.decay_start), steps(optim.decay_end), optim.final_factor
        ),
    )


def updates(
    trainee: Trainee,
    parts: Components,
    config: Config,
    loader: Iterator[Batch],
    last: int,
    mark: Mark = lambda part: None,
) -> Iterator[dict[str, Tensor]]:
    """Make optimizer updates up to number `last`; after each, give its mean losses and gradient norm, on the device.

    Args:
        loader: micro-batches from the trainee's next step on.
        mark: told which part of a step has just ended, for timing.

    Raises:
        NonFiniteLoss: before any update with a non-finite loss or gradient.
        DataError: if an image cannot be read.
    """
    accumulation = config.train.accumulation
    losses = build_losses(config, parts, trainee.model)
    while trainee.updates < last:
        step = trainee.updates
        means: dict[str, Tensor] = {}
        for micro in range(accumulation):
            batch = next(loader)
            noise = PositionalNoise(config.seed, batch.positions, parts.device, step)
            mark("data")
            x = latents_of(batch, parts)  # [B, C, h, w]
            condition = parts.conditioner(batch.label, batch.caption)
            condition = condition.dropped(noise.uniform("drop") < config.condition.drop_prob)
            mark("encode")
            # The wrapped network decides in its forward pass whether its backward pass averages gradients.
            with parallel.local_gradients(trainee.net, local=micro < accumulation - 1):
                with precision.autocast(parts.precision, parts.device):
                    terms = weighted_terms(parts.objective, losses, trainee.net, x, condition, noise, batch)
                    total = torch.stack([term.mean() for term in terms.values()]).sum()
                mark("forward")
                (total / accumulation).backward()
            for name, term in terms.items():
                means[name] = means.get(name, 0) + term.detach().mean() / accumulation
            mark("backward")
        norm = trainee.updater.step(step, trainee.schedule(step), means)
        mark("optimizer")
        trainee.ema.update(step)
        trainee.updates = step + 1
        mark("ema")
        yield {**{f"loss/{name}": value for name, value in means.items()}, "grad_norm": norm}


@dataclass(frozen=True)
class Job:
    """A checked request to train.

    Attributes:
        config: with what is counted in the data.
        last: steps of the whole training.
        facts: what the run folder says about it.
    """

    data: Dataset
    config: Config
    parts: Components
    last: int
    facts: dict[str, Any]


def check(composition: ComposedConfig, device: str, command: list[str]) -> Job:
    """Check all that can be wrong with a request; nothing is written.

    Raises:
        UserError: for whatever is wrong.
    """
    data, config = open_data(composition.config)
    chosen = precision.choose(config.train.precision, device)
    parts = build_components(config, device, chosen)
    Order(
        size=len(data),
        seed=config.seed,
        batch_size=config.train.batch_size,
        world=parallel.world_size(),
        accumulation=config.train.accumulation,
    )
    last = to_steps(config.train.duration, config.train.batch_size, len(data))
    if not last:
        raise ConfigError(f"train.duration is '{config.train.duration}', which is no step at all. Give it more.")
    if config.eval.metrics:
        evaluate.check(config, parts, data.classes)
    facts = describe(config, composition.choice, chosen, data, parts.conditioner.digest, device, command)
    return Job(data, config, parts, last, facts)


def train(composition: ComposedConfig, run_dir: Path, device: str, command: list[str]) -> Run:
    """Train, or continue, until the config's duration is reached.

    Args:
        composition: the config and the choice it was composed for.
        run_dir: the run's folder; one that exists must belong to the same config.
        device: "cpu" or "cuda:N".
        command: what the user typed, for the record.

    Raises:
        UserError: before anything is written, for whatever is wrong with the request.
        NonFiniteLoss: if training diverges; the last checkpoint is intact.
        Stopped: by a signal; what was trained is in a checkpoint.
        Told: if another process of the run ends.
    """
    with Stop() as stop, ExitStack() as held:
        # Check everything, then make the run folder, then continue from the newest intact checkpoint.
        with parallel.agreed():
            job = check(composition, device, command)
        data, config, parts, last = job.data, job.config, job.parts, job.last
        # Weights, two moments and two copies of the average, in float32.
        needed = 5 * 4 * parts.derived.shape.num_parameters()
        run = parallel.from_main(lambda: open_run(run_dir, config, job.facts, needed, held))
        with parallel.agreed():
            check_data(run, job.facts)
        if run.facts["precision"] != parts.precision:
            parts = build_components(config, device, run.facts["precision"])
        trainee = build(config, parts, len(data))
        resume(run, trainee)
        if parallel.is_main():
            say(
                f"{run_dir}: {parts.derived.shape.num_parameters():,} parameters, {len(data):,} images, {last} steps "
                f"of batch {config.train.batch_size}, {parts.precision} on {device}, {parallel.world_size()} "
                f"process(es){f'; continuing after step {trainee.updates}' if trainee.updates else ''}"
            )
        with parallel.agreed():
            tally = CorruptLog(run_dir, trainee.updates) if config.data.corrupt == "skip" else None
        outputs = held.enter_context(Outputs(run, config, parts, trainee, data, last, tally, stop))
        outputs.catch_up()
        loader = batches(
            training_source(data, config, parts) if trainee.updates < last else data,
            seed=config.seed,
            batch_size=config.train.batch_size,
            first_step=trainee.updates,
            rank=parallel.rank(),
            world=parallel.world_size(),
            accumulation=config.train.accumulation,
            workers=config.data.workers,
        )
        run_steps(updates(trainee, parts, config, tally.watch(loader) if tally else loader, last), outputs, stop)
    return run


def resume(run: Run, trainee: Trainee) -> None:
    """Load the newest intact checkpoint of a run, if it has one; newer ones that are damaged are named."""
    newest, damaged = parallel.from_main(lambda: checkpoint.newest(run.checkpoints))
    if parallel.is_main():
        for problem in damaged:
            say(f"{problem}; using {newest.path.name if newest else 'no checkpoint: starting over'}")
    if newest is not None:
        with parallel.agreed():
            checkpoint.restore(newest, trainee.model, trainee.updater.optimizer, trainee.ema.model)
        trainee.updates = newest.step
        trainee.updater.skipped.fill_(float(checkpoint.read_header(newest.weights).get("skipped", 0)))


def run_steps(steps: Iterator[dict[str, Tensor]], outputs: Outputs, stop: Stop) -> None:
    """Make the updates and write what is due after each; a signal ends it with a checkpoint of the step it found.

    Raises:
        NonFiniteLoss: naming the last good checkpoint.
        Stopped: by a signal.
    """
    try:
        with stop.deferred():
            for values in steps:
                try:
                    outputs.after_step(values)
                    stop.check()
                except Stopped:
                    outputs.save()
                    raise
    except NonFiniteLoss as error:
        kept = f"Last good checkpoint: step {outputs.saved}." if outputs.saved else "There is no checkpoint yet."
        raise NonFiniteLoss(f"{error} {kept}") from None
