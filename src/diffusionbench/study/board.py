"""The leaderboard, computed from records: both axes side by side, every cell with its record.

The holistic rank:

1. Holistic columns: FID without and with guidance (axis class_conditional), GenEval, DPG-Bench and GenAI-Bench (axis
   t2i). SimpleEval is shown, but not counted for published figures: they print it in one chart only.
2. Only rows that hold every holistic column are ranked, so that missing values change no rank. Within a column the best
   value has rank 1; ties share their mean rank.
3. The rank of an axis is the mean over its columns; the mean rank is the mean over the axes, so that the number of
   metrics does not weight an axis. Places order the mean ranks.
4. The interval of a mean rank: every value is drawn again with the noise of one scoring (the record's own standard
   error, else the published re-scoring); values of unknown noise stay fixed.
5. The Pareto front: ranked rows that no other ranked row matches or beats in every holistic column.

Ranks are formed over the whole score set before rows are filtered, so a filter never changes a rank.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from diffusionbench.catalog import direction, metric_info, resolve_metric
from diffusionbench.errors import RequestError
from diffusionbench.protocol import COMPARED, protocol_difference
from diffusionbench.record import Protocol, Record, printed_digits, reference_names
from diffusionbench.registry import nearest
from diffusionbench.study.analysis import rescoring_noise
from diffusionbench.study.correlate import kendall, mid_ranks
from diffusionbench.study.points import (
    MEASURED,
    families,
    guidance_state,
    in_set,
    method_key,
)

HOLISTIC: Final = ("fid", "fid@cfg", "geneval_overall", "dpgbench", "genaibench_overall")
# For measured records our own SimpleEval and the digits' distance count, too.
HOLISTIC_MEASURED: Final = (*HOLISTIC, "simpleeval_v1", "fd_digits", "fd_digits@cfg", "simpleeval_shapes_v1")
SHOWN: Final = (
    *HOLISTIC,
    "simpleeval_published_2026_06",
    "simpleeval_published_2026_05",
    "simpleeval_v1",
    "fd_digits",
    "fd_digits@cfg",
    "accuracy_digits",
    "simpleeval_shapes_v1",
)
DRAWS: Final = 2000


@dataclass(frozen=True)
class Column:
    """One metric under one protocol.

    Attributes:
        id: metric key, "@cfg" where guided or "@unstated" where the record does not say, and in brackets the fields
            in which its protocol differs from that of a similar column.
    """

    id: str
    key: str
    axis: str
    title: str
    higher_is_better: bool | None


@dataclass(frozen=True)
class Cell:
    """One value and the record that holds it; `printed` are the digits of a published table."""

    value: float
    record: str
    stderr: float | None = None
    interval: tuple[float, float] | None = None
    printed: str | None = None


@dataclass(frozen=True, kw_only=True)
class BoardRow:
    """One method with its cells by column id; ranks are None where it lacks a holistic column.

    Attributes:
        axis_ranks: mean rank over the holistic columns of each axis.
        places: lowest and highest place when any one holistic column is dropped.
        missing: holistic columns it lacks.
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
class ColumnAblation:
    """The holistic order without one column: Kendall's tau with the full order, the largest change of place."""

    column: str
    tau: float | None
    largest_shift: float
    moved: str
    first: str


@dataclass(frozen=True, kw_only=True)
class Board:
    """One score set as a table.

    Attributes:
        columns: every column that a record of the set fills, holistic ones first.
        holistic: ids of the columns that form the mean rank.
        fixed: holistic columns whose noise is not known.
    """

    score_set: str
    columns: tuple[Column, ...]
    rows: tuple[BoardRow, ...]
    holistic: tuple[str, ...]
    sensitivity: tuple[ColumnAblation, ...]
    fixed: tuple[str, ...]
    draws: int
    seed: int


def build(
    records: Iterable[Record],
    score_set: str,
    *,
    holistic: Sequence[str] = (),
    draws: int = DRAWS,
    seed: int = 0,
) -> Board:
    """Return the leaderboard of one set.

    Args:
        records: any mixture; only those of the set are used.
        score_set: published set or "measured".
        holistic: column ids or metric aliases that form the mean rank; empty: the default of the set, as far as
            the set has these columns.
        draws: re-scorings behind the interval of a mean rank; 0 skips it.
        seed: of them.

    Raises:
        RequestError: for an unknown set or column.
    """
    pool = in_set(records, score_set)
    columns, placed = _columns(pool)
    rows = _rows(pool, placed)
    known = [column.id for column in columns]
    if holistic:
        chosen = tuple(column_id(name, score_set, known) for name in holistic)
    else:
        default = HOLISTIC_MEASURED if score_set == MEASURED else HOLISTIC
        chosen = tuple(name for name in default if name in known)
    by_id = {column.id: column for column in columns}
    if undirected := [name for name in chosen if by_id[name].higher_is_better is None]:
        raise RequestError(f"column '{undirected[0]}' cannot be ranked: whether higher is better is not known.")
    ranked, sensitivity, fixed = _rank(rows, [by_id[name] for name in chosen], draws, seed)
    display = [*chosen, *(name for name in SHOWN if name not in chosen), *known]
    return Board(
        score_set=score_set,
        columns=tuple(sorted(columns, key=lambda column: display.index(column.id))),
        rows=tuple(ranked),
        holistic=chosen,
        sensitivity=sensitivity,
        fixed=fixed,
        draws=draws,
        seed=seed,
    )


def column_id(name: str, score_set: str, known: Sequence[str]) -> str:
    """Return the column id for a name given by a user: an id, or a metric with an optional "@cfg".

    Raises:
        RequestError: if the board has no such column.
    """
    if name in known:
        return name
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
    """Return the board sorted, best first; rows without the value are last in both directions.

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
        return row.axis_ranks.get(by) if by in axes else row.cells[by].value if by in row.cells else None

    have = [(row, number) for row in board.rows if (number := value(row)) is not None and math.isfinite(number)]
    have.sort(key=lambda pair: sign * pair[1], reverse=reverse)
    present = {id(row) for row, _ in have}
    return replace(board, rows=(*(row for row, _ in have), *(row for row in board.rows if id(row) not in present)))


def _columns(pool: Sequence[Record]) -> tuple[list[Column], dict[str, dict[str, str]]]:
    """Return the columns, one per protocol, and by record id and metric the column of each value."""
    groups: dict[tuple[str, str], list[list[Record]]] = {}
    for record in pool:
        state = guidance_state(record)
        suffix = {"none": "", "cfg": "@cfg", None: "@unstated"}[state]
        if record.protocol.axis != "class_conditional":
            suffix = ""
        for key in record.values:
            alike = groups.setdefault((key, suffix), [])
            for group in alike:
                if not protocol_difference(group[0], record, key):
                    group.append(record)
                    break
            else:
                alike.append([record])
    columns: list[Column] = []
    placed: dict[str, dict[str, str]] = {}
    for (key, suffix), alike in groups.items():
        info = metric_info(key)
        labels = _labels([group[0].protocol for group in alike])
        guided = {"@cfg": ", guided", "@unstated": ", guidance not stated"}.get(suffix, "")
        for group, label in zip(alike, labels, strict=True):
            # A metric of another package may be called "fid@cfg", and must not take the id of that column.
            identifier = re.sub(r"[@\[\]#]", "_", key) + suffix + label
            if any(column.id == identifier for column in columns):
                identifier += f"#{len(columns)}"
            better = direction(key, group[0].values[key])
            axis = group[0].protocol.axis
            columns.append(Column(identifier, key, axis, info.title + guided + label, better))
            for record in group:
                placed.setdefault(record.id, {})[key] = identifier
    return columns, placed


def _labels(protocols: Sequence[Protocol]) -> list[str]:
    """Return suffixes that distinguish columns of one metric, such as "[count=5000]"; none for a single column."""
    if len(protocols) == 1:
        return [""]
    facts = [{"reference": reference_names(p)} | {name: str(getattr(p, name)) for name in COMPARED} for p in protocols]
    fields = [name for name in facts[0] if len({one[name] for one in facts}) > 1]
    labels = ["[" + ",".join(f"{name}={one[name][:12]}" for name in fields) + "]" for one in facts]
    # Protocols may differ in extractor weights only, or in the end of a digest.
    return [f"{label[:-1]}#{i + 1}]" if labels.count(label) > 1 else label for i, label in enumerate(labels)]


def _rows(pool: Sequence[Record], placed: dict[str, dict[str, str]]) -> list[BoardRow]:
    """Return one row per method, and further rows for further records of the same cell."""
    slots: dict[str, list[list[Record]]] = {}
    for record in pool:
        wanted = set(placed.get(record.id, {}).values())
        for slot in slots.setdefault(method_key(record), []):
            taken = {column for other in slot for column in placed.get(other.id, {}).values()}
            if not wanted & taken:
                slot.append(record)
                break
        else:
            slots[method_key(record)].append([record])
    rows = []
    for name, alike in slots.items():
        for index, slot in enumerate(alike):
            cells = {}
            for record in slot:
                for key, value in record.values.items():
                    cells[placed[record.id][key]] = Cell(
                        value.value, record.id, value.stderr, value.interval, printed_digits(record, key)
                    )
            # The last title wins: text-to-image titles contain the training length.
            rows.append(
                BoardRow(
                    name=name if index == 0 else f"{name}#{index + 1}",
                    method=slot[0].method,
                    title=slot[-1].title,
                    family=next((record.family for record in slot if record.family), None),
                    kind=slot[0].kind,
                    cells=cells,
                )
            )
    return rows


def _rank(
    rows: list[BoardRow], columns: Sequence[Column], draws: int, seed: int
) -> tuple[list[BoardRow], tuple[ColumnAblation, ...], tuple[str, ...]]:
    complete: list[BoardRow] = []
    others: list[BoardRow] = []
    for row in rows:
        missing = [c.id for c in columns if c.id not in row.cells or not math.isfinite(row.cells[c.id].value)]
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
            own = row.cells[column.id].stderr
            noise[i, j] = own if own is not None else published.sd if published else 0.0
    fixed = tuple(column.id for j, column in enumerate(columns) if not noise[:, j].any())
    if not draws or not noise.any():
        return None, fixed
    rng = np.random.default_rng(np.random.SeedSequence([seed, 5]))
    ranks = np.empty((draws, *values.shape))
    for j in range(values.shape[1]):
        if noise[:, j].any():
            drawn = values[:, j] + noise[:, j] * rng.standard_normal((draws, len(values)))
            ranks[:, :, j] = drawn.argsort(1).argsort(1) + 1
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
