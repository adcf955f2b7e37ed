"""The leaderboard page: the boards of `board.build`, as rows for a script that sorts and filters them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from diffusionbench.study.board import Board, BoardRow
from diffusionbench.views.board_text import notes, shown, with_error
from diffusionbench.views.figure import UNSTATED
from diffusionbench.views.site.contents import SETS, Contents, family_look, finite, method_page, record_page
from diffusionbench.views.site.render import Pages, to_json

SCRIPTS: Final = ("axes.js", "board.js")
# Bytes of rows above which a board leaves its further columns to the CSV, so that the page opens at once.
_BUDGET: Final = 900_000


def pages(contents: Contents, site: Pages) -> Iterator[tuple[str, str]]:
    """(path, HTML)."""
    sets = [_set(name, board, True) for name, board in contents.boards.items()]
    if len(to_json(sets)) > _BUDGET:
        sets = [_set(name, board, False) for name, board in contents.boards.items()]
    families = {
        row.family or UNSTATED: family_look(row.family) for board in contents.boards.values() for row in board.rows
    }
    data = {"sets": sets, "families": families}
    yield (
        "leaderboard.html",
        site.render("leaderboard.html", here="leaderboard.html", scripts=SCRIPTS, data=data, sets=sets),
    )


def _set(name: str, board: Board, every_column: bool) -> dict[str, Any]:
    title, about = SETS[name]
    headline = {column.id for column in shown(board)}
    columns = [column for column in board.columns if every_column or column.id in headline]
    axes = list(dict.fromkeys(column.axis for column in board.columns if column.id in board.holistic))
    more = [] if every_column else ["further columns are in the CSV of the data page"]
    return {
        "key": name,
        "title": title,
        "about": about,
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
        "rows": [_row(row, [column.id for column in columns], axes) for row in board.rows],
        "notes": [*notes(board), *more],
    }


def _row(row: BoardRow, columns: list[str], axes: list[str]) -> dict[str, Any]:
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
        "cells": [_cell(row, column) for column in columns],
    }


def _cell(row: BoardRow, column: str) -> tuple[float | None, str, str] | None:
    cell = row.cells.get(column)
    return None if cell is None else (finite(cell.value), with_error(cell), record_page(cell.record))
