"""Progress on the terminal: a bar with time left where there is one, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from nanogen.log import say

Listener = Callable[[str, int, int], None]
_LISTENER: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """While it is entered, `tell` calls the listener, and no training shows a bar of its own."""
    token = _LISTENER.set(listener)
    try:
        yield
    finally:
        _LISTENER.reset(token)


def tell(stage: str, done: int, total: int) -> None:
    """Tell the listener, if there is one, how much of a stage is done."""
    if (listener := _LISTENER.get()) is not None:
        listener(stage, done, total)


class Progress:
    """Steps done of `last`, with the newest numbers."""

    def __init__(self, first: int, last: int) -> None:
        self.last = last
        console = Console(stderr=True)
        self._bar = None
        if console.is_terminal and first < last and _LISTENER.get() is None:
            columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Bar(*columns, TextColumn("{task.fields[numbers]}"), console=console)
            self._task = self._bar.add_task("", total=last, completed=first, numbers="")
            self._bar.start()

    def show(self, step: int, numbers: Mapping[str, float]) -> None:
        """Tell the numbers of a step."""
        shown = ("images_per_second", "grad_norm")
        text = "  ".join(
            f"{name.removeprefix('loss/').replace('images_per_second', 'images/s')} {value:.4g}"
            for name, value in numbers.items()
            if name.startswith("loss/") or name in shown
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=step, numbers=text)
        elif _LISTENER.get() is None and (step % max(1, self.last // 20) == 0 or step == self.last):
            say(f"step {step}/{self.last}  {text}")

    def close(self) -> None:
        if self._bar is not None:
            # The terminal may be gone.
            with suppress(OSError):
                self._bar.stop()


class Overall:
    """One bar over several jobs, each of the same stages, with the time left of all of them.

    Args:
        jobs: seconds that each stage takes on some machine, by job and stage; their ratios matter. Other stages are
            shown and count nothing.
    """

    def __init__(self, jobs: Mapping[str, Mapping[str, float]]) -> None:
        self.jobs, self.job = jobs, next(iter(jobs))
        self.total = sum(sum(stages.values()) for stages in jobs.values())
        self.done = 0.0
        self._pace: float | None = None
        self._stage, self._since, self._told = "", (time.monotonic(), 0.0), -1.0
        self._bar = None
        console = Console(stderr=True)
        if console.is_terminal:
            columns = (TextColumn("{task.percentage:3.0f} %"), BarColumn(), TextColumn("{task.description}"))
            self._bar = Bar(*columns, console=console)
            self._task = self._bar.add_task("", total=self.total)

    def __enter__(self) -> Overall:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            with suppress(OSError):
                self._bar.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show how much of a stage of the present job is done."""
        names = list(self.jobs)
        stages = self.jobs[self.job]
        before = sum(sum(self.jobs[name].values()) for name in names[: names.index(self.job)])
        if stage in stages:
            order = list(stages)
            before += sum(stages[name] for name in order[: order.index(stage)])
            self.done = before + stages[stage] * done / max(1, total)
        now = time.monotonic()
        if (self.job + stage) != self._stage:
            # What was there already took no time: the pace counts within a stage.
            self._stage, self._since = self.job + stage, (now, self.done)
        elif self.done > self._since[1]:
            self._pace = (now - self._since[0]) / (self.done - self._since[1])
        self._show(f"{self.job}: {stage}{f' {done}/{total}' if total > 1 else ''}{self._left()}")

    def _left(self) -> str:
        if self._pace is None or self.done >= self.total:
            return ""
        minutes = (self.total - self.done) * self._pace / 60
        return f", about {minutes:.0f} min left" if minutes >= 1.5 else ", about a minute left"

    def _show(self, text: str) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, description=text)
        elif self.done >= self._told + self.total / 20:
            self._told = self.done
            say(f"{100 * self.done / self.total:.0f} %  {text}")
