"""Files to download (records, boards, the figure's points, as CSV and JSON), and the page that lists them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import is_dataclass
from typing import Any, Final

from diffusionbench.shown import cell
from diffusionbench.views.board_text import as_csv
from diffusionbench.views.site.contents import SETS, Contents, caption, finite
from diffusionbench.views.site.render import Pages

HEAD: Final = ("set", "guidance", "method", "title", "family", "x_metric", "x", "x_record", "y_metric", "y", "y_record")


def pages(contents: Contents, site: Pages) -> Iterator[tuple[str, str]]:
    """(path, text)."""
    entries: list[tuple[str, str]] = []

    def add(path: str, what: str, text: str) -> tuple[str, str]:
        entries.append((path, what))
        return path, text

    points = _points(contents)
    yield add("data/figure1.csv", "the points of Figure 1: every set, state of guidance and panel", _as_csv(points))
    yield add("data/figure1.json", "the same as JSON", _json(points))
    for name, board in contents.boards.items():
        title = SETS[name][0]
        columns = list(board.columns)
        yield add(f"data/leaderboard-{name}.csv", f"leaderboard, all columns: {title}", as_csv(board, columns))
        yield add(f"data/leaderboard-{name}.json", "the same as JSON, with ranks and sensitivity", _json(board))
    # Line by line: a file of thousands of records stays readable by tools that stream.
    lines = "".join(f"{record.model_dump_json()}\n" for record in contents.records)
    yield add("data/records.jsonl", "every record, one a line", lines)
    yield (
        "data.html",
        site.render(
            "data.html",
            here="data.html",
            entries=entries,
            count=len(contents.records),
            caption=caption(contents.records),
        ),
    )


def _json(content: Any) -> str:
    shape: dict[str, Any] = {"separators": (",", ":"), "ensure_ascii": False, "allow_nan": False, "default": vars}
    try:
        text = json.dumps(content, **shape)
    except ValueError:
        text = json.dumps(_defined(content), **shape)
    return text + "\n"


def _defined(content: Any) -> Any:
    """The content with null for numbers that JSON cannot hold."""
    if isinstance(content, float):
        return finite(content)
    if is_dataclass(content):
        return _defined(vars(content))
    if isinstance(content, dict):
        return {key: _defined(value) for key, value in content.items()}
    return [_defined(value) for value in content] if isinstance(content, list | tuple) else content


def _points(contents: Contents) -> list[dict[str, Any]]:
    found = []
    for name, states in contents.figures.items():
        for state, shown in states.items():
            for panel in shown.panels:
                for p in panel.points:
                    axes = (shown.x_key, p.x, p.x_record, panel.key, p.y, p.y_record)
                    found.append(dict(zip(HEAD, (name, state, p.name, p.title, p.family, *axes), strict=True)))
    return found


def _as_csv(points: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEAD)
    for point in points:
        writer.writerow([cell(value) if isinstance(value, str) else value for value in point.values()])
    return text.getvalue()
