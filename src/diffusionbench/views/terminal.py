"""Records, boards and studies as text for the terminal, and boards as Markdown and CSV."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from diffusionbench.available import metric_state, metric_words
from diffusionbench.catalog import direction, metric_info
from diffusionbench.errors import RequestError
from diffusionbench.metrics import METRICS
from diffusionbench.record import Record, facts_of, reference_names, told_doubt
from diffusionbench.shown import FIRST, cell, clipped, few, lines, printable, short_hashes
from diffusionbench.study.analysis import Study, SubsetCoefficient
from diffusionbench.study.board import Board, BoardRow, column_id
from diffusionbench.study.cells import Cell, status_of
from diffusionbench.study.columns import Column as BoardColumn
from diffusionbench.study.correlate import Coefficient
from diffusionbench.study.explain import Effect, Explanation
from diffusionbench.study.reporting import percent, table

ABSENT: Final = "-"
UNDEFINED: Final = "not defined"
ARROWS: Final = {True: " ↑", False: " ↓", None: ""}
# Columns for a file or a pipe, which has no width of its own: wide tables must not be folded to 80 there.
_PIPE: Final = 180
# Rows of a printed board; CSV, Markdown and JSON have all.
_ROWS: Final = 500
# Values and records without a place that are named below a board.
_NOTES: Final = 20


class PlainConsole(Console):
    """A console that prints strings unchanged: no markup, no emoji, and control characters made visible."""

    def __init__(self, width: int | None = None) -> None:
        """Take the number of columns; None: the terminal's."""
        super().__init__(file=sys.stdout, width=width, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Render a string unchanged; every string that rich prints, alone or in a table, passes here."""
        return super().render_str(printable(text), **options)


def _wide_console() -> PlainConsole:
    return PlainConsole(None if sys.stdout.isatty() else _PIPE)


# --- Numbers and tables ----------------------------------------------------------------------------------------------


def digits(value: float, printed: str | None = None) -> str:
    """Return a value as its published table printed it, else three decimals below 1 and four significant digits."""
    if printed is not None:
        return printed
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.4g}"


def with_error(found: Cell) -> str:
    """Return a cell's value with its standard error or else its interval, its repeats, and its status unless ok."""
    text = digits(found.value, found.printed)
    if found.stderr is not None:
        text += f" ± {found.stderr:.2g}"
    elif found.interval is not None:
        text += f" [{found.interval[0]:.4g}, {found.interval[1]:.4g}]"
    if found.n > 1:
        text += f", n = {found.n}" + ("" if found.spread is None else f", sd {found.spread:.2g}")
    return text if found.status == "ok" else f"{text} ({found.status})"


def number(value: float | None) -> str:
    """Return a signed number, or "not defined"."""
    return UNDEFINED if value is None else f"{value:+.4f}"


def span(interval: tuple[float, float] | None) -> str:
    """Return "[low, high]", or "not defined"."""
    return UNDEFINED if interval is None else f"[{interval[0]:+.3f}, {interval[1]:+.3f}]"


def _table(title: str, columns: Iterable[Any], rows: Iterable[Sequence[str]], **options: Any) -> Table:
    """Return a table of texts; columns are heads, or `Column`s with more than a head."""
    made = Table(*columns, title=title, title_justify="left", **options)
    for row in rows:
        made.add_row(*row)
    return made


def to_csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table as CSV; text that a spreadsheet would run as a formula is quoted."""
    text = io.StringIO()
    for row in (head, *rows):
        csv.writer(text, lineterminator="\n").writerow([cell(one) if isinstance(one, str) else one for one in row])
    return text.getvalue()


def _escape(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|~&])", r"\\\1", printable(text))


# --- A record --------------------------------------------------------------------------------------------------------


def print_record(record: Record, as_json: bool = False) -> None:
    """Print a record's values with intervals and anchors to stdout, or the whole record as JSON."""
    if as_json:
        print(json.dumps(record.model_dump(mode="json"), indent=2))
        return
    protocol = record.protocol
    guidance = ""
    if protocol.guidance is not None:
        scale = protocol.guidance.scale
        guidance = ", guidance " + ("of a strength not stated" if scale is None else f"{scale:g}")
    real = f"against {names}" if (names := reference_names(protocol)) else "without reference"
    against = f"on prompts {protocol.prompts}" if protocol.prompts else real
    columns = [
        Column("metric"),
        Column("value", justify="right"),
        Column("95 % interval"),
        Column("n", justify="right"),
    ]
    columns += [Column("better"), *(Column(name.replace("_", " "), justify="right") for name in record.anchors)]
    rows = []
    doubts: dict[str, list[str]] = {}
    for key, value in record.values.items():
        better = {True: "higher", False: "lower", None: ""}[direction(key, value)]
        anchors = [values.get(key) for values in record.anchors.values()]
        if (found := status_of(record, key))[0] != "ok":
            doubts.setdefault(told_doubt(*found), []).append(key)
        shown = ["–" if anchor is None else f"{anchor.value:.4g}" for anchor in anchors]
        scored = "–" if value.scored is None else str(value.scored)
        spread = "–" if value.stderr is None else f"± {value.stderr:.2g}"
        if value.interval is not None:
            spread = f"{value.interval[0]:.4g} .. {value.interval[1]:.4g}"
        rows.append([key, f"{value.value:.4g}", spread, scored, better, *shown])
    # Tables are results; a narrow pipe must not cut them.
    console = PlainConsole()
    console.width = max(console.width, 110)
    console.print(_table(f"{record.title}: {protocol.axis} {against}{guidance}", columns, rows))
    for reason, keys in doubts.items():
        console.print(f"{few(keys)}: {reason}")
    for fact in facts_of(record).values():
        if isinstance(text := fact.get("text"), str):
            print(lines(text))
    for notes in (protocol.notes, record.unscored):
        for note in notes[:FIRST]:
            console.print(note)
        if len(notes) > FIRST:
            console.print(f"and {len(notes) - FIRST:,} more (--json has them all)")


# --- A board ---------------------------------------------------------------------------------------------------------


def shown(board: Board, names: Sequence[str] = ()) -> list[BoardColumn]:
    """Return the columns to print: those named, all for "all", else the headline ones (all where there are none)."""
    known = [column.id for column in board.columns]
    if "all" in names:
        return list(board.columns)
    if names:
        wanted = [column_id(name, board.score_set, known) for name in names]
        return [column for name in wanted for column in board.columns if column.id == name]
    usual = [column for column in board.columns if column.shown or column.id in board.holistic]
    return usual or list(board.columns)


def print_board(board: Board, columns: Sequence[BoardColumn], trace: bool = False) -> None:
    """Print the table, the definition of the rank, and its sensitivity to each column.

    With `trace`, also the record of each cell.
    """
    axes = holistic_axes(board)
    heads = [Column(head, no_wrap=True) for head in ("place", "method", "family", "kind")]
    for column in columns:
        title = column.title + ARROWS[column.higher_is_better]
        heads.append(Column(title, justify="right", overflow="fold", min_width=6))
    for head in (*(f"{axis.split('_')[0]} rank" for axis in axes), "mean rank", "95 %", "places"):
        heads.append(Column(head, justify="right", overflow="fold", min_width=4))
    heads.append(Column("front", no_wrap=True))
    rows = []
    for row in board.rows[:_ROWS]:
        ranks = [_rank(row.axis_ranks.get(axis)) for axis in axes]
        places = ABSENT if row.places is None else f"{_rank(row.places[0])}-{_rank(row.places[1])}"
        ranks += [_rank(row.mean_rank), _rank_interval(row) or ABSENT, places]
        rows.append([*_facts(row), *_cells(row, columns), *ranks, "yes" if row.pareto else ""])
    repeats = any(one.n > 1 for row in board.rows for one in row.cells.values())
    content = "one record's value" + (", or the mean over repeats" if repeats else "")
    title = f"{board.score_set}: {len(board.rows)} rows; every cell is {content} (--trace, --json, --csv)"
    console = _wide_console()
    console.print(_table(title, heads, rows, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0)))
    if len(board.rows) > _ROWS:
        console.print(f"and {len(board.rows) - _ROWS:,} more rows (--csv, --markdown and --json have them all)")
    for line in [*rank_notes(board), *_first(status_notes(board, columns), "--json")]:
        console.print(line)
    if hidden := len(board.columns) - len(columns):
        console.print(f"not shown: {hidden} further column{'s' * (hidden > 1)} (--columns all)")
    for row in board.rows if trace else ():
        for column in columns:
            if column.id in row.cells:
                console.print(f"{row.name}  {column.id}  {' '.join(row.cells[column.id].records)}")


def rank_notes(board: Board) -> list[str]:
    """Return sentences on how the mean rank was formed and how it changes when one column is dropped."""
    if not board.holistic:
        return ["mean rank: not defined; no column of this set counts towards it. Choose some with --holistic."]
    lines = [
        "mean rank: mean over the axes of the mean rank over " + ", ".join(board.holistic) + "; ranked are rows that "
        "have all of them"
        + ("" if board.statuses == ("ok",) else f" ({' or '.join(board.statuses)})")
        + "; front: no ranked row matches or beats it in every one"
    ]
    if not any(row.place is not None for row in board.rows):
        absent = "no row has a value that takes a place in every one of these columns: ranks are not defined."
        return [*lines, f"{absent} Choose columns with --holistic."]
    if board.draws:
        fixed = f"; noise not known, held fixed: {', '.join(board.fixed)}" if board.fixed else ""
        lines.append(f"95 %: every value drawn again with its noise, {board.draws} draws, seed {board.seed}{fixed}")
    if board.sensitivity:
        lines.append("places: lowest and highest place when any one of these columns is dropped")
    for one in board.sensitivity:
        tau = UNDEFINED if one.tau is None else f"{one.tau:.3f}"
        lines.append(
            f"without {one.column}: Kendall tau with this order {tau}, largest move {one.largest_shift:g} places "
            f"({one.moved}), first {one.first}"
        )
    return lines


def status_notes(board: Board, columns: Sequence[BoardColumn]) -> list[str]:
    """Return one sentence for each value that takes no place, or takes one under a mark, and for each record listed."""
    notes = []
    for row in board.rows:
        for column in columns:
            one = row.cells.get(column.id)
            if one is not None and one.status != "ok":
                place = "" if one.status in board.statuses else ", takes no place"
                notes.append(f"{one.status}{place}: {row.title}, {column.title}: {one.reason}")
    for held in board.listed:
        values = few([f"{key} {digits(one.value, one.printed)}" for key, one in held.values.items()], first=3)
        notes.append(f"listed, not ranked: {held.title} ({held.record}): {values}: {held.reason}")
    return notes


def _first(notes: Sequence[str], option: str) -> list[str]:
    """Return the first notes, and how many more there are."""
    more = [f"and {len(notes) - _NOTES:,} more values and records without a place ({option} has them all)"]
    return [*notes[:_NOTES], *(more if len(notes) > _NOTES else [])]


def board_csv(board: Board, columns: Sequence[BoardColumn]) -> str:
    """Return CSV with one row per method, then the records that fit no column.

    Beside each value stand its standard error, the number of repeats, its status with the reason, and its records.
    """
    axes = holistic_axes(board)
    head = ["place", "name", "title", "family", "kind"]
    for column in columns:
        head += [column.id, *(f"{column.id} {fact}" for fact in ("stderr", "n", "status", "record"))]
    head += [*(f"rank {axis}" for axis in axes), "mean rank", "rank low", "rank high", "pareto", "not ranked because"]
    rows = []
    for row in board.rows:
        values: list[Any] = [row.place, row.name, row.title, row.family or "", row.kind]
        reasons = []
        for column in columns:
            found = row.cells.get(column.id)
            if found is None:
                values += [None] * 5
                continue
            values += [found.value, found.stderr, found.n, found.status, " ".join(found.records)]
            if found.status != "ok":
                reasons.append(f"{column.id} is {found.status}: {found.reason}")
        values += [row.axis_ranks.get(axis) for axis in axes]
        rows.append([*values, row.mean_rank, *(row.interval or (None, None)), row.pareto, "; ".join(reasons)])
    for held in board.listed:
        facts = [None, held.record, held.title, "", held.kind]
        rows.append([*facts, *[None] * (len(head) - len(facts) - 1), f"listed, not ranked: {held.reason}"])
    return to_csv(head, rows)


def board_markdown(board: Board, columns: Sequence[BoardColumn]) -> str:
    """Return a Markdown table with the records of each row in the last column, and the notes below."""
    head = ["place", "method", "family", "kind", *(column.title for column in columns), "mean rank", "records"]
    rows = []
    for row in board.rows:
        held = [row.cells[column.id].records for column in columns if column.id in row.cells]
        rank = _rank(row.mean_rank) + (f" ({_rank_interval(row)})" if row.interval else "")
        records = ", ".join(f"`{identifier}`" for identifier in dict.fromkeys(name for ids in held for name in ids))
        rows.append([*map(_escape, _facts(row)), *_cells(row, columns), rank, records])
    whole = table([*map(_escape, head)], rows, right=range(4, len(head) - 1))
    notes = [*rank_notes(board), *_first(status_notes(board, columns), "--csv")]
    return "\n".join([whole, "", *(f"- {_escape(line)}" for line in notes)]) + "\n"


def holistic_axes(board: Board) -> list[str]:
    """Return the axes of the columns that form the mean rank."""
    return list(dict.fromkeys(column.axis for column in board.columns if column.id in board.holistic))


def _facts(row: BoardRow) -> list[str]:
    return [_rank(row.place), row.title, row.family or ABSENT, row.kind]


def _cells(row: BoardRow, columns: Sequence[BoardColumn]) -> list[str]:
    return [with_error(row.cells[column.id]) if column.id in row.cells else ABSENT for column in columns]


def _rank(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.1f}".removesuffix(".0")


def _rank_interval(row: BoardRow) -> str:
    return "" if row.interval is None else f"{row.interval[0]:.1f}-{row.interval[1]:.1f}"


# --- An explanation --------------------------------------------------------------------------------------------------


def print_explanation(found: Explanation, effects: Iterable[Effect]) -> None:
    """Print how two protocols differ, and below what each difference does to the numbers."""
    console = _wide_console()
    if not found.gaps:
        console.print("the protocols do not differ")
    kinds = {"rule": "keeps apart", "method": "part of the method", "draw": "another draw"}
    rows = []
    for gap in found.gaps:
        apart = few(gap.metrics, first=3) or "nothing that both hold"
        means = f"{kinds[gap.kind]} {apart}" if gap.kind == "rule" else kinds[gap.kind]
        rows.append(
            [gap.field, *(clipped(short_hashes(str(one)), 60) for one in (gap.first, gap.second)), gap.about, means]
        )
    if rows:
        heads = [Column(head, overflow="fold") for head in ("field", "first", "second", "what it decides", "so it")]
        console.print(_table("differences of the protocols", heads, rows, box=box.SIMPLE_HEAD))
    told: dict[str, list[str]] = {}
    for one in effects:
        if one.value is None or one.change is None:
            told.setdefault(f"{one.field}: not measured: {one.reason}", []).append(one.metric)
            continue
        own, other = found.metrics[one.metric] if one.of == "first" else found.metrics[one.metric][::-1]
        left = f", {other - one.value:+.4g} is left to the other record's {other:.4g}"
        console.print(
            f"{one.metric}, images of the {one.of} record, {one.field} of the other: {own:.4g} becomes {one.value:.4g} "
            f"({one.change:+.4g}{left})"
        )
    for text, metrics in told.items():
        console.print(f"{few(metrics, first=3)}: {text}")


# --- A study ---------------------------------------------------------------------------------------------------------


def study_dict(study: Study) -> dict[str, Any]:
    """Return the whole study as plain data; what is not defined is None."""
    selection = study.selection
    names = ("name", "title", "family", "x", "y", "x_record", "y_record")
    return asdict(study) | {
        "published_only": published_only(selection.x_key, selection.y_key),
        "selection": {
            "score_set": selection.score_set,
            "guidance": selection.guidance,
            "x": selection.x_key,
            "y": selection.y_key,
            "points": [{name: getattr(point, name) for name in names} for point in selection.points],
            "left_out": [{"name": name, "reason": reason} for name, reason in selection.left_out],
            "doubtful": [
                {"name": name, "metric": key, "status": status, "reason": reason}
                for name, key, status, reason in selection.doubtful
            ],
        },
    }


def published_only(*keys: str) -> list[str]:
    """Return the metrics that exist as published figures only."""
    return [key for key in keys if key in METRICS and metric_state(key)["state"] == "published"]


def _print_noise(study: Study, show: Callable[..., None]) -> None:
    """Print what scoring again and training again would change."""
    selection = study.selection
    for key, noise in ((selection.x_key, study.noise_x), (selection.y_key, study.noise_y)):
        known = "not known; taken as none" if noise is None else f"sd {noise.sd:.4g} ({noise.source})"
        show(f"noise of one scoring of {key}: {known}")
    for one in study.attenuation:
        ceiling = UNDEFINED if one.ceiling is None else f"{one.ceiling:.4f}"
        again = "" if one.rescored_sd is None else f"; scoring again moves r by {one.rescored_sd:.4f} (sd)"
        show(
            f"{one.scope}: a perfect relation would show |r| = {ceiling}; "
            f"r without noise {number(one.corrected)}{again}"
        )
    if not study.attenuation:
        show(f"attenuation by noise: {UNDEFINED}")
    if (seeds := study.seeds) is not None:
        spreads = [
            f"{key} {UNDEFINED if sd is None else f'{sd:.4g}'}"
            for key, sd in ((selection.x_key, seeds.sd_x), (selection.y_key, seeds.sd_y))
        ]
        show(f"training seeds: {seeds.repeated} of {seeds.methods} methods repeated; sd of one: {', '.join(spreads)}")
        show(
            f"r {number(seeds.value)}, 95 % by bootstrap over methods and seeds {span(seeds.interval)}, "
            f"over seeds of these methods {span(seeds.seeds_interval)}"
        )


def print_study(study: Study) -> None:
    """Print every part of a study."""
    show = _wide_console().print
    selection = study.selection
    x, y = metric_info(selection.x_key), metric_info(selection.y_key)
    condition = f", guidance {selection.guidance}" if "class_conditional" in (x.axis, y.axis) else ""
    better = {True: "higher is better", False: "lower is better", None: "direction unknown"}
    show(f"{x.title} ({better[x.higher_is_better]}) against {y.title} ({better[y.higher_is_better]})")
    for key in published_only(selection.x_key, selection.y_key):
        show(f"{key}: {metric_words(key)}")
    show(f"set {selection.score_set}{condition}, {len(selection.points)} methods")
    show(_coefficients("over all methods", [study.pearson, study.spearman, study.kendall], study.draws))
    line = study.line
    fitted = UNDEFINED if line is None else f"{line.intercept:.4f} {line.slope:+.5f} * {selection.x_key}"
    show(f"line: {selection.y_key} = {fitted}")
    show(_subsets("within each family (Pearson)", study.per_family))
    show(_coefficients("within families together: partial correlation given family", [study.within], study.draws))
    between = study.between
    show(
        f"between families: r of the {between.families} family means {number(between.value)}; "
        f"share of the pooled covariance that lies between families: {percent(between.share)}"
    )
    if study.without_family:
        show(_subsets("without one family (Pearson)", study.without_family))
    if study.top:
        show(_subsets(f"methods that are best on {selection.x_key}", study.top))
    largest = [(one.name, number(one.without), number(one.change)) for one in study.influence[:5]]
    show(_table("influence of single methods (largest five)", ("without", "r", "change"), largest))
    _print_noise(study, show)
    told: dict[str, list[str]] = {}
    for name, key, status, reason in selection.doubtful:
        told.setdefault(f"among the points: {{}} ({key} {status}: {reason})", []).append(name)
    for name, reason in selection.left_out:
        told.setdefault(f"not among the points: {{}} ({reason})", []).append(name)
    for text, names in told.items():
        show(text.replace("{}", few(names, first=40), 1))
    show(
        f"bootstrap and permutations: {study.draws} draws, seed {study.seed}; intervals are 95 % over the choice of "
        "methods"
    )


def _coefficients(title: str, coefficients: Iterable[Coefficient], draws: int) -> Table:
    names = {"pearson": "Pearson r", "spearman": "Spearman rho", "kendall": "Kendall tau-b", "partial": "partial r"}
    rows: list[Sequence[str]] = []
    for one in coefficients:
        by = "bootstrap" if one.kind in ("spearman", "kendall") else "Fisher z"
        not_drawn = by == "bootstrap" and not draws and one.value is not None
        interval = "not drawn" if not_drawn else span(one.interval)
        rows.append((names[one.kind], number(one.value), interval, by, _p(one), str(one.n)))
        if one.note:
            rows.append(("", one.note))
    return _table(title, ("", "value", "95 %", "by", "p", "n"), rows)


def _subsets(title: str, parts: Iterable[SubsetCoefficient]) -> Table:
    named = [(part.name, part.coefficient) for part in parts]
    rows = [(name, number(one.value), span(one.interval), _p(one), str(one.n)) for name, one in named]
    return _table(title, ("", "r", "Fisher z 95 %", "p", "n"), rows)


def _p(one: Coefficient) -> str:
    return "" if one.p_value is None else f"{one.p_value:.4f}"


# --- Lists and progress ----------------------------------------------------------------------------------------------


def print_tables(known: Mapping[str, Mapping[str, str | Mapping[str, Any]]], what: str, as_json: bool) -> None:
    """Print tables of names with a few words each, or with facts of which `text` is shown: all, or the one `what`.

    Raises:
        RequestError: if there is no such table.
    """
    if what and what not in known:
        raise RequestError(f"unknown list '{what}'. Known: {', '.join(known)}.")
    chosen = {what: known[what]} if what else known
    if as_json:
        print(json.dumps(chosen, indent=2))
        return
    for name, rows in chosen.items():
        print(name)
        width = max(map(len, rows), default=0)
        for key, one in rows.items():
            text = one if isinstance(one, str) else one["text"]
            print(f"  {key:<{width}}  {text}".rstrip())


def progress_line(unit: str = "images") -> Callable[[str, int, int], None] | None:
    """Return a function that shows progress on one line of stderr; None where stderr is no terminal."""
    if not sys.stderr.isatty():
        return None

    def show(what: str, done: int, total: int) -> None:
        end = "\n" if done >= total else ""
        print(f"\r{what}: {done}/{total} {unit}", end=end, file=sys.stderr, flush=True)

    return show
