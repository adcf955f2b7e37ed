"""Experiment trackers beside `metrics.jsonl`: TensorBoard, W&B and trackio, each in a thread of its own.

Whatever a tracker waits for, asks or raises holds up no training: it is told what happened through a queue, lines that
find the queue full are left out and counted, and one that fails is off from then on.
"""

from __future__ import annotations

import json
import os
import queue
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
from PIL import Image

from diffusionbench import shown
from diffusionbench.registry import require
from diffusionbench.writing import write_atomic

# Id of the run at its trackers, in its folder: a run that continues goes on there too.
ID_FILE = "trackers.json"
# Calls that wait for a slow tracker, and seconds for which the end of a run waits for it.
WAITING = 1000
PATIENCE = 30.0


class TensorBoard:
    """Event files under run/tensorboard; on continuing, later steps of the interrupted run are dropped."""

    def __init__(self, run_dir: Path, step: int, config: Mapping[str, Any], run_id: str) -> None:
        require("tensorboard", "track", "The sink 'tensorboard'")
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=step + 1)
        text = json.dumps({"id": run_id, **config}, indent=2)
        self.writer.add_text("config", "".join(f"    {line}\n" for line in text.splitlines()), step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, path: Path) -> None:
        with Image.open(path) as picture:
            self.writer.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def finish(self) -> None:
        self.writer.close()


class HostedTracker:
    """Packages with the wandb calling convention: wandb itself, offline unless logged in, and trackio."""

    def __init__(self, package: str, run_dir: Path, config: Mapping[str, Any], run_id: str) -> None:
        self.module = require(package, "track", f"The sink '{package}'")
        options: dict[str, Any] = {"project": "nanogen", "config": dict(config), "resume": "allow"}
        if package == "wandb":
            # Without a key wandb would ask for one on the terminal.
            mode = "online" if os.environ.get("WANDB_API_KEY") else "offline"
            options |= {"id": run_id, "name": run_dir.name, "dir": str(run_dir), "mode": mode}
        else:
            # trackio knows a run by its name.
            options["name"] = f"{run_dir.name}-{run_id}"
        self.module.init(**options)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.module.log(dict(values), step=step)

    def picture(self, step: int, name: str, path: Path) -> None:
        self.module.log({name: self.module.Image(str(path))}, step=step)

    def finish(self) -> None:
        self.module.finish()


Tracker = TensorBoard | HostedTracker


def open_tracker(name: str, run_dir: Path, step: int, config: Mapping[str, Any], run_id: str) -> Tracker:
    """Return the tracker of a name, for a run that goes on after `step` updates."""
    if name == "tensorboard":
        return TensorBoard(run_dir, step, config, run_id)
    return HostedTracker(name, run_dir, config, run_id)


def tracker_id(run_dir: Path) -> str:
    """Return the id of a run at its trackers; made once, and made anew where its file is damaged."""
    path = run_dir / ID_FILE
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["id"])
    except (OSError, ValueError, KeyError, TypeError):
        made = uuid.uuid4().hex[:12]
        write_atomic(path, json.dumps({"id": made}) + "\n")
        return made


class Queued:
    """A tracker in a thread of its own.

    Args:
        name: for messages.
        opened: opens it, in the thread.
        say: prints one line.
    """

    def __init__(self, name: str, opened: Callable[[], Tracker], say: Callable[[str], None]) -> None:
        self.name, self._say, self._left_out, self._off = name, say, 0, False
        self._calls: queue.Queue[Callable[[Tracker], None] | None] = queue.Queue(WAITING)
        self._thread = Thread(target=self._work, args=(opened,), name=f"tracker {name}", daemon=True)
        self._thread.start()

    def tell(self, call: Callable[[Tracker], None]) -> None:
        """Have the tracker called soon; nothing waits for it."""
        try:
            if not self._off:
                self._calls.put_nowait(call)
        except queue.Full:
            self._left_out += 1

    def close(self) -> None:
        """Wait a while until the tracker has got all, and say what it has not."""
        try:
            self._calls.put(None, timeout=PATIENCE)
            self._thread.join(PATIENCE)
        except queue.Full:
            pass
        if self._thread.is_alive():
            self._say(f"sink '{self.name}' did not end within {PATIENCE:.0f} s and is left behind")
        if self._left_out:
            self._say(f"sink '{self.name}' was too slow: {self._left_out} lines are in metrics.jsonl alone")

    def _work(self, opened: Callable[[], Tracker]) -> None:
        try:
            tracker = opened()
            while (call := self._calls.get()) is not None:
                call(tracker)
            tracker.finish()
        except Exception as error:
            # A tracker is a convenience: whatever it raises must not end a training run.
            self._off = True
            self._say(f"sink '{self.name}' failed and is off: {shown.first_line(error)}")
