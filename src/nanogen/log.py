"""Output of a run while it works: `metrics.jsonl`, the terminal, and optional trackers."""

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
from types import MappingProxyType
from typing import Any, Final

from diffusionbench import shown
from diffusionbench.errors import CheckpointError
from diffusionbench.writing import write_atomic, write_errors
from nanogen.trackers import Queued, open_tracker, tracker_id

FILE = "metrics.jsonl"
# Prefix of the keys of an evaluation's numbers.
EVAL = "eval/"
EMPTY: Final[Mapping[str, str]] = MappingProxyType({})


class Log:
    """Numbers by step into `metrics.jsonl` and the sinks.

    Args:
        run_dir: the run's folder.
        sinks: names of trackers, see `nanogen.trackers`.
        step: where training continues; later lines of an interrupted run are dropped, they will be made again. A file
            with lines that are not ours is kept beside the mended one.
        header: facts of the training; trackers are told its config.

    Attributes:
        last: step of the last line that was there; 0 where there was none.

    Raises:
        CheckpointError: if the file cannot be read or written.
    """

    def __init__(self, run_dir: Path, sinks: Sequence[str], step: int, header: Mapping[str, str] = EMPTY) -> None:
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
        self._told = {(line["step"], key.partition("/")[0]) for line in kept for key in line}
        config = json.loads(header.get("config", "{}"))
        with self._written():
            run_id = tracker_id(run_dir) if sinks else ""
        self._trackers = [
            Queued(name, partial(open_tracker, name, run_dir, step, config, run_id), say) for name in sinks
        ]

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers after `step` updates; CheckpointError if they cannot be written."""
        line = json.dumps({"step": step, "time": round(time.time(), 3), **values}).encode() + b"\n"
        with self._written():
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        for tracker in self._trackers:
            tracker.tell(lambda opened: opened.log(step, values))

    def has(self, step: int, prefix: str) -> bool:
        """Return whether there are numbers of a step under a prefix, such as "eval/"."""
        return (step, prefix.rstrip("/")) in self._told

    def write_record(self, step: int, values: Mapping[str, float], prefix: str = EVAL) -> None:
        """Record what was measured of the network of a step, unless the log has it already."""
        if not self.has(step, prefix):
            self._told.add((step, prefix.rstrip("/")))
            self.write(step, {f"{prefix}{key}": value for key, value in values.items()})

    def picture(self, step: int, name: str, path: Path) -> None:
        """Show trackers a picture that lies in the run folder."""
        for tracker in self._trackers:
            tracker.tell(lambda opened: opened.picture(step, name, path))

    def sync(self) -> None:
        """Wait until the lines are on the disk: a checkpoint shall not outlast those before it."""
        with self._written():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        # What could not be brought to the disk at the end is no reason to fail: the same command adds it again.
        with suppress(OSError):
            os.fsync(self._file.fileno())
        self._file.close()
        for tracker in self._trackers:
            tracker.close()

    def _written(self) -> AbstractContextManager[None]:
        remedy = "Checkpoints are untouched; correct that and start the same command again."
        return write_errors(self.path, remedy, CheckpointError)


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
