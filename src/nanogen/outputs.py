"""Files of a training, each written once and when it is due: log lines, checkpoints, and of a run grids and records.

Every process calls these classes, and the main one writes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from diffusionbench.errors import CheckpointError, Stopped, UserError
from nanogen import calibration, checkpoint, costs, evaluate, parallel, timeloss
from nanogen.build import Components
from nanogen.data import Dataset
from nanogen.data.corrupt import CorruptLog
from nanogen.log import Log, say
from nanogen.pipeline import ImagePipeline
from nanogen.plan import peak
from nanogen.progress import Progress, tell
from nanogen.run import CHECKPOINTS, Run
from nanogen.settings import due, to_steps
from nanogen.state import TrainState
from nanogen.steptimes import StepTimes
from nanogen.stop import Stop
from nanogen.timeloss import LossByTime

# Parts of a step in which no process waits for another.
BEFORE_WAITING = ("data", "encode", "forward")


def known_peak(device: str, precision: str) -> float | None:
    """Return the operations a second of a device, by its data sheet or as `nanogen bench --calibrate` measured them."""
    if device.startswith("cuda"):
        return peak(torch.cuda.get_device_name(device), precision)
    try:
        found = [one for one in calibration.read() if (one.kind, one.precision) == ("cpu", precision)]
    except UserError as error:
        say(str(error))
        found = []
    # Threads share the cores, so what one process reaches grows with them.
    return max((torch.get_num_threads() / one.threads / one.per_flop for one in found), default=None)


@dataclass(frozen=True)
class Periods:
    """How often a training writes, in updates (None for the last one alone); `batch_size` is over all processes."""

    batch_size: int
    log_every: int | None
    checkpoint_every: int | None
    keep: int
    keep_every: int | None = None
    sinks: tuple[str, ...] = ()


class Outputs:
    """Log lines and checkpoints.

    Args:
        folder: of the training, held by this process.
        state: says which step it is.
        last: step at which training ends; everything is due there.
        header: strings for the header of each weights file.
    """

    def __init__(self, folder: Path, state: TrainState, last: int, periods: Periods, header: Mapping[str, str]) -> None:
        self.folder, self.state, self.last, self.periods = folder, state, last, periods
        self.saver = checkpoint.Saver(folder / CHECKPOINTS, header, periods.keep, periods.keep_every, state.step)
        self.started, self.since = time.perf_counter(), state.step
        self.times = StepTimes(state.device)
        self.log: Log | None = None
        self.progress: Progress | None = None
        with parallel.agreed():
            if parallel.is_main():
                self.log = Log(folder, periods.sinks, state.step, header)
                wanted = state.step - state.step % periods.log_every if periods.log_every else 0
                if self.log.last < wanted:
                    lacking = f"has no lines from step {self.log.last + 1} to {wanted}"
                    say(f"{self.log.path} {lacking}; they are not made again")
                self.progress = Progress(state.step, last)

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            if kind is None:
                self.saver.wait()
            elif not issubclass(kind, Stopped):
                # What was begun is worth having; why training ends is said already.
                with suppress(CheckpointError):
                    self.saver.finished()
        finally:
            for opened in (self.progress, self.log):
                if opened is not None:
                    opened.close()

    def catch_up(self) -> None:
        """Make what the step that training continues from lacks: it was stopped after the checkpoint."""
        if self.state.step and self.log is not None:
            # What cannot be removed goes with the next checkpoint.
            with suppress(OSError):
                keep, keep_every = self.periods.keep, self.periods.keep_every
                checkpoint.prune(self.folder / CHECKPOINTS, self.state.step, keep, keep_every)

    def after_step(self, values: Mapping[str, Tensor]) -> None:
        """Write what is due after an update.

        Args:
            values: losses and gradient norm of this process.

        Raises:
            CheckpointError, RunError: if something cannot be written, or the folder is gone.
            NonFiniteLoss: if the update was refused.
            Stopped: by a signal, in a grid or an evaluation; the step itself is complete.
        """
        step = self.state.step
        tell("training", step, self.last)
        periods = (self.periods.log_every, self.periods.checkpoint_every)
        logging, saving = (due(step, every) or step == self.last for every in periods)
        if not logging and not saving:
            return
        with parallel.agreed():
            self.check_folder()
            self.saver.check()
        # Also with each checkpoint: a run that continues from it knows what it met before.
        counts = self.counts()
        if logging:
            self._tell(step, {name: parallel.all_mean(value).item() for name, value in values.items()} | counts)
        if saving:
            self.state.updater.check()
            with self.aside():
                self.save()

    def save(self) -> None:
        """Begin a checkpoint of the step, unless there is one."""
        if self.saver.begun == self.state.step:
            return
        with parallel.agreed():
            self.check_folder()
            if self.log is not None:
                self.log.sync()
        self.saver.save(self.state)

    def _tell(self, step: int, numbers: dict[str, float]) -> None:
        now = time.perf_counter()
        numbers |= {"lr": self.state.schedule(step - 1), "skipped": self.state.updater.skipped.item()}
        speed = (step - self.since) * self.periods.batch_size / (now - self.started)
        numbers |= {"images_per_second": speed, **self.pace(speed)}
        self.started, self.since = now, step
        with parallel.agreed():
            if self.log is not None and self.progress is not None:
                self.log.write(step, numbers)
                self.progress.show(step, numbers)
                for note in self.notes():
                    say(note)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Hold work that is no step: it counts neither in images per second nor in the parts of one."""
        start = time.perf_counter()
        yield
        self.started += time.perf_counter() - start
        self.times.restart()

    def pace(self, images_per_second: float) -> dict[str, float]:
        """Return milliseconds of a step by part and, of several processes, which is the slowest; every one calls it.

        A process that is slow lets the others wait in their backward passes, so its own time is what comes before.
        """
        parts = self.times.read()
        found = {f"time/{part}": 1e3 * seconds for part, seconds in parts.items()}
        if parallel.world_size() > 1:
            own = torch.tensor(sum(parts.get(part, 0) for part in BEFORE_WAITING), device=self.state.device)
            slowest = parallel.all_max(own.clone())
            number = torch.where(own == slowest, float(parallel.rank()), -1.0)
            found["slowest_rank"] = parallel.all_max(number).item()
            found["slowest_to_mean"] = (slowest / parallel.all_mean(own)).item() if parts else 1.0
        return found

    def check_folder(self) -> None:
        """Refuse to write where the training no longer is."""

    def counts(self) -> dict[str, float]:
        """Return further numbers for a log line; every process calls it."""
        return {}

    def notes(self) -> Iterable[str]:
        """Return sentences for the terminal."""
        return ()


class RunOutputs(Outputs):
    """Sample grids and records beside what `Outputs` writes, for a run of `nanogen train`.

    Args:
        data: whose examples the sample grids show.
        corrupt: counts corrupt samples, or None where they end the run.
        stop: may end a grid or an evaluation at once.
        by_time: measures the averaged network where a record is due.
    """

    def __init__(
        self,
        run: Run,
        components: Components,
        state: TrainState,
        data: Dataset,
        last: int,
        corrupt: CorruptLog | None,
        stop: Stop,
        by_time: LossByTime,
    ) -> None:
        config = run.config

        def period(duration: str) -> int | None:
            return to_steps(duration, config.train.batch_size, len(data))

        periods = Periods(
            batch_size=config.train.batch_size,
            log_every=period(config.log.every),
            checkpoint_every=period(config.train.checkpoint_every),
            keep=config.train.keep,
            keep_every=period(config.train.keep_every),
            sinks=config.log.sinks,
        )
        header = {
            "config": json.dumps(config.model_dump(mode="json")),
            "config_hash": config.hash,
            "run": json.dumps(run.facts),
            "commit": str(run.facts.get("commit")),
            "precision": components.precision,
            "condition_digest": components.conditioner.digest,
            "latent_digest": components.latent.digest,
            "ema_decay": str(config.train.ema_decay),
        }
        self.run, self.config, self.components, self.corrupt, self.stop = run, config, components, corrupt, stop
        self.by_time = by_time
        self.sample_every, self.eval_every = period(config.sample.every), period(config.eval.every)
        self.examples = components.conditioner.examples(data, config.sample.num)
        self.stat = os.stat(run.path) if parallel.is_main() else None
        self.peak = known_peak(components.device, components.precision)
        super().__init__(run.path, state, last, periods, header)

    def catch_up(self) -> None:
        super().catch_up()
        if self.state.step:
            self._draw_and_score(missing=True)

    def after_step(self, values: Mapping[str, Tensor]) -> None:
        super().after_step(values)
        self._draw_and_score()

    def pace(self, images_per_second: float) -> dict[str, float]:
        """Add the share of the device's peak that the network's operations reach, where a peak is known or measured."""
        found, components = super().pace(images_per_second), self.components
        if self.peak is not None:
            flops = costs.training_flops(self.config, components.derived.shape, self.run.facts.get("text_tokens") or 0)
            found["model_flops_utilisation"] = images_per_second * flops / (parallel.world_size() * self.peak)
        return found

    def check_folder(self) -> None:
        if self.log is not None:
            self.run.check_there(self.stat)

    def counts(self) -> dict[str, float]:
        if self.corrupt is None:
            return {}
        with parallel.agreed():
            return {"corrupt": self.corrupt.collect(self.state.step)}

    def notes(self) -> Iterable[str]:
        return self.components.conditioner.notes()

    def _draw_and_score(self, missing: bool = False) -> None:
        """Make the sample grid and the record of a step where they are due; only what is `missing`, or all anew."""
        step, run, config = self.state.step, self.run, self.config
        sampling = step == self.last or due(step, self.sample_every)
        scoring = config.eval.metrics and (step == self.last or due(step, self.eval_every))
        if not sampling and not scoring:
            return
        pipeline = ImagePipeline(self.state.average_net(), self.components, config)
        with self.stop.deferred(False), parallel.patience(True), self.aside():
            if sampling:
                with parallel.agreed():
                    if self.log is not None and not (missing and evaluate.has_grid(run.path, step)):
                        self.check_folder()
                        grid = evaluate.sample_grid(pipeline, run, step, self.examples)
                        self.log.picture(step, "samples", grid)
            if scoring:
                record = None
                if missing:
                    record = parallel.from_main(lambda: evaluate.finished_record(pipeline, run, step))
                try:
                    record = record or evaluate.evaluate(pipeline, run, step)
                except UserError:
                    self.check_folder()
                    raise
                with parallel.agreed():
                    if self.log is not None and record is not None:
                        self.log.write_record(step, {key: value.value for key, value in record.values.items()})
                        if not self.log.has(step, timeloss.PREFIX):
                            self.log.write_record(step, self.by_time(pipeline.net), timeloss.PREFIX)
