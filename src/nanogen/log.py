"""What a run says while it works: `metrics.jsonl`, the terminal, and optional sinks that never block or ask."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from diffusionbench import shown
from diffusionbench.registry import require
from diffusionbench.schema import write_atomic


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


def _open_sink(name: str, run_dir: Path) -> Sink:
    return TensorBoard(run_dir) if name == "tensorboard" else Tracker(name, run_dir)


class Log:
    """Numbers by step into `metrics.jsonl` and the sinks.

    Args:
        run_dir: the run's folder.
        sinks: names; one that fails says so once and is left out from then on.
        step: where training continues; later lines of an interrupted run are dropped, they will be made again.
    """

    def __init__(self, run_dir: Path, sinks: Sequence[str], step: int) -> None:
        self.path = run_dir / "metrics.jsonl"
        kept = [line for line in read(self.path) if line["step"] <= step]
        write_atomic(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = self.path.open("a", encoding="utf-8")
        self._sinks: dict[str, Sink] = {}
        for name in sinks:
            self._guard(name, lambda name=name: self._sinks.__setitem__(name, _open_sink(name, run_dir)))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record numbers after `step` updates."""
        self._file.write(json.dumps({"step": step, "time": round(time.time(), 3), **values}) + "\n")
        self._file.flush()
        for name, sink in list(self._sinks.items()):
            self._guard(name, lambda sink=sink: sink.log(step, values))

    def close(self) -> None:
        self._file.close()
        for name, sink in list(self._sinks.items()):
            self._guard(name, sink.finish)

    def _guard(self, name: str, call: Any) -> None:
        try:
            call()
        except Exception as error:
            # A tracker is a convenience: whatever it raises must not end a training run.
            self._sinks.pop(name, None)
            say(f"sink '{name}' failed and is off: {error}")


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`; a last line cut off by a kill is left out."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def say(message: str) -> None:
    """One line to stderr: progress and notices go there, results to stdout."""
    print(shown.message(message), file=sys.stderr, flush=True)
