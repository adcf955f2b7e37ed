"""The data of all pages (records, boards, figures), the paths of pages, and the words that several pages share."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from diffusionbench.catalog import DERIVED
from diffusionbench.record import Record, Value, printed_digits
from diffusionbench.study import published
from diffusionbench.study.board import DRAWS, Board, build
from diffusionbench.study.cells import status_of
from diffusionbench.study.columns import MEASURED, declared, guidance_state, place_of, score_set_of
from diffusionbench.study.points import in_set
from diffusionbench.views.figure import GUIDANCE, OTHER, PATHS, STYLES, UNSTATED, Figure, figure
from diffusionbench.views.site.samples import Sheet, Store
from diffusionbench.views.terminal import digits

# Title and description of each set of records; those of the boards stand in `boards.yaml`.
_DECLARED: Final = {name: (board.title, board.about) for name, board in declared().items()}
SETS: Final = {
    published.PAPER: _DECLARED[published.PAPER],
    published.BLOG: _DECLARED[published.BLOG],
    MEASURED: ("Measured", "Results measured with this package; every one says how to get it again."),
    published.REPRODUCIBILITY: _DECLARED[published.REPRODUCIBILITY],
}
# Rows times draws of the interval of a mean rank: keeps a board of thousands of rows at a second.
_BUDGET: Final = 250_000
_MAX_SLUG: Final = 80


@dataclass(frozen=True)
class Contents:
    """The records of a site, and what is computed from them once.

    Attributes:
        records: in the order of their files.
        stores: image stores that lie beside them.
        live: a page in which a network draws, or None.
        flagged: whether values that a guard flags are points of the figure of measured records.
    """

    records: tuple[Record, ...]
    stores: tuple[Store, ...] = ()
    live: bytes | None = None
    flagged: bool = False

    @cached_property
    def by_id(self) -> dict[str, Record]:
        return {record.id: record for record in self.records}

    @cached_property
    def by_method(self) -> dict[str, list[Record]]:
        found: dict[str, list[Record]] = {}
        for record in self.records:
            found.setdefault(record.method, []).append(record)
        return found

    @cached_property
    def published_values(self) -> dict[tuple[str, str, str | None, str], list[float]]:
        """Return the published values of each metric by set, axis, guidance and key."""
        found: dict[tuple[str, str, str | None, str], list[float]] = {}
        for record in self.records:
            for key, value in record.values.items() if record.kind == "published" else ():
                place = (score_set_of(record), record.protocol.axis, guidance_state(record), key)
                found.setdefault(place, []).append(value.value)
        return found

    @cached_property
    def sheets(self) -> dict[str, Sheet]:
        """Return the samples of records whose pages are written, by id, without their pixels: those fill a memory."""
        return {}

    @cached_property
    def sets(self) -> tuple[str, ...]:
        """Return the sets that have records, the paper's first."""
        held = {score_set_of(record) for record in self.records}
        return tuple(name for name in SETS if name in held)

    @cached_property
    def boards(self) -> dict[str, Board]:
        """Return the boards that have rows or list records; large ones draw fewer re-scorings, as their notes say."""
        found: dict[str, Board] = {}
        for spec in declared().values():
            rows = len(in_set(self.records, spec.records))
            if rows and "@" not in spec.name:
                board = build(self.records, spec, draws=min(DRAWS, max(100, _BUDGET // rows)))
                found |= {spec.name: board} if board.rows or board.listed else {}
        return found

    @cached_property
    def figures(self) -> dict[str, dict[str, Figure]]:
        """Return Figure 1 by set and state of guidance, for the sets that have one."""
        return {
            name: {state: self._figure(name, state) for state in GUIDANCE}
            for name in self.sets
            if name != published.REPRODUCIBILITY
        }

    @cached_property
    def cost_figures(self) -> dict[str, dict[str, dict[str, Figure]]]:
        """Return the same figure with a cost on its axis, by set, cost and state, where some panel has points."""
        found: dict[str, dict[str, dict[str, Figure]]] = {}
        for name in self.figures:
            held = [record.cost for record in in_set(self.records, name) if record.cost is not None]
            for key in DERIVED:
                if any(getattr(cost, key) is not None for cost in held):
                    states = {state: self._figure(name, state, key) for state in GUIDANCE}
                    if any(panel.points for one in states.values() for panel in one.panels):
                        found.setdefault(name, {})[key] = states
        return found

    def _figure(self, name: str, state: str, x: str | None = None) -> Figure:
        # "all" also keeps the published families that the study does not chart; measured records are all kept.
        family = () if name == MEASURED else ("all",)
        return figure(self.records, name, state, x=x, family=family, flagged=self.flagged and name == MEASURED)

    @cached_property
    def updated(self) -> str | None:
        """Return the day of the newest measured record; None where none states it."""
        return max((one.provenance.created or "" for one in self.records), default="")[:10] or None


def slug(name: str) -> str:
    """Return a safe file name for any name; different names never share one.

    A safe name is kept; any other gets a few digits of its hash.
    """
    plain = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-.")[:_MAX_SLUG]
    return plain if plain == name else f"{plain or 'x'}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def record_page(identifier: str) -> str:
    """Return the address of a record below the site."""
    return f"record.html#{slug(identifier)}"


def sheet_picture(identifier: str) -> str:
    """Return the path of the picture of a record's samples below the site."""
    return f"records/{slug(identifier)}.png"


def method_page(name: str) -> str:
    """Return the path of a method's page below the site."""
    return f"methods/{slug(name)}.html"


def metric_page(key: str) -> str:
    """Return the path of a metric's page below the site."""
    return f"metrics/{slug(key)}.html"


def printed(record: Record, key: str) -> str:
    """Return a value as its table printed it, else in a few digits; nothing where the record lacks the metric."""
    return digits(record.values[key].value, printed_digits(record, key)) if key in record.values else ""


def doubt(record: Record, key: str) -> str:
    """Return the status of a value and its reason; nothing where it is ok or absent."""
    if key not in record.values:
        return ""
    status, reason = status_of(record, key)
    return "" if status == "ok" else f"{status}: {reason}"


def mark(record: Record, key: str) -> str:
    """Return the status of a value in brackets; nothing where it is ok or absent."""
    found = doubt(record, key).partition(":")[0]
    return f" ({found})" if found else ""


def not_ranked(record: Record, key: str) -> str:
    """Return why a value takes no place on a board: its status, or the column it misses; nothing where it takes one."""
    boards = [board for name, board in declared().items() if board.records == score_set_of(record) and "@" not in name]
    columns = [column for board in boards for column in board.columns if column.key == key]
    reason = place_of(record, key, columns)[1] if columns else ""
    return "; ".join(filter(None, [doubt(record, key), reason]))


def uncertainty(value: Value) -> str:
    """Return the 95 % interval, else the standard error, else nothing."""
    if value.interval is not None:
        return f"{digits(value.interval[0])} to {digits(value.interval[1])}"
    return f"± {value.stderr:.2g}" if value.stderr is not None else ""


def guidance_words(record: Record) -> str:
    """Return the guidance of a record in words."""
    guidance = record.protocol.guidance
    if guidance is None:
        return "not stated"
    if guidance.scale is None:
        return "guided; strength not stated"
    low, high = guidance.interval
    span = "" if (low, high) == (0.0, 1.0) else f" on times {low:g} to {high:g}"
    inner = "" if guidance.internal is None else f", internal scale {guidance.internal.scale:g}"
    return "none" if guidance_state(record) == "none" else f"scale {guidance.scale:g}{span}{inner}"


def finite(value: float) -> float | None:
    """Return the value, or None where JSON cannot hold it."""
    return value if math.isfinite(value) else None


def caption(records: Sequence[Record]) -> str:
    """Return the number of records of each kind, in words."""
    kinds = {kind: sum(record.kind == kind for record in records) for kind in ("published", "measured")}
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)


def family_look(family: str | None) -> dict[str, Any]:
    """Return a family as a legend shows it: title, path of its mark, and the class that colours it."""
    style = STYLES.get(family or "", OTHER)
    known = family in STYLES
    title = style.title if known else family or UNSTATED
    return {"title": title, "path": PATHS[style.shape], "look": family if known else "other", "known": known}
