"""The training loop, top to bottom: one image's way from the data to the loss, and what happens between steps.

`updates` is the loop of every training here; `train` is the second stage, which gives it `flow_loss`. Everything random
is a function of (seed, step, position in the global batch), so that a run that was killed and started again, or cut
over other processes, trains the same network; evaluating or sampling draws from other streams.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusionbench.errors import ConfigError, Stopped, UserError
from nanogen import checkpoint, costs, evaluate, parallel, precision, threads
from nanogen.build import Components, build_components, build_losses, build_network
from nanogen.conditions import CONDITIONS
from nanogen.config import ComposedConfig, Config
from nanogen.data import Batch, Dataset
from nanogen.data.ahead import prepared_ahead
from nanogen.data.cached import ImageCacheManifest, StoredPictures
from nanogen.data.corrupt import CorruptLog
from nanogen.data.memory import SupportsBatches, cache_latents
from nanogen.data.opening import open_dataset
from nanogen.data.order import Draw, Order, batches, in_order
from nanogen.latents import LATENTS, Latent
from nanogen.latents.cache import Dtype, LatentCacheManifest, StoredLatents, recipe
from nanogen.log import say
from nanogen.losses.loss import weighted_terms
from nanogen.model.dit import DDT
from nanogen.moving import moved
from nanogen.objectives import OBJECTIVES
from nanogen.objectives.objective import Objective
from nanogen.optim import NonFiniteLoss, Schedule
from nanogen.optimizers import OPTIMIZERS
from nanogen.outputs import Outputs, RunOutputs
from nanogen.plan import Machine, plan
from nanogen.rng import PositionalNoise, initial_seed
from nanogen.run import Run, describe, ensure_same_data, keep_threads, open_run
from nanogen.settings import NO_STEP, to_steps
from nanogen.state import Trained, TrainState
from nanogen.stop import Stop
from nanogen.synthetic import SyntheticConditioner, SyntheticLatent, synthetic_batches
from nanogen.timeloss import NUM_IMAGES, LossByTime

Mark = Callable[[str], None]
# Maps a micro-batch of B images and its noise to terms by name, float32 [B], each with its weight; those without
# gradient are logged and no part of the loss.
StepLoss = Callable[[Batch, PositionalNoise], dict[str, Tensor]]
# Pixels that are encoded together where latents are made beforehand.
CHUNK_PIXELS = 2**19
# Length of the captions of a trial step.
TRIAL_TOKENS = 20


def no_mark(part: str) -> None:
    """Time nothing."""


def total_loss(terms: Mapping[str, Tensor]) -> Tensor:
    """Return the sum over terms of their means over the batch; those without gradient do not count."""
    return torch.stack([term.mean() for term in terms.values() if term.requires_grad]).sum()


def updates(
    state: TrainState,
    step_loss: StepLoss,
    loader: Iterator[Batch],
    last: int,
    *,
    seed: int,
    accumulation: int = 1,
    mark: Mark = no_mark,
) -> Iterator[dict[str, Tensor]]:
    """Make optimizer updates up to number `last`; after each, give its mean losses and gradient norm, on the device.

    Args:
        step_loss: calls `state.net` once with gradient.
        loader: micro-batches from the state's next step on.
        seed: of the noise.
        accumulation: micro-batches of one update in each process.
        mark: told which part of a step has just ended, for timing.

    Raises:
        NonFiniteLoss: before any update with a non-finite loss or gradient.
        ConfigError: if a trainable parameter has no gradient that several processes could share.
        DataError: if an image cannot be read.
    """
    while state.step < last:
        step = state.step
        means: dict[str, Tensor] = {}
        whole = torch.zeros((), device=state.device)
        for micro in range(accumulation):
            batch = next(loader)
            mark("data")
            noise = PositionalNoise(seed, batch.positions, state.device, step, batch.noise)
            # The wrapped network decides in its forward pass whether its backward pass averages gradients.
            with parallel.local_gradients(state.net, local=micro < accumulation - 1):
                terms = step_loss(batch, noise)
                total = total_loss(terms)
                mark("forward")
                (total / accumulation).backward()
            whole = whole + total.detach() / accumulation
            for name, term in terms.items():
                means[name] = means.get(name, 0) + term.detach().mean() / accumulation
            mark("backward")
        state.check_gradients()
        norm = state.updater.step(step, state.schedule(step), means)
        mark("optimizer")
        state.ema.update(step)
        state.step = step + 1
        mark("ema")
        yield {"loss": whole, **{f"loss/{name}": value for name, value in means.items()}, "grad_norm": norm}


def write_steps(steps: Iterator[dict[str, Tensor]], outputs: Outputs, stop: Stop) -> None:
    """Make updates and write what is due after each; a signal ends it with a checkpoint of the step it found."""
    try:
        with stop.deferred(), parallel.patience(False):
            for values in steps:
                try:
                    outputs.after_step(values)
                    stop.check()
                except Stopped:
                    outputs.save()
                    outputs.saver.wait()
                    say(f"a checkpoint of step {outputs.saver.finished()} is written")
                    raise
    except NonFiniteLoss as error:
        saved = outputs.saver.finished()
        kept = f"Last good checkpoint: step {saved}." if saved else "There is no checkpoint yet."
        raise NonFiniteLoss(f"{error} {kept}") from None


def flow_loss(state: TrainState, components: Components, config: Config, mark: Mark) -> StepLoss:
    """Return the loss of the second stage: the objective's terms and those of extra losses, over one forward pass."""
    losses: Any = dict(state.module.losses.items())

    def step_loss(batch: Batch, noise: PositionalNoise) -> dict[str, Tensor]:
        with precision.tensor_float(config.train.tf32):
            x = latents_of(batch, components)  # [B, C, h, w]
            condition = batch.condition or components.conditioner(batch.label, batch.caption)
        if config.condition.drop_prob:
            condition = condition.dropped(noise.uniform("drop") < config.condition.drop_prob)
        mark("encode")
        with precision.autocast(components.precision, components.device):
            return weighted_terms(components.objective, losses, state.net, x, condition, noise, batch)

    return step_loss


def condition_ahead(components: Components, config: Config, mark: Mark = no_mark) -> Callable[[Batch], Batch]:
    """Return what gives a batch its condition while the batch before is used; the numbers are those of `flow_loss`."""
    # On a GPU it runs beside the step, and no part of that is its time.
    timed = mark if components.device == "cpu" else no_mark

    def prepare(batch: Batch) -> Batch:
        timed("data")
        with precision.tensor_float(config.train.tf32):
            condition = components.conditioner(batch.label, batch.caption)
        timed("encode")
        return replace(batch, condition=condition)

    return prepare


def draw_ahead(objective: Objective, shape: tuple[int, ...], noise: PositionalNoise) -> None:
    """Draw all numbers of a step of the second stage, for latents (B, *shape)."""
    objective.draw(noise, shape)
    noise.uniform("drop")


def flow_updates(
    state: TrainState,
    components: Components,
    config: Config,
    loader: Iterator[Batch],
    last: int,
    mark: Mark = no_mark,
) -> Iterator[dict[str, Tensor]]:
    """Make the updates of the second stage, see `updates`."""
    step_loss, accumulation = flow_loss(state, components, config, mark), config.train.accumulation
    return updates(state, step_loss, loader, last, seed=config.seed, accumulation=accumulation, mark=mark)


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


def training_source(data: Dataset, config: Config, components: Components) -> Dataset | SupportsBatches:
    """Return what the loop reads: the data, a cache of it, or its latents in memory where allowed and of use.

    It does where the run is longer than one pass, by the config alone: a run that continues decides the same.

    Raises:
        DataError: if an image cannot be read; it is named. If the cache on disk is of something else.
        ConfigError: if there is such a cache and an extra loss, which may look at images.
    """
    objective = config.objective["name"]
    viewers = [*config.losses, *([f"of objective {objective}"] if OBJECTIVES[objective].needs_images else [])]
    if config.latent.cache is not None:
        if viewers:
            raise ConfigError(
                f"extra losses ({', '.join(viewers)}) may look at images, which latent.cache leaves out. Set "
                "latent.cache=null."
            )
        asked = recipe_of(data, config, components.latent)
        return StoredLatents(Path(config.latent.cache), data, asked)
    source: Dataset | SupportsBatches = data
    if config.data.cache is not None:
        source = StoredPictures(Path(config.data.cache), data, ImageCacheManifest.of(data, config.data.image_size))
    steps = to_steps(config.train.duration, config.train.batch_size, len(data)) or 0
    size = 4 * len(data) * math.prod(components.derived.shape.latent_shape)
    again = steps * config.train.batch_size > len(data)
    if size > config.latent.cache_mb * 2**20 or not again or viewers or config.data.corrupt == "skip":
        return source
    if parallel.is_main():
        say(f"making the latents of {len(data):,} images once, {size / 2**20:.0f} MiB (latent.cache_mb)")
    return cache_latents(
        data,
        in_order(source, max(1, CHUNK_PIXELS // config.data.image_size**2), config.data.workers),
        lambda batch: latents_of(batch, components),
    )


def micro_batches(
    source: Dataset | SupportsBatches, config: Config, first_step: int = 0, draw: Draw | None = None
) -> Iterator[Batch]:
    """Return this process's micro-batches from a step on; see `nanogen.data.order.batches`."""
    return batches(
        source,
        seed=config.seed,
        batch_size=config.train.batch_size,
        first_step=first_step,
        rank=parallel.rank(),
        world=parallel.world_size(),
        accumulation=config.train.accumulation,
        workers=config.data.workers,
        draw=draw,
    )


def recipe_of(data: Dataset, config: Config, latent: Latent, dtype: Dtype = "float16") -> LatentCacheManifest:
    """Return of what a cache of the latents of the data is made."""
    return recipe(LATENTS[config.latent.name], latent.digest, config.data.image_size, data, dtype)


@torch.no_grad()
def latents_of(batch: Batch, components: Components) -> Tensor:
    """Return the latents of a batch, float32 [B, C, h, w] on the device: kept, or encoded now."""
    if batch.image is None:
        assert batch.latent is not None
        return moved(batch.latent, components.device)
    return encoded(batch.image, components.latent, components.derived.shape.latent_shape, components.device)


@torch.no_grad()
def encoded(images: Tensor, latent: Latent, stated: tuple[int, ...], device: str) -> Tensor:
    """Return the latents of images uint8 [B, 3, H, W], float32 [B, C, h, w] on the device.

    Raises:
        ConfigError: if they are not of the stated shape (C, h, w).
    """
    latents = latent.encode(moved(images, device).float() / 255)
    if latents.shape[1:] != stated:
        raise ConfigError(
            f"the row of the latent space states latents of shape {list(stated)}, its codec made "
            f"{list(latents.shape[1:])} of images of {images.shape[-1]} px. Set data.image_size to a size of the "
            "codec, or correct channels, stride or grid of the row."
        )
    return latents


def fixed_images(source: Dataset | SupportsBatches, components: Components) -> tuple[Tensor, Batch]:
    """Return images from everywhere in the data: their latents, and the batch."""
    places = range(0, len(source), max(1, len(source) // NUM_IMAGES))[:NUM_IMAGES]
    (batch,) = in_order(source, NUM_IMAGES, within=places)
    return latents_of(batch, components), batch


def build(config: Config, components: Components, num_images: int) -> TrainState:
    """Return the state before the first update; initial weights depend on the seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(initial_seed(config.seed, "weights"))
        net = build_network(components).to(components.device)
    net.checkpointing = config.train.checkpointing == "block"
    if config.train.compile:
        net.compile_blocks()

    def steps(point: str) -> int:
        whole = to_steps(config.train.duration, config.train.batch_size, num_images)
        return to_steps(point, config.train.batch_size, num_images, whole) or 0

    optim = config.optim
    optimizer = OPTIMIZERS.load(optim.name)
    return TrainState.begin(
        Trained(net, build_losses(config, components, net)),
        lambda parameters: optimizer(parameters, optim),
        Schedule(optim.lr, steps(optim.warmup), steps(optim.decay_start), steps(optim.decay_end), optim.final_factor),
        ema_decay=config.train.ema_decay,
        ema_ramp=config.train.ema_ramp,
        grad_clip=config.train.grad_clip,
        nonfinite=config.train.nonfinite,
        sharing=sharing(config, net, components.precision),
    )


def sharing(config: Config, net: DDT, chosen: precision.Precision) -> parallel.Sharing:
    """Return how processes share a training; ConfigError if objective or optimizer needs whole weights."""
    shard, objective, optimizer = config.train.shard, config.objective["name"], config.optim.name
    needs = {
        f"objective.name={objective} differentiates in forward mode": OBJECTIVES[objective].forward_mode,
        f"optim.name={optimizer} updates whole matrices": OPTIMIZERS[optimizer].whole_matrices,
    }
    for reason, holds in needs.items():
        if holds and shard != "none":
            raise ConfigError(f"train.shard is {shard}, and {reason}. Set train.shard=none.")
    # Forward mode alternates with plain steps; and a static graph loses gradients of micro-batches that are not shared.
    static = not OBJECTIVES[objective].forward_mode and config.train.accumulation == 1
    return parallel.Sharing(shard, tuple(net.blocks), chosen == "bfloat16", static)


@dataclass(frozen=True)
class Job:
    """A checked request to train `last` steps; the config has what is counted in the data, facts are the run's."""

    data: Dataset
    config: Config
    components: Components
    state: TrainState
    last: int
    facts: dict[str, Any]


def check(composition: ComposedConfig, device: str, command: list[str]) -> Job:
    """Check all that can be wrong with a request; nothing is written; UserError for whatever is wrong."""
    data, config = open_data(composition.config)
    components = build_components(config, device, precision.choose(config.train.precision, device))
    Order(
        size=len(data),
        seed=config.seed,
        batch_size=config.train.batch_size,
        world=parallel.world_size(),
        accumulation=config.train.accumulation,
    )
    last = to_steps(config.train.duration, config.train.batch_size, len(data))
    if not last:
        raise ConfigError(NO_STEP.format(config.train.duration))
    if config.eval.metrics:
        evaluate.check(config, components, data.classes)
    state = build(config, components, len(data))
    facts = describe(config, composition.choice, data, components, state, command)
    return Job(data, config, components, state, last, facts)


def trial_step(job: Job) -> Callable[[], None]:
    """Return a function that computes the gradient of a micro-batch of random data, and forgets it."""
    shape, config = job.components.derived.shape, job.config
    latent = SyntheticLatent(job.components.derived.latent, job.components.device)
    conditioner = SyntheticConditioner(shape, TRIAL_TOKENS, job.components.device)
    components = replace(job.components, latent=latent, conditioner=conditioner)
    step_loss = flow_loss(job.state, components, config, no_mark)
    with torch.random.fork_rng(devices=[]):
        batch = next(synthetic_batches(config))

    def step() -> None:
        with torch.random.fork_rng(devices=[]):
            terms = step_loss(batch, PositionalNoise(config.seed, batch.positions, components.device))
            total_loss(terms).backward()
        job.state.module.zero_grad()

    return step


def say_plan(config: Config, num_images: int, folder: Path, seconds: float | None) -> None:
    """Say in three lines what the training will cost, and what does not fit.

    Args:
        seconds: of a trial step, where one was measured.
    """
    # Trial steps are of one kind; where steps with a derivative lie between others, they are not the mean.
    if seconds is not None:
        seconds = None if OBJECTIVES[config.objective["name"]].forward_mode else seconds * config.train.accumulation
    machine = Machine(devices=parallel.world_size(), step_seconds=seconds)
    try:
        lines = plan(config, machine, num_images=num_images, folder=folder).lines()
    except UserError as error:
        # A plan that cannot be made stops no training.
        lines = [f"no plan: {error}"]
    for line in lines:
        say(line)


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
        data, config, state, last = job.data, job.config, job.state, job.last
        size = costs.checkpoint_bytes(config, job.components.derived.shape)
        run = parallel.from_main(lambda: open_run(run_dir, config, job.facts, size, held))
        with parallel.agreed():
            ensure_same_data(run, job.facts)
        components = replace(job.components, precision=run.facts["precision"])
        checkpoint.resume(run.checkpoints, state)
        held.callback(torch.set_num_threads, torch.get_num_threads())
        kept, seconds = threads.settle(run.facts.get("threads"), state.step > 0, device, lambda: trial_step(job))
        run = keep_threads(run, kept)
        if parallel.is_main():
            parameters = sum(weight.numel() for weight in state.module.net.parameters())
            say(
                f"{run_dir}: {parameters:,} parameters, {len(data):,} images, {last} "
                f"steps of batch {config.train.batch_size}, {components.precision} on {device}, "
                f"{parallel.world_size()} process(es){f'; continuing after step {state.step}' if state.step else ''}"
            )
            say_plan(config, len(data), run_dir, seconds)
        with parallel.agreed():
            corrupt = CorruptLog(run_dir, state.step) if config.data.corrupt == "skip" else None
        source = training_source(data, config, components) if state.step < last else data
        by_time = LossByTime(components, lambda: fixed_images(source, components))
        outputs = held.enter_context(RunOutputs(run, components, state, data, last, corrupt, stop, by_time))
        outputs.catch_up()
        draw = partial(draw_ahead, components.objective, components.derived.shape.latent_shape)
        left = (last - state.step) * config.train.accumulation
        loader: Iterator[Batch] = islice(micro_batches(source, config, state.step, draw), left)
        loader = prepared_ahead(loader, state.device, condition_ahead(components, config, outputs.times))
        loader = corrupt.watch(loader) if corrupt else loader
        write_steps(flow_updates(state, components, config, loader, last, outputs.times), outputs, stop)
    return run
