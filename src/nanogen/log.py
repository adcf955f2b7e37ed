"""Output of a run while it works: `metrics.jsonl`, the terminal, and optional sinks that never block or ask."""

from __future__ import annotations

import errno
import itertools
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from diffusionbench import shown
from diffusionbench.errors import CheckpointError
from diffusionbench.registry import require
from diffusionbench.writing import write_atomic, write_errors

FILE = "metrics.jsonl"
# Before the keys of an evaluation's numbers.
EVAL = "eval/"


class Sink(Protocol):
    """An experiment tracker."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def finish(self) -> None: ...


class TensorBoard:
    """Event files under run/tensorboard."""

    def __init__(self, run_dir: Path) -> None:
        require("tensorboard", "track", "The sink 'tensorboard'")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run_dir / "tensorboard"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def finish(self) -> None:
        self.writer.close()


class Tracker:
    """Packages with the wandb calling convention: wandb itself, offline unless logged in, and trackio."""

    def __init__(self, package: str, run_dir: Path) -> None:
        module = require(package, "track", f"The sink '{package}'")
        options: dict[str, Any] = {"project": "nanogen", "name": run_dir.name}
        if package == "wandb":
            # Without a key wandb would ask for one on the terminal.
            options |= {"dir": str(run_dir), "mode": "online" if os.environ.get("WANDB_API_KEY") else "offline"}
        module.init(**options)
        self.module = module

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.module.log(dict(values), step=step)

    def finish(self) -> None:
        self.module.finish()


class Log:
    """Numbers by step into `metrics.jsonl` and the sinks.

    Args:
        run_dir: the run's folder.
        sinks: names; one that fails says so once and is left out from then on.
        step: where training continues; later lines of an interrupted run are dropped, they will be made again. A file
            with lines that are not ours is kept beside the mended one.

    Attributes:
        last: step of the last line that was there; 0 where there was none.

    Raises:
        CheckpointError: if the file cannot be read or written.
    """

    def __init__(self, run_dir: Path, sinks: Sequence[str], step: int) -> None:
        self.path = run_dir / FILE
        with self._written():
            before = self.path.read_bytes() if self.path.exists() else b""
            lines, damaged = _parse(before)
            if damaged:
                copy = _free_name(self.path)
                write_atomic(copy, before)
                say(f"{_count(self.path, damaged)}; the file as it was is {copy.name}")
            kept = [line for line in lines if line["step"] <= step]
            after = "".join(json.dumps(line) + "\n" for line in kept).encode()
            if after != before or not before:
                write_atomic(self.path, after)
            # Without a buffer: what could not be written shall not be tried again when the file is closed.
            self._file = self.path.open("ab", buffering=0)
        self.last = max((line["step"] for line in kept), default=0)
        self._evaluated = {line["step"] for line in kept if any(key.startswith(EVAL) for key in line)}
        self._sinks: dict[str, Sink] = {}
        for name in sinks:
            opened = partial(TensorBoard if name == "tensorboard" else partial(Tracker, name), run_dir)
            self._guard(name, lambda name=name, opened=opened: self._sinks.__setitem__(name, opened()))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers after `step` updates; CheckpointError if they cannot be written."""
        line = json.dumps({"step": step, "time": round(time.time(), 3), **values}).encode() + b"\n"
        with self._written():
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for name, sink in list(self._sinks.items()):
            self._guard(name, lambda sink=sink: sink.log(step, values))

    def write_record(self, step: int, values: Mapping[str, float]) -> None:
        """Record the scores of a step, unless the log has them already."""
        if step not in self._evaluated:
            self._evaluated.add(step)
            self.write(step, {f"{EVAL}{key}": value for key, value in values.items()})

    def sync(self) -> None:
        """Wait until the lines are on the disk: a checkpoint shall not outlast those before it."""
        with self._written():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        # What could not be brought to the disk at the end is no reason to fail: the same command adds it again.
        with suppress(OSError):
            os.fsync(self._file.fileno())
        self._file.close()
        for name, sink in list(self._sinks.items()):
            self._guard(name, sink.finish)

    def _written(self) -> AbstractContextManager[None]:
        remedy = "Checkpoints are untouched; correct that and start the same command again."
        return write_errors(self.path, remedy, CheckpointError)

    def _guard(self, name: str, call: Any) -> None:
        try:
            call()
        except Exception as error:
            # A tracker is a convenience: whatever it raises must not end a training run.
            self._sinks.pop(name, None)
            say(f"sink '{name}' failed and is off: {error}")


def read(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a `metrics.jsonl`; those that are not ours are left out, and counted on the terminal.

    Raises:
        CheckpointError: if there is a file that cannot be read.
    """
    try:
        lines, damaged = _parse(path.read_bytes() if path.exists() else b"")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}. Correct that.") from None
    if damaged:
        say(_count(path, damaged))
    return lines


def _parse(data: bytes) -> tuple[list[dict[str, Any]], list[int]]:
    """Lines that are JSON objects with a step, and the numbers of the others; a last one cut off by a kill is none."""
    lines: list[dict[str, Any]] = []
    damaged: list[int] = []
    pieces = data.split(b"\n")
    for number, piece in enumerate(pieces, start=1):
        if not piece.strip():
            continue
        try:
            line = json.loads(piece.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            line = None
        if isinstance(line, dict) and type(line.get("step")) is int and line["step"] >= 0:
            lines.append(line)
        elif number < len(pieces) or line is not None:
            damaged.append(number)
    return lines, damaged


def _count(path: Path, damaged: list[int]) -> str:
    return f"{path}: {len(damaged)} damaged line(s) left out, the first is line {damaged[0]}"


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.stem}.damaged-{number}{path.suffix}") for number in itertools.count(1))
    return next(name for name in names if not name.exists())


def say(message: str) -> None:
    """Print one line to stderr: progress and notices go there, results to stdout; a run outlives who reads them."""
    with suppress(OSError):
        print(shown.message(message), file=sys.stderr, flush=True)
