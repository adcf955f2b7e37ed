"""The verbs that draw records: site and figure. No torch, and no work before a verb runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from diffusionbench.cli.board import Families, Folders, Json, ScoreSet, Select, gather_records, record_folders, split
from diffusionbench.writing import check_place


def register(app: typer.Typer) -> None:
    """Add the verbs to a program."""
    for verb in (site, figure):
        app.command()(verb)


def site(
    out: Annotated[Path, typer.Option("--out", help="folder: new, empty, or an earlier site")],
    records: Folders = None,
    as_json: Json = False,
) -> None:
    """Build the website: the interactive figure, the leaderboard, a page for each record, method and metric.

    Open index.html; no server and no network is needed.

    Examples:

      diffusionbench site --out public

      diffusionbench site --out public --records records --records outputs

      diffusionbench site --out /tmp/preview --json
    """
    from diffusionbench.views.site.build import build

    check_place(out, "folder")
    counts = build(gather_records(records), out, record_folders(records))
    index = out / "index.html"
    print(json.dumps({**counts, "index": str(index)}, indent=2) if as_json else index)


def figure(
    out: Annotated[Path, typer.Option("--out", help="file: .svg, .png or .pdf")],
    score_set: ScoreSet = "paper-2026-06",
    guidance: Annotated[str, typer.Option("--guidance", help="ImageNet column: none or cfg (tuned)")] = "none",
    family: Families = None,
    select: Select = None,
    records: Folders = None,
    columns: Annotated[int, typer.Option("--columns", min=1, max=4, help="panels side by side")] = 2,
) -> None:
    """Draw Figure 1 for a paper: text-to-image scores against ImageNet FID, with r, its interval and n.

    Examples:

      diffusionbench figure --out fig1.svg

      diffusionbench figure --out fig1.png --guidance cfg --family latent

      diffusionbench figure --out fig1.pdf --set blog-2026-05 --columns 4
    """
    from diffusionbench.views.figure import figure as points_of
    from diffusionbench.views.figure import write

    check_place(out)
    chosen = points_of(gather_records(records), score_set, guidance, family=split(family), select=split(select))
    write(out, chosen, columns=columns)
    print(out)
