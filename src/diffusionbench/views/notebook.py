"""A record as a table: HTML for a notebook, text for `repr`."""

from __future__ import annotations

from html import escape

from diffusionbench.catalog import direction
from diffusionbench.record import Record, reference_names, told_doubts
from diffusionbench.shown import few, printable
from diffusionbench.views.terminal import ARROWS, digits


def as_text(record: Record) -> str:
    """Return a record's values as lines of text."""
    table = _table(record)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([_title(record), *lines, *_notes(record)])


def as_html(record: Record) -> str:
    """Return a record's values as an HTML table; nothing in it runs, whatever a record says."""
    head, *rows = _table(record)
    lines = [("th", head), *(("td", row) for row in rows)]
    cells = ["<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) + "</tr>" for tag, row in lines]
    notes = "".join(f"<div><small>{escape(note)}</small></div>" for note in _notes(record))
    return f"<div><strong>{escape(_title(record))}</strong></div><table>{''.join(cells)}</table>{notes}"


def _title(record: Record) -> str:
    protocol = record.protocol
    against = reference_names(protocol)
    facts = [f"on prompts {protocol.prompts}" if protocol.prompts else protocol.axis]
    facts += [f"against {against}"] if against else []
    facts += [] if protocol.count is None else [f"{protocol.count:,} images"]
    return printable(f"{record.title} ({record.id}): {', '.join(facts)}")


def _table(record: Record) -> list[tuple[str, ...]]:
    """Return the head and a row per metric; anchors have a column each."""
    rows = [("metric", "value", "95 % interval", "n", "status", *record.anchors)]
    for key, value in record.values.items():
        interval = "" if value.stderr is None else f"± {value.stderr:.2g}"
        if value.interval is not None:
            interval = f"[{digits(value.interval[0])}, {digits(value.interval[1])}]"
        scored = "" if value.scored is None else f"{value.scored:,}"
        anchors = [digits(values[key].value) if key in values else "" for values in record.anchors.values()]
        name = key + ARROWS[direction(key, value)]
        rows.append((name, digits(value.value), interval, scored, value.status, *anchors))
    return [tuple(map(printable, row)) for row in rows]


def _notes(record: Record) -> list[str]:
    """Return why values are not "ok", and what was not scored."""
    notes = [f"{few(keys)}: {reason}" for reason, keys in told_doubts(record).items()]
    if record.unscored:
        notes.append(f"{len(record.unscored):,} not scored; the first: {record.unscored[0]}")
    return [printable(note) for note in [*notes, *record.protocol.notes]]
