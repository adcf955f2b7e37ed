"""What a training leaves: log lines, checkpoints, sample grids and records, each once and when it is due."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from torch import Tensor

from diffusionbench.errors import UserError
from nanogen import checkpoint, evaluate, parallel
from nanogen.build import Components
from nanogen.config import Config
from nanogen.data import Dataset
from nanogen.data.corrupt import CorruptLog
from nanogen.log import Log, say
from nanogen.progress import Progress
from nanogen.run import Run
from nanogen.settings import due, to_steps
from nanogen.stop import Stop

if TYPE_CHECKING:
    from nanogen.train import Trainee


class Outputs:
    """Writes what is due after each step; every process calls it, and the main one writes.

    Args:
        run: whose folder is held.
        trainee: what is trained; its updates say which step it is.
        data: whose examples the sample grids show.
        last: step at which training ends; everything is due there.
        tally: of corrupt samples, where they are counted.
        stop: may end a grid or an evaluation at once.

    Raises:
        CheckpointError: if the log cannot be written.
    """

    def __init__(
        self,
        run: Run,
        config: Config,
        parts: Components,
        trainee: Trainee,
        data: Dataset,
        last: int,
        tally: CorruptLog | None,
        stop: Stop,
    ) -> None:
        def period(duration: str) -> int | None:
            return to_steps(duration, config.train.batch_size, len(data))

        self.run, self.config, self.parts, self.trainee, self.last = run, config, parts, trainee, last
        self.tally, self.stop = tally, stop
        self.log_every, self.sample_every = period(config.log.every), period(config.sample.every)
        self.checkpoint_every, self.eval_every = period(config.train.checkpoint_every), period(config.eval.every)
        self.asks = parts.conditioner.examples(data, config.sample.num)
        self.saved = trainee.updates
        self.started, self.since = time.perf_counter(), trainee.updates
        self.log: Log | None = None
        self.progress: Progress | None = None
        with parallel.agreed():
            if parallel.is_main():
                self.folder = os.stat(run.path)
                self.log = Log(run.path, config.log.sinks, trainee.updates)
                wanted = trainee.updates - trainee.updates % self.log_every if self.log_every else 0
                if self.log.last < wanted:
                    lacking = f"has no lines from step {self.log.last + 1} to {wanted}"
                    say(f"{self.log.path} {lacking}; they are not made again")
                self.progress = Progress(trainee.updates, last)

    def __enter__(self) -> Outputs:
        return self

    def __exit__(self, *exception: object) -> None:
        for opened in (self.progress, self.log):
            if opened is not None:
                opened.close()

    def catch_up(self) -> None:
        """Do what the step that training continues from lacks: it was stopped after the checkpoint."""
        if self.trainee.updates:
            if self.log is not None:
                # What cannot be removed goes with the next checkpoint.
                with suppress(OSError):
                    checkpoint.prune(self.run.checkpoints, self.trainee.updates, self.config.train.keep)
            self._draw_and_score(missing=True)

    def after_step(self, values: Mapping[str, Tensor]) -> None:
        """Write what is due after an update.

        Args:
            values: losses and gradient norm of this process.

        Raises:
            CheckpointError: if something cannot be written.
            RunError: if the run folder is gone.
            NonFiniteLoss: if the update was refused.
            Stopped: by a signal, in a grid or an evaluation; the step itself is complete.
        """
        step = self.trainee.updates
        logging, saving = (due(step, every) or step == self.last for every in (self.log_every, self.checkpoint_every))
        corrupt = {}
        if logging or saving:
            with parallel.agreed():
                self._check_folder()
            if self.tally is not None:
                # Also with each checkpoint: a run that continues from it knows what it met before.
                with parallel.agreed():
                    corrupt = {"corrupt": self.tally.collect(step)}
        if logging:
            self._tell(step, values, corrupt)
        if saving:
            self.trainee.updater.check()
            self.save()
        self._draw_and_score()

    def save(self) -> None:
        """Write a checkpoint of the step, unless there is one."""
        step, config, trainee = self.trainee.updates, self.config, self.trainee
        if self.saved == step:
            return
        with parallel.agreed():
            self._check_folder()
            if self.log is not None:
                self.log.sync()
        header = {
            "config": json.dumps(config.model_dump(mode="json")),
            "config_hash": config.hash,
            "run": json.dumps(self.run.facts),
            "step": str(step),
            "commit": str(self.run.facts.get("commit")),
            "precision": self.parts.precision,
            "condition_digest": self.parts.conditioner.digest,
            "ema_decay": str(config.train.ema_decay),
            "skipped": f"{trainee.updater.skipped.item():.0f}",
        }
        checkpoint.save(
            self.run.checkpoints,
            step,
            trainee.model,
            trainee.updater.optimizer,
            trainee.ema.model,
            header,
            config.train.keep,
        )
        self.saved = step

    def _tell(self, step: int, values: Mapping[str, Tensor], corrupt: Mapping[str, float]) -> None:
        numbers = {name: parallel.all_mean(value).item() for name, value in values.items()}
        now = time.perf_counter()
        numbers["lr"] = self.trainee.schedule(step - 1)
        numbers["skipped"] = self.trainee.updater.skipped.item()
        numbers |= corrupt
        numbers["images_per_second"] = (step - self.since) * self.config.train.batch_size / (now - self.started)
        self.started, self.since = now, step
        with parallel.agreed():
            if self.log is not None and self.progress is not None:
                self.log.write(step, numbers)
                self.progress.show(step, numbers)
                for note in self.parts.conditioner.notes():
                    say(note)

    def _draw_and_score(self, missing: bool = False) -> None:
        """The sample grid and the record of a step where they are due; only what is `missing`, or both anew."""
        step, net, run, config = self.trainee.updates, self.trainee.ema.model, self.run, self.config
        with self.stop.deferred(False):
            if step == self.last or due(step, self.sample_every):
                with parallel.agreed():
                    if self.log is not None and not (missing and evaluate.has_grid(run.path, step)):
                        self._check_folder()
                        evaluate.sample_grid(net, self.parts, config, run, step, self.asks)
            if config.eval.metrics and (step == self.last or due(step, self.eval_every)):
                record = None
                if missing:
                    record = parallel.from_main(lambda: evaluate.finished_record(run.path, step, config))
                try:
                    record = record or evaluate.evaluate(net, self.parts, config, run, step)
                except UserError:
                    self._check_folder()
                    raise
                with parallel.agreed():
                    if self.log is not None and record is not None:
                        self.log.write_record(step, {key: value.value for key, value in record.values.items()})

    def _check_folder(self) -> None:
        if self.log is not None:
            self.run.check_there(self.folder)
