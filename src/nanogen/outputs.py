"""Files of a training, each written once and when it is due: log lines, checkpoints, and of a run grids and records.

Every process calls these classes, and the main one writes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from diffusionbench.errors import CheckpointError, Stopped, UserError
from nanogen import checkpoint, evaluate, parallel
from nanogen.build import Components
from nanogen.config import Config
from nanogen.data import Dataset
from nanogen.data.corrupt import CorruptLog
from nanogen.log import Log, say
from nanogen.pipeline import ImagePipeline
from nanogen.progress import Progress, tell
from nanogen.run import CHECKPOINTS, Run
from nanogen.settings import due, to_steps
from nanogen.state import TrainState
from nanogen.stop import Stop


@dataclass(frozen=True)
class Periods:
    """How often a training writes.

    Attributes:
        batch_size: images of one update, over all processes.
        log_every, checkpoint_every: updates; None for the last one alone.
        keep, keep_every: checkpoints to keep, see `nanogen.checkpoint.Saver`.
        sinks: of the log, see `nanogen.log.Log`.
    """

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

    Attributes:
        saver: writes the checkpoints.

    Raises:
        CheckpointError: if the log cannot be written.
    """

    def __init__(self, folder: Path, state: TrainState, last: int, periods: Periods, header: Mapping[str, str]) -> None:
        self.folder, self.state, self.last, self.periods = folder, state, last, periods
        self.saver = checkpoint.Saver(folder / CHECKPOINTS, header, periods.keep, periods.keep_every)
        self.saver.found(state.step)
        self.started, self.since = time.perf_counter(), state.step
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
            CheckpointError: if something cannot be written.
            RunError: if the folder is gone.
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
            numbers = {name: parallel.all_mean(value).item() for name, value in values.items()}
            self._tell(step, numbers, counts)
        if saving:
            self.state.updater.check()
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

    def _tell(self, step: int, numbers: dict[str, float], counts: Mapping[str, float]) -> None:
        now = time.perf_counter()
        numbers["lr"] = self.state.schedule(step - 1)
        numbers["skipped"] = self.state.updater.skipped.item()
        numbers |= counts
        numbers["images_per_second"] = (step - self.since) * self.periods.batch_size / (now - self.started)
        self.started, self.since = now, step
        with parallel.agreed():
            if self.log is not None and self.progress is not None:
                self.log.write(step, numbers)
                self.progress.show(step, numbers)
                for note in self.notes():
                    say(note)

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
    ) -> None:
        config: Config = run.config

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
        self.sample_every, self.eval_every = period(config.sample.every), period(config.eval.every)
        self.examples = components.conditioner.examples(data, config.sample.num)
        self.stat = os.stat(run.path) if parallel.is_main() else None
        super().__init__(run.path, state, last, periods, header)

    def catch_up(self) -> None:
        super().catch_up()
        if self.state.step:
            self._draw_and_score(missing=True)

    def after_step(self, values: Mapping[str, Tensor]) -> None:
        super().after_step(values)
        self._draw_and_score()

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
        """Make the sample grid and the record of a step where they are due; only what is `missing`, or both anew."""
        step, run, config = self.state.step, self.run, self.config
        sampling = step == self.last or due(step, self.sample_every)
        scoring = config.eval.metrics and (step == self.last or due(step, self.eval_every))
        if not sampling and not scoring:
            return
        pipeline = ImagePipeline(self.state.average_net(), self.components, config)
        with self.stop.deferred(False), parallel.patience(True):
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
