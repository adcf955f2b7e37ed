"""The verbs that read records only: board, correlate, submit, validate. No torch, and no work before a verb runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from diffusionbench.errors import RequestError

DEFAULT_FOLDER = Path("records")

Folders = Annotated[
    list[Path] | None,
    typer.Option("--records", help="folder of records to add to the published ones; ./records where it exists"),
]
ScoreSet = Annotated[str, typer.Option("--set", help="paper-2026-06, blog-2026-05 or measured")]
Families = Annotated[
    list[str] | None,
    typer.Option("--family", help="rae, vae, e2e, pixel, few-step, latent, all; repeat it"),
]
Select = Annotated[list[str] | None, typer.Option("--select", help="methods or record ids to keep; repeat it")]
Json = Annotated[bool, typer.Option("--json", help="print JSON and nothing else")]
Draws = Annotated[int, typer.Option("--draws", min=0, max=1_000_000, help="resamples and permutations; 0 skips them")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="of the draws")]


def register(app: typer.Typer) -> None:
    """Add the verbs to a program."""
    app.command()(correlate)


def _gather(folders: Sequence[Path] | None) -> list[Any]:
    from diffusionbench.points import gather

    if folders is None or not folders:
        folders = [DEFAULT_FOLDER] if DEFAULT_FOLDER.is_dir() else []
    return gather(folders)


def _split(words: Sequence[str] | None) -> list[str]:
    """A repeated option whose values may also be joined by commas."""
    return [part.strip() for word in words or () for part in word.split(",") if part.strip()]


def correlate(
    x: Annotated[str, typer.Option("--x", help="metric on the horizontal axis")] = "fid",
    y: Annotated[str, typer.Option("--y", help="metric on the vertical axis")] = "geneval",
    guidance: Annotated[str, typer.Option("--guidance", help="ImageNet column: none or cfg (tuned)")] = "none",
    score_set: ScoreSet = "paper-2026-06",
    family: Families = None,
    select: Select = None,
    top: Annotated[list[int] | None, typer.Option("--top", min=1, help="a best-on-x subset's size; repeat it")] = None,
    records: Folders = None,
    draws: Draws = 10_000,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Say how well one metric predicts another over methods, and what that answer hangs on.

    Examples:

      diffusionbench correlate --x fid --y geneval

      diffusionbench correlate --y genaibench --guidance cfg --family latent

      diffusionbench correlate --set measured --x fd_digits --y simpleeval_shapes_v1 --records outputs --json
    """
    from diffusionbench.points import select_points
    from diffusionbench.study import TOP, analyse
    from diffusionbench.study_text import as_dict, print_study

    asked = _split(family)
    selection = select_points(
        _gather(records), x, y, guidance=guidance, score_set=score_set, family=asked, select=_split(select)
    )
    separate = any(name.lower() in ("e2e", "e2e-vae") for name in asked)
    study = analyse(selection, separate_e2e=separate, draws=draws, seed=seed, top=top or TOP)
    if as_json:
        print(json.dumps(as_dict(study), indent=2))
    else:
        print_study(study, _console())


def _console() -> Any:
    from rich.console import Console

    # A file or a pipe has no width; a table must not be folded to 80 columns there.
    return Console(width=None if sys.stdout.isatty() else 140, highlight=False)


def _one_of(name: str, chosen: str, known: Sequence[str]) -> str:
    from diffusionbench.registry import nearest

    if chosen not in known:
        raise RequestError(f"unknown {name} '{chosen}'. {nearest(chosen, list(known))}")
    return chosen
