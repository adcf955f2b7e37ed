"""Where the time of a training step goes, told without a wait in the step."""

from __future__ import annotations

import time
from collections import defaultdict

import torch


class StepTimes:
    """Seconds of the parts of a step, as `nanogen.train.updates` marks their ends; "ema" is the last.

    On a CPU they are the mean over the steps since the last call of `read`. A GPU works behind the host: there they
    are those of the newest step, by events that it passes.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._last = time.perf_counter()
        self._seconds: dict[str, float] = defaultdict(float)
        self._steps = 0
        self._events: list[tuple[str, torch.cuda.Event]] = []
        self._newest: list[tuple[str, torch.cuda.Event]] = []

    def __call__(self, part: str) -> None:
        if self._cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append((part, event))
            if part == "ema":
                # The end of a step is the start of the next one.
                self._newest, self._events = self._events, self._events[-1:]
            return
        now = time.perf_counter()
        self._seconds[part] += now - self._last
        self._last = now
        self._steps += part == "ema"

    def read(self) -> dict[str, float]:
        """Return the seconds by part; nothing where no step has ended. Where lines are written, not in the step."""
        if self._cuda:
            found: dict[str, float] = defaultdict(float)
            if self._newest:
                self._newest[-1][1].synchronize()
            for (_, start), (part, end) in zip(self._newest, self._newest[1:], strict=False):
                found[part] += start.elapsed_time(end) / 1e3
            return dict(found)
        steps = max(1, self._steps)
        read = {part: seconds / steps for part, seconds in self._seconds.items()} if self._steps else {}
        self._seconds.clear()
        self._steps = 0
        return read

    def restart(self) -> None:
        """Leave out what has passed since the last mark: it belongs to no step."""
        self._last = time.perf_counter()
