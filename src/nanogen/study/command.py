"""`nanogen study`: read, plan, run, report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.table import Table

from diffusionbench.errors import ConfigError, RunError
from diffusionbench.registry import nearest
from diffusionbench.views.terminal import PlainConsole
from nanogen import run as runs
from nanogen.log import say
from nanogen.study.file import StudyCell, StudyFile, cells_of, chosen, read_study
from nanogen.study.planning import CellPlan, plan_cells
from nanogen.study.report import write_results
from nanogen.study.runner import StudyFolder, run_cells
from nanogen.study.view import StudyView, duration, score_of


@dataclass(frozen=True)
class StudyRequest:
    """What a user asks of a study; see `nanogen study --help`. A part is its index from 1, and their number."""

    words: Sequence[str] = ()
    scale: str | None = None
    run: str | None = None
    only: Sequence[str] = ()
    part: tuple[int, int] = (1, 1)
    fresh: Sequence[str] = ()
    possible: bool = False
    launch: str = ""


def run_study(request: StudyRequest, dry_run: bool = False, list_cells: bool = False) -> None:
    """Plan a study, run what is not finished, and write its report and site; RunError at the end if a cell failed."""
    names = [word for word in request.words if "=" not in word]
    if len(names) > 1:
        raise ConfigError(f"expected at most one study, found {', '.join(names)}. Changes are key=value.")
    study = read_study(names[0] if names else None, [word for word in request.words if "=" in word], request.scale)
    cells, refused = cells_of(study, request.possible)
    mine = chosen(cells, request.only, request.part)
    folder = StudyFolder(runs.folder(request.run or f"study-{study.name}"))
    known = {cell.name: cell for cell in cells}
    if unknown := [name for name in request.fresh if name not in known]:
        raise ConfigError(f"unknown cell '{unknown[0]}'. {nearest(unknown[0], list(known))}")
    fresh = [known[name] for name in request.fresh]
    for reason in refused:
        say(f"left out: {reason}")
    if list_cells:
        _print_table(("cell", "state", "score"), [_status(cell, folder) for cell in mine])
        return
    folder.open(study)
    folder.check([cell for cell in mine if cell not in fresh])
    for cell in fresh:
        folder.forget(cell)
    launch = shlex.split(request.launch) or [sys.executable, "-m", "nanogen"]
    waiting = [cell for cell in mine if not folder.is_done(cell)]
    plans = plan_cells(study, waiting, folder.path, launch, lambda name: say(f"{name}: timing a few steps"))
    _print_plan(study, mine, plans)
    folder.check_room(plans)
    if dry_run:
        return
    with StudyView(mine, plans, folder) as view:
        failed = run_cells(study, mine, folder, launch, view)
    report = write_results(study, cells, folder, failed)
    print(report)
    if wrong := {name: reason for name, reason in failed.items() if reason}:
        listed = "; ".join(wrong.values())
        raise RunError(f"{len(wrong)} of {len(mine)} cell(s) failed, the same command tries them again: {listed}")


def _status(cell: StudyCell, folder: StudyFolder) -> tuple[str, ...]:
    state = folder.state(cell)
    return (cell.name, state.state, score_of(cell, folder)) if state else (cell.name, "waiting", "")


def _print_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(*heads)
    for row in rows:
        table.add_row(*row)
    PlainConsole().print(table)


def _print_plan(study: StudyFile, cells: Sequence[StudyCell], plans: Sequence[CellPlan]) -> None:
    rows = [
        (
            plan.name,
            str(plan.steps or "-"),
            duration(plan.train_seconds),
            duration(plan.score_seconds),
            f"{plan.num_bytes / 1e6:,.0f} MB",
        )
        for plan in plans
    ]
    if rows:
        _print_table(("cell", "steps", "training", "scoring", "disk"), rows)
    for plan in plans:
        if plan.problem:
            say(f"{plan.name}: its steps could not be timed: {plan.problem}")
    seconds = [plan.seconds for plan in plans if plan.seconds is not None]
    unknown = len(plans) - len(seconds)
    print(
        f"study {study.name}: {len(cells)} cell(s), {len(plans)} to run, about {duration(sum(seconds))} and "
        f"{sum(plan.num_bytes for plan in plans) / 1e9:.2f} GB{f'; {unknown} could not be planned' if unknown else ''}"
    )
