"""Progress on the terminal: a bar with time left where there is one, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from itertools import takewhile

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
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


class _Shown:
    """A bar on stderr where that is a terminal; closed like a file."""

    def __init__(self, wanted: bool, total: float, done: float, *columns: ProgressColumn) -> None:
        console = Console(stderr=True)
        self.bar = Bar(*columns, console=console) if wanted and console.is_terminal else None
        if self.bar is not None:
            self._task = self.bar.add_task("", total=total, completed=int(done))
            self.bar.start()

    def update(self, done: float, text: str) -> None:
        if self.bar is not None:
            self.bar.update(self._task, completed=done, description=text)

    def close(self) -> None:
        if self.bar is not None:
            # The terminal may be gone.
            with suppress(OSError):
                self.bar.stop()


class Progress(_Shown):
    """Steps done of `last`, with the newest numbers."""

    def __init__(self, first: int, last: int) -> None:
        self.last = last
        columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        wanted = first < last and _LISTENER.get() is None
        super().__init__(wanted, last, first, *columns, TextColumn("{task.description}"))

    def show(self, step: int, numbers: Mapping[str, float]) -> None:
        """Tell the numbers of a step."""
        shown = ("images_per_second", "grad_norm")
        text = "  ".join(
            f"{name.removeprefix('loss/').replace('images_per_second', 'images/s')} {value:.4g}"
            for name, value in numbers.items()
            if name.startswith("loss/") or name in shown
        )
        self.update(step, text)
        told = self.bar is not None or _LISTENER.get() is not None
        if not told and (step % max(1, self.last // 20) == 0 or step == self.last):
            say(f"step {step}/{self.last}  {text}")


class Overall(_Shown):
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
        columns = (TextColumn("{task.percentage:3.0f} %"), BarColumn(), TextColumn("{task.description}"))
        super().__init__(True, self.total, 0, *columns)

    def __enter__(self) -> Overall:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show how much of a stage of the present job is done."""
        stages, finished = self.jobs[self.job], takewhile(lambda job: job != self.job, self.jobs)
        if stage in stages:
            before = sum(sum(self.jobs[job].values()) for job in finished)
            before += sum(stages[name] for name in takewhile(lambda name: name != stage, stages))
            self.done = before + stages[stage] * done / max(1, total)
        now = time.monotonic()
        if (self.job + stage) != self._stage:
            # What was there already took no time: the pace counts within a stage.
            self._stage, self._since = self.job + stage, (now, self.done)
        elif self.done > self._since[1]:
            self._pace = (now - self._since[0]) / (self.done - self._since[1])
        text = f"{self.job}: {stage}{f' {done}/{total}' if total > 1 else ''}{self._left()}"
        self.update(self.done, text)
        if self.bar is None and self.done >= self._told + self.total / 20:
            self._told = self.done
            say(f"{100 * self.done / self.total:.0f} %  {text}")

    def _left(self) -> str:
        if self._pace is None or self.done >= self.total:
            return ""
        minutes = (self.total - self.done) * self._pace / 60
        return f", about {minutes:.0f} min left" if minutes >= 1.5 else ", about a minute left"
