"""Records as tables for the terminal."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from diffusionbench.errors import RequestError
from diffusionbench.metrics import METRICS
from diffusionbench.record import Guidance, Record, Value, facts_of
from diffusionbench.shown import FIRST, lines, printable


class PlainConsole(Console):
    """Shows every string in what it prints as it is: no markup, no emoji, and control characters made visible."""

    def __init__(self, width: int | None = None) -> None:
        """Take the columns of a table, None: those of the terminal."""
        super().__init__(file=sys.stdout, width=width, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:
        """Render a string as it is; every one that rich prints, alone or in a table, passes here."""
        return super().render_str(printable(text), **options)


def uncertainty(value: Value) -> str:
    """Return the 95 % interval, else the standard error, else a dash."""
    if value.interval is not None:
        return f"{value.interval[0]:.4g} .. {value.interval[1]:.4g}"
    return "–" if value.stderr is None else f"± {value.stderr:.2g}"


def print_record(record: Record) -> None:
    """Print values with intervals, and the anchors between which they lie, to stdout."""
    protocol = record.protocol
    guidance = "" if protocol.guidance is None else f", guidance {_scale(protocol.guidance)}"
    against = f"on prompts {protocol.prompts}" if protocol.prompts else f"against {protocol.reference}"
    table = Table(title=f"{record.title}: {protocol.axis} {against}{guidance}", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("95 % interval")
    table.add_column("n", justify="right")
    table.add_column("better")
    for name in record.anchors:
        table.add_column(name.replace("_", " "), justify="right")
    directions = {key: spec.higher_is_better for key, spec in METRICS.items()}
    for key, value in record.values.items():
        better = {True: "higher", False: "lower", None: ""}[directions.get(key)]
        anchors = [values.get(key) for values in record.anchors.values()]
        shown = ["–" if anchor is None else f"{anchor.value:.4g}" for anchor in anchors]
        number = "–" if value.scored is None else str(value.scored)
        table.add_row(key, f"{value.value:.4g}", uncertainty(value), number, better, *shown)
    # Tables are results; a narrow pipe must not cut them.
    console = PlainConsole()
    console.width = max(console.width, 110)
    console.print(table)
    for fact in facts_of(record).values():
        if isinstance(text := fact.get("text"), str):
            print(lines(text))
    for notes in (protocol.notes, record.unscored):
        for note in notes[:FIRST]:
            console.print(note)
        if len(notes) > FIRST:
            console.print(f"and {len(notes) - FIRST:,} more (--json has them all)")


def _scale(guidance: Guidance) -> str:
    return "of a strength not stated" if guidance.scale is None else f"{guidance.scale:g}"


def print_tables(known: Mapping[str, Mapping[str, str]], what: str, as_json: bool) -> None:
    """Print what can be chosen: all tables of names with a few words each, or the one called `what`.

    Raises:
        RequestError: if there is no such table.
    """
    if what and what not in known:
        raise RequestError(f"unknown list '{what}'. Known: {', '.join(known)}.")
    chosen = {name: table for name, table in known.items() if not what or name == what}
    if as_json:
        print(json.dumps(chosen, indent=2))
        return
    for name, table in chosen.items():
        print(name)
        width = max((len(key) for key in table), default=0)
        for key, text in table.items():
            print(f"  {key:<{width}}  {text}".rstrip())


def progress_line(unit: str = "images") -> Callable[[str, int, int], None] | None:
    """Return what shows on one line of stderr how far the work is; None where nobody watches."""
    if not sys.stderr.isatty():
        return None

    def show(what: str, done: int, total: int) -> None:
        end = "\n" if done >= total else ""
        print(f"\r{what}: {done}/{total} {unit}", end=end, file=sys.stderr, flush=True)

    return show
