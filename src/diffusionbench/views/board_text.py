"""A board as a table in the terminal, JSON, CSV or Markdown. Every output can say which record a cell comes from."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from diffusionbench.shown import cell, printable
from diffusionbench.study.board import SHOWN, Board, BoardRow, Cell, Column, column_id

ABSENT = "-"


def shown(board: Board, names: Sequence[str] = ()) -> list[Column]:
    """Return the columns to print: those named, all for "all", else the headline ones (all where there are none)."""
    known = [column.id for column in board.columns]
    if "all" in names:
        return list(board.columns)
    if names:
        wanted = [column_id(name, board.score_set, known) for name in names]
        return [column for name in wanted for column in board.columns if column.id == name]
    headline = (*board.holistic, *SHOWN)
    # Images of a stranger's folder may lack the word on guidance; their headline values are shown all the same.
    usual = [c for c in board.columns if c.id.split("[")[0].removesuffix("@unstated") in headline]
    return usual or list(board.columns)


def digits(cell: Cell) -> str:
    """Return the value as its table printed it, else four significant digits."""
    if cell.printed is not None:
        return cell.printed
    return f"{cell.value:.3f}" if abs(cell.value) < 1 else f"{cell.value:.4g}"


def with_error(cell: Cell) -> str:
    """Value and standard error, or its interval, or the value alone where no uncertainty is known."""
    if cell.stderr is not None:
        return f"{digits(cell)} ± {cell.stderr:.2g}"
    if cell.interval is not None:
        return f"{digits(cell)} [{cell.interval[0]:.4g}, {cell.interval[1]:.4g}]"
    return digits(cell)


def as_dict(board: Board) -> dict[str, Any]:
    """Return the whole board; each cell carries the id of its record."""
    return asdict(board)


def print_board(board: Board, console: Console, columns: Sequence[Column], trace: bool = False) -> None:
    """Print the table, how the rank was formed, and how it depends on each column."""
    title = f"{board.score_set}: {len(board.rows)} rows; every cell is one record's value (--trace, --json, --csv)"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in ("place", "method", "family", "kind"):
        table.add_column(head, no_wrap=True)
    for column in columns:
        arrow = {True: " ↑", False: " ↓", None: ""}[column.higher_is_better]
        table.add_column(column.title + arrow, justify="right", overflow="fold", min_width=6)
    axes = _axes(board)
    for head in (*(f"{axis.split('_')[0]} rank" for axis in axes), "mean rank", "95 %", "places"):
        table.add_column(head, justify="right", overflow="fold", min_width=4)
    table.add_column("front", no_wrap=True)
    for row in board.rows:
        cells = [with_error(row.cells[c.id]) if c.id in row.cells else ABSENT for c in columns]
        ranks = [_number(row.axis_ranks.get(axis)) for axis in axes]
        front = "yes" if row.pareto else ""
        table.add_row(*_facts(row), *cells, *ranks, _number(row.mean_rank), *_spans(row), front)
    console.print(table)
    for line in notes(board):
        console.print(line)
    if hidden := len(board.columns) - len(columns):
        console.print(f"not shown: {hidden} further column{'s' * (hidden > 1)} (--columns all)")
    if trace:
        for row in board.rows:
            for column in columns:
                if column.id in row.cells:
                    console.print(f"{row.name}  {column.id}  {row.cells[column.id].record}")


def _spans(row: BoardRow) -> tuple[str, str]:
    """The interval of the mean rank, and the places reached when one column is dropped."""
    interval = ABSENT if row.interval is None else f"{row.interval[0]:.1f}-{row.interval[1]:.1f}"
    return interval, ABSENT if row.places is None else f"{_number(row.places[0])}-{_number(row.places[1])}"


def notes(board: Board) -> list[str]:
    """Return how the mean rank was formed and how it moves when one column is dropped, in plain sentences."""
    if not board.holistic:
        return ["mean rank: not defined; no column of this set counts towards it. Choose some with --holistic."]
    lines = [
        "mean rank: mean over the axes of the mean rank over " + ", ".join(board.holistic) + "; ranked are rows that "
        "have all of them; front: no ranked row matches or beats it in every one"
    ]
    if not any(row.place is not None for row in board.rows):
        return [*lines, "no row has every one of these columns: ranks are not defined. Choose columns with --holistic."]
    if board.draws:
        fixed = f"; noise not known, held fixed: {', '.join(board.fixed)}" if board.fixed else ""
        lines.append(f"95 %: every value drawn again with its noise, {board.draws} draws, seed {board.seed}{fixed}")
    if board.sensitivity:
        lines.append("places: lowest and highest place when any one of these columns is dropped")
    for one in board.sensitivity:
        tau = "not defined" if one.tau is None else f"{one.tau:.3f}"
        lines.append(
            f"without {one.column}: Kendall tau with this order {tau}, largest move {one.largest_shift:g} places "
            f"({one.moved}), first {one.first}"
        )
    return lines


def as_csv(board: Board, columns: Sequence[Column]) -> str:
    """Return CSV with one row per method; beside each value its standard error and the id of its record."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["place", "name", "title", "family", "kind"]
    for column in columns:
        head += [column.id, f"{column.id} stderr", f"{column.id} record"]
    head += [*(f"rank {axis}" for axis in _axes(board)), "mean rank", "rank low", "rank high", "pareto"]
    writer.writerow(map(cell, head))
    for row in board.rows:
        line: list[Any] = [row.place, *map(cell, (row.name, row.title, row.family or "", row.kind))]
        for column in columns:
            found = row.cells.get(column.id)
            line += [found.value, found.stderr, cell(found.record)] if found else [None, None, None]
        line += [row.axis_ranks.get(axis) for axis in _axes(board)]
        writer.writerow([*line, row.mean_rank, *(row.interval or (None, None)), row.pareto])
    return text.getvalue()


def as_markdown(board: Board, columns: Sequence[Column]) -> str:
    """Return a table for a document, with the records of each row in the last column."""
    heads = ["place", "method", "family", "kind", *(column.title for column in columns), "mean rank", "records"]
    lines = [
        "| " + " | ".join(map(_escape, heads)) + " |",
        "|" + "|".join(["---"] * 4 + ["---:"] * (len(columns) + 1) + ["---"]) + "|",
    ]
    for row in board.rows:
        cells = [with_error(row.cells[c.id]) if c.id in row.cells else ABSENT for c in columns]
        lines.append("| " + " | ".join([*map(_escape, _facts(row)), *cells, _rank(row), _records(row, columns)]) + " |")
    return "\n".join([*lines, "", *(f"- {_escape(line)}" for line in notes(board))]) + "\n"


def _facts(row: BoardRow) -> list[str]:
    return [_number(row.place), row.title, row.family or ABSENT, row.kind]


def _rank(row: BoardRow) -> str:
    if row.mean_rank is None:
        return ABSENT
    return _number(row.mean_rank) + (f" ({row.interval[0]:.1f}-{row.interval[1]:.1f})" if row.interval else "")


def _records(row: BoardRow, columns: Sequence[Column]) -> str:
    ids = dict.fromkeys(row.cells[column.id].record for column in columns if column.id in row.cells)
    return ", ".join(f"`{identifier}`" for identifier in ids)


def _axes(board: Board) -> list[str]:
    return list(dict.fromkeys(column.axis for column in board.columns if column.id in board.holistic))


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.1f}".removesuffix(".0")


def _escape(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|~&])", r"\\\1", printable(text))
