"""The leaderboard, computed from records: both axes side by side, every cell with its record.

1. Columns are declared (`columns`, `boards.yaml`). A value whose record fits no column is listed with the reason, and
   takes part in nothing else.
2. Repeats of one method under one column are one cell, their mean. Networks of one name for different tasks of one axis
   have other weights and no column in common: they are rows of their own.
3. The holistic rank is over the columns that the board declares for it. Only rows that hold a value of status "ok" in
   every one are ranked, so that neither missing nor doubtful values change a rank.
4. Within a column the best value has rank 1; ties share their mean rank. The rank of an axis is the mean over its
   columns; the mean rank is the mean over the axes, so that the number of metrics does not weight an axis. Places order
   the mean ranks.
5. The interval of a mean rank: every value is drawn again with the noise of one scoring (the record's own standard
   error, else the published re-scoring); values of unknown noise stay fixed.
6. The Pareto front: ranked rows that no other ranked row matches or beats in every holistic column.

Ranks are formed over the whole board before rows are filtered, so a filter never changes a rank.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from diffusionbench.catalog import metric_info, resolve_metric
from diffusionbench.errors import RequestError
from diffusionbench.record import SEVERITY, Record
from diffusionbench.registry import nearest
from diffusionbench.study.analysis import rescoring_noise
from diffusionbench.study.cells import Cell, best_status, cell_of, setting_of, status_of
from diffusionbench.study.columns import (
    MEASURED,
    BoardSpec,
    Column,
    board_spec,
    declared,
    place_of,
    plain_id,
    score_set_of,
)
from diffusionbench.study.correlate import kendall, mid_ranks
from diffusionbench.study.cost import derived_value, is_derived, with_derived
from diffusionbench.study.points import families, in_set, method_key

DRAWS: Final = 2000
# Axis, network of the method on it, and how it samples.
_Setting = tuple[str, int, str]
# A record with the columns that its values stand under.
_Placed = tuple[Record, dict[str, Column]]


@dataclass(frozen=True, kw_only=True)
class BoardRow:
    """One method with its cells by column id; ranks are None where it lacks a holistic column.

    Attributes:
        axis_ranks: mean rank over the holistic columns of each axis.
        places: lowest and highest place when any one holistic column is dropped.
        missing: holistic columns in which it has no value that takes a place.
    """

    name: str
    method: str
    title: str
    family: str | None
    kind: str
    cells: dict[str, Cell]
    ranks: dict[str, float] = field(default_factory=dict)
    axis_ranks: dict[str, float] = field(default_factory=dict)
    mean_rank: float | None = None
    interval: tuple[float, float] | None = None
    place: float | None = None
    places: tuple[float, float] | None = None
    pareto: bool = False
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listed:
    """A record with values that stand in no column: listed, not ranked.

    Attributes:
        record: its id.
        values: the values that have no place, by metric.
        reason: why not, in words.
    """

    record: str
    method: str
    title: str
    kind: str
    values: dict[str, Cell]
    reason: str


@dataclass(frozen=True)
class ColumnAblation:
    """The holistic order without one column: Kendall's tau with the full order, the largest change of place."""

    column: str
    tau: float | None
    largest_shift: float
    moved: str
    first: str


@dataclass(frozen=True, kw_only=True)
class Board:
    """One declared board with its rows.

    Attributes:
        score_set: name of the board.
        columns: as declared, whether or not a record fills them.
        listed: records that fit no column, in the order given.
        holistic: ids of the columns that form the mean rank.
        statuses: of the values that take a place.
        fixed: holistic columns whose noise is not known.
    """

    score_set: str
    version: int
    title: str
    about: str
    columns: tuple[Column, ...]
    rows: tuple[BoardRow, ...]
    listed: tuple[Listed, ...]
    holistic: tuple[str, ...]
    statuses: tuple[str, ...]
    sensitivity: tuple[ColumnAblation, ...]
    fixed: tuple[str, ...]
    draws: int
    seed: int


def build(
    records: Iterable[Record],
    board: str | BoardSpec,
    *,
    holistic: Sequence[str] = (),
    draws: int = DRAWS,
    seed: int = 0,
    siblings: Sequence[BoardSpec] | None = None,
) -> Board:
    """Return a board with its rows.

    Args:
        records: any mixture; only those of the board's set are used.
        board: name of a declared board, or a board.
        holistic: column ids or metric aliases that form the mean rank; empty: those that the board declares.
        draws: re-scorings behind the interval of a mean rank; 0 skips it.
        seed: of them.
        siblings: boards that may hold a record instead, so that it is not listed here; None: those declared.

    Raises:
        RequestError: for an unknown board or column.
    """
    spec = board_spec(board) if isinstance(board, str) else board
    columns = spec.columns
    pool = in_set(records, spec.records)
    others = [one for one in (declared().values() if siblings is None else siblings) if one.records == spec.records]
    costs = [column for column in columns if is_derived(column.key)]
    rows, listed = _rows(pool, spec, [one for one in others if one.name != spec.name and "@" not in one.name])
    if costs:
        by_name = {record.id: record for record in pool}
        rows = [replace(row, cells=row.cells | _costs(row, by_name, costs)) for row in rows]
    known = [column.id for column in columns]
    chosen = tuple(column_id(name, spec.name, known) for name in holistic) or tuple(c.id for c in columns if c.rank)
    by_id = {column.id: column for column in columns}
    if undirected := [name for name in chosen if by_id[name].higher_is_better is None]:
        raise RequestError(f"column '{undirected[0]}' cannot be ranked: whether higher is better is not known.")
    ranked, sensitivity, fixed = _rank(rows, [by_id[name] for name in chosen], spec.statuses, draws, seed)
    return Board(
        score_set=spec.name,
        version=spec.version,
        title=spec.title,
        about=spec.about,
        columns=columns,
        rows=tuple(ranked),
        listed=tuple(listed),
        holistic=chosen,
        statuses=spec.statuses,
        sensitivity=sensitivity,
        fixed=fixed,
        draws=draws,
        seed=seed,
    )


def chosen_boards(
    records: Iterable[Record], names: Sequence[str], boards: Mapping[str, BoardSpec] | None = None
) -> list[BoardSpec]:
    """Return the boards for names given by a user: of a board, of a set ("measured": every board over it), or "all".

    Args:
        records: a board that was not named itself is left out where none of them holds a metric of it.
        names: empty: the first board, and those over measured records.
        boards: to choose from; None: those declared.

    Raises:
        RequestError: for an unknown name.
    """
    known = declared() if boards is None else boards
    current = [board for name, board in known.items() if "@" not in name]
    found: dict[str, BoardSpec] = {}
    for name in names or [current[0].name, MEASURED]:
        if name in known:
            found[name] = known[name]
            continue
        over = current if name == "all" else [board for board in current if board.records == name]
        if not over and names:
            raise RequestError(f"unknown board '{name}'. {nearest(name, [*known, MEASURED, 'all'])}")
        pool = list(records)
        filled = [board for board in over if any(_belongs(record, board) for record in pool)]
        found |= {board.name: board for board in (filled or over if names else filled)}
    return list(found.values())


def with_epochs(board: BoardSpec, names: Iterable[str]) -> BoardSpec:
    """Return a board with a column more for every "epochs_to_METRIC@VALUE" among the names that it does not declare."""
    known = {column.id for column in board.columns}
    keys = [name for name in dict.fromkeys(names) if "@" in name and is_derived(name) and plain_id(name) not in known]
    more = [
        Column(plain_id(key), key, info.axis or "class_conditional", metric_info(key).title, higher_is_better=False)
        for key in keys
        for info in [metric_info(key.removeprefix("epochs_to_").partition("@")[0])]
    ]
    return replace(board, columns=(*board.columns, *more))


def _belongs(record: Record, board: BoardSpec) -> bool:
    return score_set_of(record) == board.records and any(column.key in record.values for column in board.columns)


def column_id(name: str, score_set: str, known: Sequence[str]) -> str:
    """Return the column id for a name given by a user: an id, or a metric with an optional "@cfg".

    Raises:
        RequestError: if the board has no such column.
    """
    if name in known:
        return name
    if is_derived(name) and (identifier := plain_id(name)) in known:
        return identifier
    metric, separator, state = name.partition("@")
    try:
        key = resolve_metric(metric, score_set, {column.split("@")[0].split("[")[0] for column in known})
    except RequestError:
        raise RequestError(f"unknown column '{name}'. {nearest(name, list(known))}") from None
    found = f"{key}{separator}{state}"
    if found not in known:
        raise RequestError(f"unknown column '{name}'. {nearest(found, list(known))}")
    return found


def keep(board: Board, *, family: Sequence[str] = (), kind: str | None = None) -> Board:
    """Return the board with some of its rows and their ranks in the whole set.

    Raises:
        RequestError: for an unknown family or kind.
    """
    kept = families(family) if family else None
    if kind not in (None, "measured", "published"):
        raise RequestError(f"unknown kind '{kind}'. Known: measured, published.")
    rows = [row for row in board.rows if (kept is None or row.family in kept) and kind in (None, row.kind)]
    return replace(board, rows=tuple(rows))


def order(board: Board, by: str = "place", *, reverse: bool = False) -> Board:
    """Return the board sorted, best first; rows without the value, or whose value takes no place, are last either way.

    `by` is "place", "name", "family", an axis, or a column; `reverse` puts the worst first.

    Raises:
        RequestError: for an unknown column.
    """
    axes = sorted({axis for row in board.rows for axis in row.axis_ranks})
    if by in ("name", "family"):
        rows = sorted(board.rows, key=lambda row: str(getattr(row, by)).casefold(), reverse=reverse)
        return replace(board, rows=tuple(rows))
    sign = 1.0
    if by not in ("place", *axes):
        by = column_id(by, board.score_set, [column.id for column in board.columns])
        (column,) = (column for column in board.columns if column.id == by)
        sign = -1.0 if column.higher_is_better else 1.0

    def value(row: BoardRow) -> float | None:
        if by == "place":
            return row.place
        if by in axes:
            return row.axis_ranks.get(by)
        return row.cells[by].value if by in row.cells and row.cells[by].status in board.statuses else None

    have = [(row, number) for row in board.rows if (number := value(row)) is not None and math.isfinite(number)]
    have.sort(key=lambda pair: sign * pair[1], reverse=reverse)
    present = {id(row) for row, _ in have}
    return replace(board, rows=(*(row for row, _ in have), *(row for row in board.rows if id(row) not in present)))


def _rows(
    pool: Sequence[Record], spec: BoardSpec, siblings: Sequence[BoardSpec]
) -> tuple[list[BoardRow], list[Listed]]:
    """Return one row per method and setting, and the records with values that have no column."""
    by_key: dict[str, list[Column]] = {}
    for column in spec.columns:
        by_key.setdefault(column.key, []).append(column)
    elsewhere = [column for board in siblings for column in board.columns]
    # By method and axis.
    methods: dict[str, dict[str, list[_Placed]]] = {}
    keys = {column.id: column.key for column in spec.columns}
    listed: list[Listed] = []
    for record in pool:
        placed: dict[str, Column] = {}
        reasons: dict[str, str] = {}
        known: dict[object, list[str]] = {}
        for key in record.values:
            if key in by_key:
                found, reason = place_of(record, key, by_key[key], known)
                if found is None:
                    reasons[key] = reason
                else:
                    placed[found.id] = found
        if placed:
            axes = methods.setdefault(method_key(record), {})
            axes.setdefault(record.protocol.axis, []).append((record, placed))
        fitting = {column.key for column in elsewhere if column.key in record.values and not column.misfits(record)}
        if reasons:
            reasons = {key: reason for key, reason in reasons.items() if key not in fitting}
            if reasons:
                listed.append(_listed(record, reasons))
        elif not placed and not any(column.key in record.values for column in elsewhere):
            listed.append(_listed(record, dict.fromkeys(record.values, "no column of a board holds its metrics")))
    rows = []
    for name, axes in methods.items():
        settings: dict[_Setting, dict[str, list[Record]]] = {}
        for axis, held in axes.items():
            for number, network in enumerate(_networks(held)):
                for record, columns in network:
                    groups = settings.setdefault((axis, number, setting_of(record)), {})
                    for identifier in columns:
                        groups.setdefault(identifier, []).append(record)
        slots = _slots(settings, keys)
        for index, slot in enumerate(slots):
            row, left = _row(name if index == 0 else f"{name}#{index + 1}", slot, keys)
            rows.append(row)
            listed += left
    return rows, listed


def _costs(row: BoardRow, records: Mapping[str, Record], columns: Sequence[Column]) -> dict[str, Cell]:
    """Return by column what the networks behind a row cost; each network counts once, several are their mean."""
    behind = [records[name] for cell in row.cells.values() for name in cell.records]
    found = {}
    for column in columns:
        networks: dict[str, Record] = {}
        for record in behind:
            if record.protocol.axis == column.axis and derived_value(record, column.key) is not None:
                networks.setdefault(record.provenance.checkpoint_digest or record.id, record)
        if networks:
            found[column.id] = cell_of([with_derived(one, [column.key]) for one in networks.values()], column.key)
    return found


def _listed(record: Record, reasons: dict[str, str]) -> Listed:
    texts = dict.fromkeys(reasons.values())
    # One reason of several metrics is said once.
    reason = "; ".join(texts) if len(texts) == 1 else "; ".join(f"{key}: {text}" for key, text in reasons.items())
    cells = {key: cell_of([record], key) for key in reasons}
    return Listed(record.id, record.method, record.title, record.kind, cells, reason)


def _networks(records: Iterable[_Placed]) -> list[list[_Placed]]:
    """Return the records of one method and axis apart by network: of equal weights, or repeats, which share a column.

    Records that do not state their weights are of one network.
    """
    found: list[tuple[set[str | None], set[str], list[_Placed]]] = []
    for record, columns in records:
        weights, filled = {record.provenance.checkpoint_digest}, {*columns}
        same: list[_Placed] = []
        apart = []
        for network in found:
            if weights & network[0] or filled & network[1]:
                weights, filled, same = weights | network[0], filled | network[1], same + network[2]
            else:
                apart.append(network)
        found = [*apart, (weights, filled, [*same, (record, columns)])]
    return [network for _, _, network in found]


def _slots(
    settings: dict[_Setting, dict[str, list[Record]]], keys: dict[str, str]
) -> list[list[dict[str, list[Record]]]]:
    """Return the settings of a method that share a row, row by row: no column and no axis of another network stands
    twice in a row.

    Settings with better statuses come first, then older ones, so that no later record takes a row apart.
    """

    def order(groups: dict[str, list[Record]]) -> tuple[int, str]:
        held = [(record, name) for name, records in groups.items() for record in records]
        status = min(SEVERITY.index(status_of(record, keys[name])[0]) for record, name in held)
        return status, min(record.provenance.created or "~" for record, _ in held)

    slots: list[dict[_Setting, dict[str, list[Record]]]] = []
    for (axis, network, setting), groups in sorted(settings.items(), key=lambda pair: order(pair[1])):
        for slot in slots:
            shared = any(groups.keys() & other.keys() for other in slot.values())
            if not shared and not any(one == axis and number != network for one, number, _ in slot):
                break
        else:
            slots.append(slot := {})
        slot[axis, network, setting] = groups
    return [[*slot.values()] for slot in slots]


def _row(name: str, slot: list[dict[str, list[Record]]], keys: dict[str, str]) -> tuple[BoardRow, list[Listed]]:
    """Return the row of some settings, and the values that a better status of the same cell leaves out."""
    cells, left = {}, []
    for groups in slot:
        for column, records in groups.items():
            records.sort(key=lambda record: record.provenance.created or "~")
            chosen, others = best_status(records, keys[column])
            cells[column] = cell_of(chosen, keys[column])
            for record in others:
                status, reason = status_of(record, keys[column])
                why = f"{status}: {reason}; the row shows values that are {cells[column].status}"
                left.append(_listed(record, {keys[column]: why}))
    firsts = [next(iter(groups.values()))[0] for groups in slot]
    row = BoardRow(
        name=name,
        method=firsts[0].method,
        # The last title wins: text-to-image titles contain the training length.
        title=firsts[-1].title,
        family=next((record.family for record in firsts if record.family), None),
        kind=firsts[0].kind,
        cells=cells,
    )
    return row, left


def _rank(
    rows: list[BoardRow], columns: Sequence[Column], statuses: Sequence[str], draws: int, seed: int
) -> tuple[list[BoardRow], tuple[ColumnAblation, ...], tuple[str, ...]]:
    complete: list[BoardRow] = []
    others: list[BoardRow] = []
    for row in rows:
        counted = {name for name, one in row.cells.items() if one.status in statuses and math.isfinite(one.value)}
        missing = [column.id for column in columns if column.id not in counted]
        (others if missing or not columns else complete).append(replace(row, missing=tuple(missing)))
    if not complete:
        return others, (), ()
    # Lower is better from here on.
    signs = np.array([-1.0 if column.higher_is_better else 1.0 for column in columns])
    values = np.array([[row.cells[column.id].value for column in columns] for row in complete]) * signs
    axes = [column.axis for column in columns]
    ranks = np.stack([mid_ranks(column) for column in values.T], axis=1)
    means = _mean_rank(ranks, axes)
    places = mid_ranks(means)
    intervals, fixed = _intervals(complete, columns, values, draws, seed)
    # On the Pareto front are rows that no other row matches or beats everywhere and beats somewhere.
    no_worse = (values[None] <= values[:, None]).all(2)
    better = (values[None] < values[:, None]).any(2)
    front = ~np.any(no_worse & better, axis=1)
    dropped, place_range = _sensitivity(complete, ranks, columns, places)
    ranked = [
        replace(
            row,
            ranks={column.id: float(ranks[i, j]) for j, column in enumerate(columns)},
            axis_ranks={a: float(ranks[i, [b == a for b in axes]].mean()) for a in dict.fromkeys(axes)},
            mean_rank=float(means[i]),
            interval=intervals[i] if intervals else None,
            place=float(places[i]),
            places=place_range[i],
            pareto=bool(front[i]),
        )
        for i, row in enumerate(complete)
    ]
    return sorted(ranked, key=lambda row: (row.mean_rank, row.name)) + others, dropped, fixed


def _mean_rank(ranks: np.ndarray, axes: Sequence[str]) -> np.ndarray:
    """Return the mean over axes of the mean rank [..., columns] over the columns of an axis, [...]."""
    masks = [np.array([axis == name for axis in axes]) for name in dict.fromkeys(axes)]
    # Rounded, so that equal means reached by different sums stay ties.
    return np.asarray(np.round(np.mean([ranks[..., mask].mean(-1) for mask in masks], axis=0), 9))


def _intervals(
    rows: Sequence[BoardRow], columns: Sequence[Column], values: np.ndarray, draws: int, seed: int
) -> tuple[list[tuple[float, float]] | None, tuple[str, ...]]:
    """Return the interval of the mean rank of each row, and the columns of unknown noise."""
    noise = np.zeros_like(values)
    for j, column in enumerate(columns):
        published = rescoring_noise(column.key)
        for i, row in enumerate(rows):
            own = row.cells[column.id].noise
            noise[i, j] = own if own is not None else published.sd if published else 0.0
    fixed = tuple(column.id for j, column in enumerate(columns) if not noise[:, j].any())
    if not draws or not noise.any():
        return None, fixed
    rng = np.random.default_rng(np.random.SeedSequence([seed, 5]))
    ranks = np.empty((draws, *values.shape))
    for j in range(values.shape[1]):
        if noise[:, j].any():
            drawn = values[:, j] + noise[:, j] * rng.standard_normal((draws, len(values)))
            np.put_along_axis(ranks[:, :, j], drawn.argsort(1), np.arange(1.0, len(values) + 1)[None], 1)
        else:
            ranks[:, :, j] = mid_ranks(values[:, j])
    low, high = np.quantile(_mean_rank(ranks, [column.axis for column in columns]), [0.025, 0.975], axis=0)
    return [(float(a), float(b)) for a, b in zip(low, high, strict=True)], fixed


def _sensitivity(
    rows: Sequence[BoardRow], ranks: np.ndarray, columns: Sequence[Column], places: np.ndarray
) -> tuple[tuple[ColumnAblation, ...], list[tuple[float, float]]]:
    found, place_range = [], [places]
    for j, column in enumerate(columns if len(columns) > 1 else ()):
        left = [k for k in range(len(columns)) if k != j]
        means = _mean_rank(ranks[:, left], [columns[k].axis for k in left])
        moved = mid_ranks(means)
        place_range.append(moved)
        shifts = np.abs(moved - places)
        tau = kendall(places, moved, draws=0).value
        far, first = int(shifts.argmax()), int(means.argmin())
        found.append(ColumnAblation(column.id, tau, float(shifts[far]), rows[far].name, rows[first].name))
    low, high = np.min(place_range, axis=0), np.max(place_range, axis=0)
    return tuple(found), [(float(a), float(b)) for a, b in zip(low, high, strict=True)]
