"""The training loop, top to bottom: one image's way from the data to the loss, and what happens between steps.

Everything random is a function of (seed, step, position in the global batch), so that a run that was killed and
started again, or cut over other processes, trains the same network; evaluating or sampling draws from other streams.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusionbench.errors import ConfigError
from nanogen import checkpoint, distributed, evaluate, precision
from nanogen.conditions import CONDITIONS
from nanogen.config import Composition, Config
from nanogen.data import Batch, Dataset
from nanogen.data.corrupt import Tally
from nanogen.data.memory import Gathers, keep_latents
from nanogen.data.opening import open_dataset
from nanogen.data.order import batches, in_order, steps_per_epoch
from nanogen.duration import due, to_steps
from nanogen.ema import EMA
from nanogen.log import Log, say
from nanogen.losses import LOSSES
from nanogen.model.dit import DDT
from nanogen.optim import NonFiniteLoss, Schedule, Updater, adamw
from nanogen.progress import Progress
from nanogen.rng import Draws, generator
from nanogen.run import Run, describe, open_run
from nanogen.sample import Parts, build_parts

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
    """The training data, and the config with what is counted in it.

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
    settings = CONDITIONS.load(config.condition.kind).fit(config.condition.model_dump(), data)
    return data, config.model_copy(update={"condition": config.condition.model_copy(update=settings)})


def training_source(data: Dataset, config: Config, parts: Parts) -> Dataset | Gathers:
    """What the loop reads: the data, or its latents in memory where the config allows it and it saves work.

    It does where the run is longer than one pass, by the config alone: a run that continues decides the same.

    Raises:
        DataError: if an image cannot be read; it is named.
    """
    steps = to_steps(config.train.duration, config.train.batch_size, len(data)) or 0
    size = 4 * len(data) * math.prod(parts.derived.shape.latent_shape)
    again = steps * config.train.batch_size > len(data)
    if size > config.latent.memory * 2**20 or not again or config.losses or config.data.corrupt == "skip":
        return data
    if distributed.is_main():
        say(f"making the latents of {len(data):,} images once, {size / 2**20:.0f} MiB (latent.memory)")
    return keep_latents(
        data,
        in_order(data, max(1, CHUNK_PIXELS // config.data.image_size**2), config.data.workers),
        lambda batch: latents_of(batch, parts),
    )


@torch.no_grad()
def latents_of(batch: Batch, parts: Parts) -> Tensor:
    """The latents of a batch, float32 [B, C, h, w] on the device: kept, or encoded now."""
    if batch.image is None:
        assert batch.latent is not None
        return batch.latent.to(parts.device, non_blocking=True)
    return parts.latent.encode(batch.image.to(parts.device, non_blocking=True).float() / 255)


def build(config: Config, parts: Parts, num_images: int) -> Trainee:
    """The network with its initial weights, which depend on the seed only, and its optimizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(config.seed, "weights").initial_seed())
        model = DDT(parts.derived.shape).to(parts.device)
    if config.train.compile:
        model.compile_blocks()

    def steps(point: str) -> int:
        whole = to_steps(config.train.duration, config.train.batch_size, num_images)
        return to_steps(point, config.train.batch_size, num_images, whole) or 0

    optim = config.optim
    return Trainee(
        model=model,
        net=distributed.wrap(model, parts.device),
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
    trainee: Trainee, parts: Parts, config: Config, loader: Iterator[Batch], last: int, mark: Mark = lambda part: None
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
    kinds = {name: LOSSES.load(name) for name in config.losses}
    extras = {name: kind(kind.Options.model_validate(config.losses[name])) for name, kind in kinds.items()}
    weights = {name: float(options["weight"]) for name, options in config.losses.items()}
    while trainee.updates < last:
        step = trainee.updates
        means: dict[str, Tensor] = {}
        for micro in range(accumulation):
            batch = next(loader)
            draws = Draws(config.seed, [(step, position) for position in batch.positions], parts.device)
            mark("data")
            x = latents_of(batch, parts)  # [B, C, h, w]
            condition = parts.conditioner(batch.label, batch.caption)
            condition = condition.dropped(draws.uniform("drop") < config.condition.drop_prob)
            mark("encode")
            with precision.autocast(parts.precision, parts.device):
                loss = parts.objective.loss(trainee.net, x, condition, draws)
                terms = dict(loss.terms)  # name -> [B]
                for name, extra in extras.items():
                    terms |= {key: weights[name] * value for key, value in extra(loss.features, batch).items()}
                total = torch.stack([term.mean() for term in terms.values()]).sum()
            mark("forward")
            with distributed.local_gradients(trainee.net, local=micro < accumulation - 1):
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


def train(composition: Composition, run_dir: Path, device: str, command: list[str]) -> Run:
    """Train, or continue, until the config's duration is reached.

    Args:
        composition: the config and the choice it was composed for.
        run_dir: the run's folder; one that exists must belong to the same config.
        device: "cpu" or "cuda:N".
        command: what the user typed, for the record.

    Raises:
        UserError: before anything is written, for whatever is wrong with the request.
        NonFiniteLoss: if training diverges; the last checkpoint is intact.
    """
    # Check everything, then make the run folder, then continue from the newest intact checkpoint.
    data, config = open_data(composition.config)
    chosen = precision.choose(config.train.precision, device)
    parts = build_parts(config, device, chosen)
    batch_size, num_images = config.train.batch_size, len(data)
    steps_per_epoch(num_images, batch_size)
    last = to_steps(config.train.duration, batch_size, num_images)
    if not last:
        raise ConfigError(f"train.duration is '{config.train.duration}', which is no step at all. Give it more.")
    if config.eval.metrics:
        evaluate.check(config, parts, data.classes)
    run = None
    facts = describe(config, composition.choice, chosen, data.digest, parts.conditioner.digest, device, command)
    # Weights, two moments and two copies of the average, in float32.
    needed = 5 * 4 * parts.derived.shape.num_parameters()
    if distributed.is_main():
        run = open_run(run_dir, config, facts, needed)
    distributed.barrier()
    run = run or open_run(run_dir, config, facts, needed)
    if run.facts["precision"] != chosen:
        parts = build_parts(config, device, run.facts["precision"])
    trainee = build(config, parts, num_images)
    newest, damaged = checkpoint.newest(run.checkpoints)
    if newest is not None:
        checkpoint.restore(newest, trainee.model, trainee.updater.optimizer, trainee.ema.model)
        trainee.updates = newest.step
    main = distributed.is_main()
    if main:
        for problem in damaged:
            say(f"{problem}; using {newest.path.name if newest else 'no checkpoint: starting over'}")
        say(
            f"{run_dir}: {parts.derived.shape.num_parameters():,} parameters, {num_images:,} images, {last} steps of "
            f"batch {batch_size}, {parts.precision} on {device}, {distributed.world_size()} process(es)"
            + (f"; continuing after step {trainee.updates}" if trainee.updates else "")
        )

    def periods(duration: str) -> int | None:
        return to_steps(duration, batch_size, num_images)

    log_every, sample_every = periods(config.log.every), periods(config.sample.every)
    checkpoint_every, eval_every = periods(config.train.checkpoint_every), periods(config.eval.every)
    asks = parts.conditioner.examples(data, config.sample.num)
    loader = batches(
        training_source(data, config, parts) if trainee.updates < last else data,
        seed=config.seed,
        batch_size=batch_size,
        first_step=trainee.updates,
        rank=distributed.rank(),
        world=distributed.world_size(),
        accumulation=config.train.accumulation,
        workers=config.data.workers,
    )
    tally = Tally(run_dir, trainee.updates) if config.data.corrupt == "skip" else None
    if tally is not None:
        loader = tally.watch(loader)
    log = Log(run_dir, config.log.sinks, trainee.updates) if main else None
    progress = Progress(trainee.updates, last) if main else None

    def save() -> None:
        header = {
            "config": json.dumps(config.model_dump(mode="json")),
            "config_hash": config.hash,
            "step": str(trainee.updates),
            "commit": str(run.facts["commit"]),
            "precision": parts.precision,
            "condition_digest": parts.conditioner.digest,
            "ema_decay": str(config.train.ema_decay),
        }
        checkpoint.save(
            run.checkpoints,
            trainee.updates,
            trainee.model,
            trainee.updater.optimizer,
            trainee.ema.model,
            header,
            config.train.keep,
        )

    def score() -> None:
        if not config.eval.metrics:
            return
        record = evaluate.evaluate(trainee.ema.model, parts, config, run, trainee.updates)
        if log is not None and record is not None:
            log.write(trainee.updates, {f"eval/{key}": value.value for key, value in record.values.items()})

    started, since = time.perf_counter(), trainee.updates
    try:
        for values in updates(trainee, parts, config, loader, last):
            step = trainee.updates
            logging, saving = (due(step, every) or step == last for every in (log_every, checkpoint_every))
            # Also with each checkpoint: a run that continues from it knows what it met before.
            corrupt = {"corrupt": tally.collect(step)} if tally is not None and (logging or saving) else {}
            if logging:
                numbers = {name: distributed.all_mean(value).item() for name, value in values.items()}
                now = time.perf_counter()
                numbers["lr"] = trainee.schedule(step - 1)
                numbers["skipped"] = trainee.updater.skipped.item()
                numbers |= corrupt
                numbers["images_per_second"] = (step - since) * batch_size / (now - started)
                started, since = now, step
                if log is not None and progress is not None:
                    log.write(step, numbers)
                    progress.show(step, numbers)
                    for note in parts.conditioner.notes():
                        say(note)
            if saving:
                trainee.updater.check()
                save()
            if step < last and due(step, sample_every):
                evaluate.sample_grid(trainee.ema.model, parts, config, run, step, asks)
            if step < last and due(step, eval_every):
                score()
        # Outside the loop, so that a run that was killed here ends complete too.
        if not evaluate.grid_path(run_dir, last).exists():
            evaluate.sample_grid(trainee.ema.model, parts, config, run, last, asks)
        if not evaluate.record_path(run_dir, last, config).exists():
            score()
    except NonFiniteLoss as error:
        newest, _ = checkpoint.newest(run.checkpoints)
        kept = f"Last good checkpoint: step {newest.step}." if newest else "There is no checkpoint yet."
        raise NonFiniteLoss(f"{error} {kept}") from None
    finally:
        if progress is not None:
            progress.close()
        if log is not None:
            log.close()
        if tally is not None:
            tally.close()
    return run
