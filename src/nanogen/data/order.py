"""Choose and load the images of a training step: a function of the step alone.

The order depends on (seed, epoch, components of the data set: `plan.py`); the global batch of a step on the order and
the batch size. Ranks and micro-batches only cut it up, so a run that continues, or runs on another number of processes,
sees the same images at the same positions. Nothing here draws from a shared random stream.
"""

from __future__ import annotations

import itertools
import multiprocessing.queues
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from diffusionbench.errors import ConfigError, DataError, RunError
from diffusionbench.shown import first_line
from nanogen.data import Batch, Component, Dataset
from nanogen.data.epochs import epoch_slice, mixed
from nanogen.data.memory import SupportsBatches
from nanogen.rng import PositionalNoise
from nanogen.settings import steps_per_epoch

# Draws what a step needs from its noise.
Draw = Callable[[PositionalNoise], object]


@dataclass(frozen=True)
class MicroBatch:
    """The input of one forward pass of one rank: indices into the data set and their places in the global batch."""

    indices: np.ndarray
    positions: list[int]
    step: int = 0


@dataclass(frozen=True, kw_only=True)
class Order:
    """The plan of all batches.

    Attributes:
        size: images in the data set.
        batch_size: images of one step over all ranks and micro-batches.
        world: number of processes.
        accumulation: micro-batches of one step on one rank.
        components: of the data set; by default one without blocks.

    Raises:
        ConfigError: if the batch cannot be cut into equal micro-batches.
        DataError: if there are fewer images than one batch.
    """

    size: int
    seed: int
    batch_size: int
    rank: int = 0
    world: int = 1
    accumulation: int = 1
    components: tuple[Component, ...] = ()

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.batch_size % (self.world * self.accumulation):
            raise ConfigError(
                f"a batch of {self.batch_size} cannot be cut into {self.world} processes x {self.accumulation} "
                "micro-batches of equal size. Change the batch size or the accumulation."
            )
        steps_per_epoch(self.size, self.batch_size)

    def global_batch(self, step: int) -> np.ndarray:
        """Return the indices int64 [batch_size] of the images of one step (from 0), all ranks together."""
        if len(self.components) > 1:
            return mixed(self.components, self.seed, step * self.batch_size, self.batch_size)
        epoch, place = divmod(step, steps_per_epoch(self.size, self.batch_size))
        places = place * self.batch_size + np.arange(self.batch_size)
        return epoch_slice(self.components[0] if self.components else Component(self.size), self.seed, epoch, places)

    def micro_batches(self, step: int) -> list[MicroBatch]:
        """Return the rank's contiguous slice of the global batch, in its micro-batches."""
        indices = self.global_batch(step)
        length = self.batch_size // (self.world * self.accumulation)
        first = self.rank * self.accumulation * length
        starts = range(first, first + self.accumulation * length, length)
        cuts = [(indices[start : start + length], list(range(start, start + length))) for start in starts]
        return [MicroBatch(*cut, step) for cut in cuts]


def by_length(dataset: Dataset | SupportsBatches, micros: list[MicroBatch]) -> list[MicroBatch]:
    """Return the same examples of a step with captions of like length together, as each batch is padded to its longest.

    Every example keeps its position, and with it its noise: the gradients of the step are the same but for rounding.
    Characters stand for tokens.
    """
    # Caches of latents or images have their captions from the data set.
    data: Any = getattr(dataset, "data", dataset)
    if len(micros) < 2 or not getattr(data, "captioned", False):
        return micros
    indices = np.concatenate([micro.indices for micro in micros])
    positions = np.concatenate([micro.positions for micro in micros])
    lengths = [len(data.caption(int(index)) or "") for index in indices]
    parts = np.split(np.argsort(lengths, kind="stable"), len(micros))
    return [MicroBatch(indices[part], positions[part].tolist(), micros[0].step) for part in parts]


def batches(
    dataset: Dataset | SupportsBatches,
    *,
    seed: int,
    batch_size: int,
    first_step: int = 0,
    rank: int = 0,
    world: int = 1,
    accumulation: int = 1,
    workers: int = 0,
    draw: Draw | None = None,
) -> Iterator[Batch]:
    """Give micro-batches from one step on, without end: `accumulation` of them make one step.

    Args:
        dataset: a data set, or its latents.
        seed, batch_size, rank, world, accumulation: see `Order`.
        first_step: number of optimizer updates already made.
        workers: processes that decode ahead; 0 decodes here. Changes nothing but the speed.
        draw: draws the numbers of a step from noise; loader processes call it, and send the numbers with the batch.

    Raises:
        ConfigError: if the batch cannot be cut into equal micro-batches.
        DataError: if there are fewer images than one batch or an image cannot be read; it is named.
    """
    order = Order(
        size=len(dataset),
        seed=seed,
        batch_size=batch_size,
        rank=rank,
        world=world,
        accumulation=accumulation,
        components=dataset.components,
    )
    plan = (micro for step in itertools.count(first_step) for micro in by_length(dataset, order.micro_batches(step)))
    return _read(dataset, plan, workers, None if draw is None else partial(_drawn, seed, draw))


def _drawn(seed: int, draw: Draw, micro: MicroBatch) -> dict[tuple[str, tuple[int, ...]], Tensor]:
    return PositionalNoise(seed, micro.positions, step=micro.step).ahead(draw)


def in_order(
    dataset: Dataset | SupportsBatches, batch_size: int, workers: int = 0, within: range | None = None
) -> Iterator[Batch]:
    """Give all examples once, in the order of their indices; the last batch may be smaller.

    Args:
        within: indices of the examples to give; None: all.

    Raises:
        DataError: if an image cannot be read; it is named.
    """
    chosen = range(len(dataset)) if within is None else within
    indices = (np.array(chosen[start : start + batch_size]) for start in range(0, len(chosen), batch_size))
    return _read(dataset, [MicroBatch(some, some.tolist()) for some in indices], workers)


def _read(
    dataset: Dataset | SupportsBatches,
    plan: Iterable[MicroBatch],
    workers: int,
    noise: Callable[[MicroBatch], dict] | None = None,
) -> Iterator[Batch]:
    if isinstance(dataset, SupportsBatches):
        return (dataset.batch(micro.indices, micro.positions) for micro in plan)
    if workers == 0:
        return (_gather(dataset, micro) for micro in plan)
    return _prefetch(_Worker(dataset, noise), plan, workers)


def _gather(dataset: Dataset, micro: MicroBatch) -> Batch:
    examples = [dataset[int(index)] for index in micro.indices]
    labels = [example.label for example in examples if example.label is not None]
    known = dataset.num_classes
    if known is not None and not all(0 <= label < known for label in labels):
        raise DataError(f"the data states {known} classes and holds the labels {min(labels)} to {max(labels)}.")
    return Batch(
        image=torch.from_numpy(np.stack([example.image for example in examples])).permute(0, 3, 1, 2).contiguous(),
        label=torch.tensor(labels) if labels else None,
        caption=[example.caption for example in examples if example.caption is not None] or None,
        positions=micro.positions,
        corrupt=tuple(example.corrupt for example in examples if example.corrupt is not None),
    )


class _Worker:
    """Makes batches in a worker; errors of the data come back as values, as a DataLoader would bury their message."""

    def __init__(self, dataset: Dataset, noise: Callable[[MicroBatch], dict] | None) -> None:
        self.dataset, self.noise = dataset, noise

    def __getitem__(self, micro: MicroBatch) -> Batch | DataError:
        try:
            batch = _gather(self.dataset, micro)
            return batch if self.noise is None else replace(batch, noise=self.noise(micro))
        except DataError as error:
            return DataError(str(error))


def _start_worker(worker: int) -> None:
    """Set up a loader process."""
    # By default a batch that cannot be sent is a traceback in the worker, and a training that waits for ever.
    multiprocessing.queues.Queue._on_queue_feeder_error = _send_reason  # type: ignore[attr-defined]
    _end_with_parent()


def _send_reason(queue: Any, error: Exception, item: tuple[int, object]) -> None:
    """Send why a batch cannot be sent, in its place."""
    reason = RunError(
        f"a loader process cannot hand its batch over ({first_line(error)}). Shared memory (/dev/shm) is full or too "
        "small: enlarge it (docker run --shm-size=8g), or use fewer loader processes (data.workers=0 needs none)."
    )
    queue.put((item[0], reason))


def _end_with_parent() -> None:
    """Let a loader process end by its parent only.

    A scheduler signals all processes of a job at once: the training then finishes its step, which needs batches.
    """
    # multiprocessing's own thread would print a traceback when its parent has closed a connection.
    sys.excepthook = lambda kind, *more: None if issubclass(kind, OSError) else sys.__excepthook__(kind, *more)
    if not hasattr(signal, "sigwaitinfo"):
        return
    # Blocked, also in the threads that follow, so that the one below is told who sent it.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def wait() -> None:
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _prefetch(worker: _Worker, plan: Iterable[MicroBatch], workers: int) -> Iterator[Batch]:
    loader: DataLoader = DataLoader(
        worker,  # type: ignore[arg-type]
        batch_size=None,
        sampler=plan,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
        # Its own generator: otherwise starting the workers would advance torch's global stream.
        generator=torch.Generator(),
    )
    read = iter(loader)
    while True:
        try:
            batch = next(read, None)
        except (ConnectionError, EOFError, FileNotFoundError) as error:
            # It ended while it handed a batch over; where it ends elsewhere, torch says the same.
            raise RuntimeError(f"DataLoader worker ended: {error}") from None
        if batch is None:
            return
        if isinstance(batch, DataError | RunError):
            raise batch
        yield batch
