"""Records as tables for the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from diffusionbench.metrics import METRICS
from diffusionbench.record import Record, Value


def uncertainty(value: Value) -> str:
    """The 95 % interval, else the standard error, else a dash."""
    if value.interval is not None:
        return f"{value.interval[0]:.4g} .. {value.interval[1]:.4g}"
    return "–" if value.stderr is None else f"± {value.stderr:.2g}"


def print_record(record: Record) -> None:
    """Print values with intervals, and the anchors between which they lie, to stdout."""
    protocol = record.protocol
    guidance = "" if protocol.guidance is None else f", guidance {protocol.guidance.scale:g}"
    table = Table(title=f"{record.title}: {protocol.axis} against {protocol.reference}{guidance}", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("95 % interval")
    table.add_column("n", justify="right")
    table.add_column("better")
    for name in record.anchors:
        table.add_column(name.replace("_", " "), justify="right")
    directions = {spec.key: spec.higher_is_better for spec in map(METRICS.load, METRICS)}
    for key, value in record.values.items():
        better = {True: "higher", False: "lower", None: ""}[directions.get(key)]
        anchors = [values.get(key) for values in record.anchors.values()]
        shown = ["–" if anchor is None else f"{anchor.value:.4g}" for anchor in anchors]
        number = "–" if value.scored is None else str(value.scored)
        table.add_row(key, f"{value.value:.4g}", uncertainty(value), number, better, *shown)
    # Tables are results; a narrow pipe must not cut them.
    console = Console(file=sys.stdout)
    console.width = max(console.width, 110)
    console.print(table)
    for note in (*protocol.notes, *record.unscored):
        console.print(note, highlight=False, markup=False)


def progress_line() -> Callable[[str, int, int], None] | None:
    """One line on stderr that tells what is being done and how far; None where nobody watches."""
    if not sys.stderr.isatty():
        return None

    def show(what: str, done: int, total: int) -> None:
        end = "\n" if done >= total else ""
        print(f"\r{what}: {done}/{total} images", end=end, file=sys.stderr, flush=True)

    return show
