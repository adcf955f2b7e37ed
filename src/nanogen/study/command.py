"""`nanogen study`: read, plan, run, report."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from diffusionbench.errors import ConfigError, RunError
from diffusionbench.views.terminal import PlainConsole
from nanogen import run as runs
from nanogen.log import say
from nanogen.study.file import StudyCell, StudyFile, cells_of, chosen, read_study
from nanogen.study.planning import CellPlan, plan_cells
from nanogen.study.report import write_results
from nanogen.study.runner import StudyFolder, find_cell, run_cells
from nanogen.study.view import StudyView, duration, score_of


@dataclass(frozen=True)
class StudyRequest:
    """What a user asks of a study.

    Attributes:
        words: name or file of the study, and "key=value" changes of it.
        scale: in place of the file's.
        run: folder, or its name in outputs/; None: by the study's name.
        only: patterns of cells.
        part: index from 1, and number of parts.
        fresh: cells to measure anew.
        possible: leave out cells that make no sense.
        launch: words before our verbs, such as "torchrun --nproc-per-node 8 -m nanogen"; "": this Python.
    """

    words: Sequence[str] = ()
    scale: str | None = None
    run: str | None = None
    only: Sequence[str] = ()
    part: tuple[int, int] = (1, 1)
    fresh: Sequence[str] = ()
    possible: bool = False
    launch: str = ""


def run_study(request: StudyRequest, dry_run: bool = False, list_cells: bool = False) -> None:
    """Plan a study, run what is not finished, and write its report and site.

    Args:
        dry_run: stop after the plan.
        list_cells: print the cells with their states, and do nothing else.

    Raises:
        UserError: for whatever is wrong with the request, before anything is run.
        RunError: at the end, if a cell failed.
        Stopped: by a signal.
    """
    names = [word for word in request.words if "=" not in word]
    if len(names) > 1:
        raise ConfigError(f"expected at most one study, found {', '.join(names)}. Changes are key=value.")
    study = read_study(names[0] if names else None, [word for word in request.words if "=" in word], request.scale)
    cells, refused = cells_of(study, request.possible)
    mine = chosen(cells, request.only, request.part)
    folder = StudyFolder(runs.folder(request.run or f"study-{study.name}"))
    fresh = [find_cell(cells, name) for name in request.fresh]
    for reason in refused:
        say(f"left out: {reason}")
    if list_cells:
        _print_cells(mine, folder)
        return
    folder.open(study)
    folder.check([cell for cell in mine if cell not in fresh])
    for cell in fresh:
        folder.forget(cell)
    launch = shlex.split(request.launch) or [sys.executable, "-m", "nanogen"]
    waiting = [cell for cell in mine if (state := folder.state(cell)) is None or state.state != "done"]
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


def _print_cells(cells: Sequence[StudyCell], folder: StudyFolder) -> None:
    table = Table("cell", "state", "score")
    for cell in cells:
        state = folder.state(cell)
        table.add_row(cell.name, state.state if state else "waiting", score_of(cell, folder) if state else "")
    PlainConsole().print(table)


def _print_plan(study: StudyFile, cells: Sequence[StudyCell], plans: Sequence[CellPlan]) -> None:
    table = Table("cell", "steps", "training", "scoring", "disk")
    for plan in plans:
        row = [str(plan.steps or "-"), duration(plan.train_seconds), duration(plan.score_seconds)]
        table.add_row(plan.name, *row, f"{plan.num_bytes / 1e6:,.0f} MB")
    if plans:
        PlainConsole().print(table)
    for plan in plans:
        if plan.problem:
            say(f"{plan.name}: its steps could not be timed: {plan.problem}")
    seconds = [plan.seconds for plan in plans if plan.seconds is not None]
    print(
        f"study {study.name}: {len(cells)} cell(s), {len(plans)} to run, about {duration(sum(seconds))} and "
        f"{sum(plan.num_bytes for plan in plans) / 1e9:.2f} GB"
        + ("" if len(seconds) == len(plans) else f"; {len(plans) - len(seconds)} could not be planned")
    )
