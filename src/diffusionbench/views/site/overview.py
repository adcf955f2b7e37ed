"""Pages about all records: Figure 1, the leaderboard, and the files to download.

The first two hand JSON to a script of theirs, which draws, sorts and filters.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass, replace
from typing import Any, Final

from diffusionbench.catalog import metric_info
from diffusionbench.record import Record, Value
from diffusionbench.shown import few
from diffusionbench.study.analysis import seeds_of
from diffusionbench.study.board import DRAWS, Board, BoardRow, Listed
from diffusionbench.study.cells import Cell
from diffusionbench.study.columns import MEASURED
from diffusionbench.study.correlate import pearson
from diffusionbench.study.floors import at_floor
from diffusionbench.study.points import Point
from diffusionbench.views.figure import (
    BENCHMARKS,
    OTHER,
    STATES,
    STYLES,
    UNSTATED,
    Baseline,
    Figure,
    FigurePanel,
    axis_title,
    spread,
    state_words,
    undrawn,
    x_name,
    y_title,
)
from diffusionbench.views.site.contents import (
    SETS,
    Contents,
    caption,
    family_look,
    finite,
    method_page,
    printed,
    record_page,
)
from diffusionbench.views.site.render import Pages, to_json
from diffusionbench.views.terminal import (
    board_csv,
    digits,
    holistic_axes,
    number,
    rank_notes,
    shown,
    span,
    status_notes,
    to_csv,
    with_error,
)

# Names shown for one reason why methods are not among the points, before "and N more".
_NAMED: Final = 12
# Values and records without a place that a board's page names, and values of one of them.
_NOTED: Final = 200
_VALUES: Final = 3
# Bytes of rows above which the further columns of a board are in its CSV only, so that the page opens at once.
_BUDGET: Final = 900_000
# Methods up to which the first page bootstraps their seeds.
_MOST: Final = 100
_GUIDED: Final = {"none": "without guidance", "cfg": "with tuned guidance"}
_POINT_COLUMNS: Final = (
    "set", "guidance", "method", "title", "family", "x_metric", "x", "x_record", "y_metric", "y", "y_record"
)  # fmt: skip


def figure_page(contents: Contents, site: Pages) -> Iterator[tuple[str, str]]:
    """Yield the path and HTML of the first page."""
    sets: list[dict[str, Any]] = []
    for name, states in contents.figures.items():
        title, about = SETS[name]
        costs = contents.cost_figures.get(name, {})
        views = {"": states, **costs}
        axes = {"": x_name(states["none"].x_key), **{key: metric_info(key).title for key in costs}}
        shown = {axis: {state: _view(contents, one) for state, one in held.items()} for axis, held in views.items()}
        hidden = [key for key, style in STYLES.items() if not _at_first(name, key)]
        sets.append({"key": name, "title": title, "about": about, "axes": axes, "hidden": hidden, "views": shown})
    held = {
        m["family"] for one in sets for axis in one["views"].values() for view in axis.values() for m in view["methods"]
    }
    named = [key for key in STYLES if key in held]
    families = [{"key": key, **family_look(key)} for key in [*named, *sorted(held - set(named))]]
    counts = {"records": len(contents.records), "methods": len({record.method for record in contents.records})}
    yield (
        "index.html",
        site.render(
            "index.html",
            here="index.html",
            scripts=("stats.js", "axes.js", "figure.js"),
            data={"sets": sets, "families": families},
            sets=sets,
            families=families,
            states=STATES,
            benchmarks=BENCHMARKS,
            axis=sets[0]["axes"][""] if sets else "FID",
            answers=[SETS[name][0] + ": " + answer(list(states.values())) for name, states in contents.figures.items()],
            counts=counts,
            updated=contents.updated,
            live=contents.live is not None,
        ),
    )


def _at_first(score_set: str, family: str | None) -> bool:
    """Return whether the figure shows a family at first: of the published sets the study's latent methods."""
    return score_set == MEASURED or STYLES.get(family or "", OTHER).shown


def answer(states: Sequence[Figure]) -> str:
    """Return in a sentence whether the horizontal metric predicts the scores, with the widest intervals.

    Over the methods that the figure shows at first. "Yes" needs every interval without 0, "no sign of it" every one
    with it; SimpleEval is left out where there are other benchmarks, as each set defines it anew.
    """
    said, found, methods = [], [], 0
    for one in states:
        panels = [panel for panel in one.panels if "simpleeval" not in panel.key and panel.points] or one.panels[:1]
        chosen = [[p for p in panel.points if _at_first(one.score_set, p.family)] for panel in panels]
        methods = max(methods, *map(len, chosen))
        values = [pearson([p.x for p in points], [p.y for p in points], draws=0) for points in chosen]
        spans = [(float(r), r.fisher) for r in values if r.fisher is not None]
        if not spans:
            continue
        found += [span for _, span in spans]
        low, high = min(r for r, _ in spans), max(r for r, _ in spans)
        ends = min(low for _, (low, _) in spans), max(high for _, (_, high) in spans)
        size = f"{low:+.2f}" if len(spans) == 1 else f"{low:+.2f} to {high:+.2f}"
        said.append(f"{size} (95 % from {ends[0]:+.2f} to {ends[1]:+.2f}) {_GUIDED[one.guidance]}")
    if not found:
        return "too few methods have both scores for a correlation."
    away = sum(low > 0 or high < 0 for low, high in found)
    word = "Yes" if away == len(found) else "No sign of it" if not away else "Only in part"
    over = f"{methods} methods" if states[0].score_set == MEASURED else f"{methods} latent methods"
    return f"{word}. Over {over} the correlation r is {', and '.join(said)}."


def _view(contents: Contents, figure: Figure) -> dict[str, Any]:
    """Return one state of the figure: the methods once, and for each panel the values of their indices."""
    methods: dict[str, Point] = {}
    reasons: dict[str, dict[str, None]] = {}
    for panel in figure.panels:
        for point in panel.points:
            methods.setdefault(point.name, point)
        for name, reason in panel.left_out:
            reasons.setdefault(reason, {})[name] = None
    places = {name: place for place, name in enumerate(methods)}
    return {
        "x": {
            "key": figure.x_key,
            "title": f"{x_name(figure.x_key)}{state_words(figure)}",
            "axis": axis_title(figure),
            "better": metric_info(figure.x_key).higher_is_better,
            "lines": _lines(contents, figure.baselines, figure.x_key),
        },
        "methods": [_method(contents, point, figure.x_key) for point in methods.values()],
        "panels": [_panel(contents, panel, places) for panel in figure.panels if panel.points],
        "undrawn": undrawn(figure),
        "leftOut": [f"{reason}: {few([*names], first=_NAMED)}" for reason, names in reasons.items()],
    }


def _method(contents: Contents, point: Point, x_key: str) -> dict[str, Any]:
    record = contents.by_id[point.x_record]
    return {
        "name": point.name,
        "title": point.title,
        "family": point.family or UNSTATED,
        "page": method_page(record.method),
        "record": record.id,
        "x": point.x,
        "shown": _with_mark(point.x_value, record, x_key),
        "sd": spread(point.x_runs),
        "runs": len(point.x_runs),
    }


def _panel(contents: Contents, panel: FigurePanel, places: dict[str, int]) -> dict[str, Any]:
    def point(p: Point) -> tuple[Any, ...]:
        text = _with_mark(p.y_value, contents.by_id[p.y_record], panel.key)
        return places[p.name], p.y, text, p.y_record, spread(p.y_runs), int(at_floor(panel.key, p.y_value))

    return {
        "key": panel.key,
        "title": panel.title,
        "axis": y_title(panel),
        "better": metric_info(panel.key).higher_is_better,
        "about": panel.about,
        "lines": _lines(contents, panel.baselines, panel.key),
        "seeds": _seeds(panel.points),
        "flagged": any("flagged" in (p.x_value.status, p.y_value.status) for p in panel.points),
        "points": [*map(point, panel.points)],
    }


def _seeds(points: Sequence[Point]) -> str | None:
    """Return r of all points with its interval over methods and seeds; None without repeats or for many methods."""
    if len(points) > _MOST or (found := seeds_of(points, DRAWS)) is None:
        return None
    return (
        f"All {found.methods} methods, {found.repeated} with several seeds: r {number(found.value)}, 95 % over methods "
        f"and seeds {span(found.interval)}, over seeds alone {span(found.seeds_interval)}"
    )


def _lines(contents: Contents, baselines: Sequence[Baseline], key: str) -> list[tuple[str, float, str]]:
    """Return title, value and text of each baseline."""
    found = []
    for one in baselines:
        record = contents.by_id[one.record]
        own = key in record.values and record.values[key].value == one.value
        found.append((one.title, one.value, printed(record, key) if own else digits(one.value)))
    return found


def _with_mark(value: Value, record: Record, key: str) -> str:
    """Return a point's value as its table printed it, with its status unless ok; no table printed a mean of repeats."""
    alone = key in record.values and value.value == record.values[key].value
    text = printed(record, key) if alone else digits(value.value)
    return text if value.status == "ok" else f"{text} ({value.status})"


def board_page(contents: Contents, site: Pages) -> Iterator[tuple[str, str]]:
    """Yield the path and HTML of the leaderboard."""
    sets = [_board(name, board, True) for name, board in contents.boards.items()]
    if len(to_json(sets)) > _BUDGET:
        sets = [_board(name, board, False) for name, board in contents.boards.items()]
    families = {
        row.family or UNSTATED: family_look(row.family) for board in contents.boards.values() for row in board.rows
    }
    data = {"sets": sets, "families": families}
    yield (
        "leaderboard.html",
        site.render("leaderboard.html", here="leaderboard.html", scripts=("axes.js", "board.js"), data=data, sets=sets),
    )


def _board(name: str, board: Board, every_column: bool) -> dict[str, Any]:
    headline = {column.id for column in shown(board)}
    columns = [column for column in board.columns if every_column or column.id in headline]
    axes = holistic_axes(board)
    more = [] if every_column else ["further columns are in the CSV of the data page"]
    return {
        "key": name,
        "title": board.title,
        "about": board.about,
        "axes": axes,
        "kinds": len({row.kind for row in board.rows}),
        "columns": [
            {
                "id": column.id,
                "title": column.title,
                "axis": column.axis,
                "better": column.higher_is_better,
                "headline": column.id in headline,
            }
            for column in columns
        ],
        "rows": [_row(row, [column.id for column in columns], axes, board.statuses) for row in board.rows],
        "notes": [*rank_notes(board), *more],
        "doubts": status_notes(replace(board, listed=()), columns)[:_NOTED],
        "listed": [_listed(held) for held in board.listed[:_NOTED]],
        "unlisted": max(0, len(board.listed) - _NOTED),
    }


def _listed(held: Listed) -> tuple[str, str, str, str]:
    """Return title, page, some values and reason of a record that stands in no column."""
    values = [f"{key} {digits(cell.value)}" for key, cell in held.values.items()]
    return held.title, record_page(held.record), few(values, first=_VALUES), held.reason


def _row(row: BoardRow, columns: list[str], axes: list[str], statuses: Sequence[str]) -> dict[str, Any]:
    cells = [row.cells.get(column) for column in columns]

    def shown_cell(cell: Cell) -> tuple[float | None, str, str, str]:
        """Return what a cell sorts by (None: last, without a place), its text, its record's page, and its reason."""
        value = finite(cell.value) if cell.status in statuses else None
        return value, with_error(cell), record_page(cell.record), f"{cell.status}: {cell.reason}" if cell.reason else ""

    return {
        "name": row.name,
        "title": row.title,
        "family": row.family or UNSTATED,
        "kind": row.kind,
        "page": method_page(row.method),
        "place": row.place,
        "mean": row.mean_rank,
        "interval": row.interval,
        "places": row.places,
        "pareto": row.pareto,
        "axisRanks": [row.axis_ranks.get(axis) for axis in axes],
        "cells": [cell and shown_cell(cell) for cell in cells],
    }


def downloads(contents: Contents, site: Pages) -> Iterator[tuple[str, str | bytes]]:
    """Yield (path, content) of the files to download, and the page that lists them."""
    points = [
        (name, state, p.name, p.title, p.family, figure.x_key, p.x, p.x_record, panel.key, p.y, p.y_record)
        for name, states in contents.figures.items()
        for state, figure in states.items()
        for panel in figure.panels
        for p in panel.points
    ]
    as_dicts = [dict(zip(_POINT_COLUMNS, point, strict=True)) for point in points]
    about = "the points of Figure 1: every set, state of guidance and panel"
    files: list[tuple[str, str, str | bytes]] = [
        ("data/figure1.csv", about, to_csv(_POINT_COLUMNS, points)),
        ("data/figure1.json", "the same as JSON", _json(as_dicts)),
    ]
    for name, board in contents.boards.items():
        about = f"leaderboard, all columns: {board.title}"
        files.append((f"data/leaderboard-{name}.csv", about, board_csv(board, board.columns)))
        files.append((f"data/leaderboard-{name}.json", "the same as JSON, with ranks and sensitivity", _json(board)))
    # Line by line: a file of thousands of records stays readable by tools that stream.
    lines = "".join(f"{record.model_dump_json()}\n" for record in contents.records)
    files.append(("data/records.jsonl.gz", "every record, one a line", gzip.compress(lines.encode(), mtime=0)))
    yield from ((path, text) for path, _, text in files)
    entries = [(path, about) for path, about, _ in files]
    count, kinds = len(contents.records), caption(contents.records)
    yield "data.html", site.render("data.html", here="data.html", entries=entries, count=count, caption=kinds)


def _json(content: Any) -> str:
    shape: dict[str, Any] = {"separators": (",", ":"), "ensure_ascii": False, "allow_nan": False, "default": vars}
    try:
        text = json.dumps(content, **shape)
    except ValueError:
        text = json.dumps(_defined(content), **shape)
    return text + "\n"


def _defined(content: Any) -> Any:
    """Return the content with null for numbers that JSON cannot hold."""
    if isinstance(content, float):
        return finite(content)
    if is_dataclass(content):
        return _defined(vars(content))
    if isinstance(content, dict):
        return {key: _defined(value) for key, value in content.items()}
    return [_defined(value) for value in content] if isinstance(content, list | tuple) else content
