"""The table of a running study: cell, state, time left, score so far. Lines where there is no terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from diffusionbench.metrics import METRICS
from diffusionbench.views.terminal import digits
from nanogen import log
from nanogen.log import say
from nanogen.study.file import StudyCell
from nanogen.study.planning import CellPlan
from nanogen.study.runner import StudyFolder

# Bytes at the end of a log in which its newest line stands.
_TAIL = 64 * 1024


def duration(seconds: float | None) -> str:
    """Return hours and minutes, or seconds below two minutes; "-" where unknown."""
    if seconds is None:
        return "-"
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds // 3600:.0f}:{seconds % 3600 // 60:02.0f} h"


def headline(cell: StudyCell) -> str:
    """Return the metric by which a cell is shown: the one that tunes, else its first."""
    metrics = cell.composed.config.eval.metrics
    return next((key for key in metrics if METRICS[key].reference and cell.tunes), metrics[0])


@dataclass
class _Row:
    state: str = "waiting"
    score: str = ""
    left: float | None = None
    since: float = field(default_factory=time.monotonic)
    first: int | None = None


class StudyView:
    """Shows states; call it as `nanogen.study.runner.Tell`."""

    def __init__(self, cells: Sequence[StudyCell], plans: Sequence[CellPlan], folder: StudyFolder) -> None:
        self.cells = {cell.name: cell for cell in cells}
        self.plans = {plan.name: plan for plan in plans}
        self.folder = folder
        self.rows = {name: _Row(left=self.plans[name].seconds if name in self.plans else None) for name in self.cells}
        console = Console(stderr=True)
        self._live = Live(self.table(), console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> StudyView:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            with suppress(OSError):
                self._live.stop()

    def __call__(self, name: str, state: str, score: str) -> None:
        row, cell = self.rows[name], self.cells[name]
        if row.state != state:
            row.state, row.since, row.first = state, time.monotonic(), None
            if state == "done":
                score = score_of(cell, self.folder)
            if self._live is None:
                say(f"{name}: {state}{f', {score}' if score else ''}; {duration(self.left())} left in all")
        row.score = score or row.score
        self._estimate(name, row)
        if self._live is not None:
            self._live.update(self.table(), refresh=True)

    def _estimate(self, name: str, row: _Row) -> None:
        """Take time left and score from what the cell's training has logged."""
        plan = self.plans.get(name)
        if row.state not in ("training", "scoring"):
            row.left = 0.0 if row.state in ("done", "failed", "in use elsewhere") else row.left
            return
        spent = time.monotonic() - row.since
        if row.state == "scoring":
            row.left = None if plan is None or plan.score_seconds is None else max(plan.score_seconds - spent, 0.0)
            return
        lines = _newest(self.folder, self.cells[name])
        step = max((line["step"] for line in lines), default=0)
        if row.first is None and step:
            row.first, row.since = step, time.monotonic()
        key = f"{log.EVAL}{headline(self.cells[name])}"
        row.score = next((_shown(key, line[key]) for line in reversed(lines) if key in line), row.score)
        if plan is not None and plan.steps and plan.train_seconds is not None:
            done = step - (row.first or 0)
            rate = spent / done if done > 0 else plan.train_seconds / plan.steps
            row.left = max(plan.steps - step, 0) * rate + (plan.score_seconds or 0)

    def left(self) -> float | None:
        """Return the seconds that all cells need, as far as they are known."""
        known = [row.left for row in self.rows.values() if row.left is not None]
        return sum(known) if known else None

    def table(self) -> Table:
        """Return the table as rich draws it."""
        table = Table("cell", "state", "time left", "score so far", caption=f"{duration(self.left())} left in all")
        for name, row in self.rows.items():
            table.add_row(name, row.state, duration(row.left) if row.left else "", row.score)
        return table


def score_of(cell: StudyCell, folder: StudyFolder) -> str:
    """Return the headline of a finished cell, in words."""
    key = headline(cell)
    found = (record.values[key].value for record in folder.records_of(cell) if key in record.values)
    return next((_shown(key, value) for value in found), "")


def _shown(key: str, value: float) -> str:
    return f"{key.removeprefix(log.EVAL)} {digits(value)}"


def _newest(folder: StudyFolder, cell: StudyCell) -> list[dict[str, Any]]:
    """Return the last lines of a training's log; a file that is being written is read as far as it is whole."""
    found = []
    try:
        with (folder.run(cell) / log.FILE).open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _TAIL))
            pieces = file.read().split(b"\n")
    except OSError:
        return []
    for piece in pieces:
        with suppress(ValueError):
            line = json.loads(piece)
            if isinstance(line, dict) and isinstance(line.get("step"), int):
                found.append(line)
    return found
