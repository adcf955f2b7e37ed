"""What the pages are made from: the records, the boards of their sets, and where each thing has its page."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from diffusionbench.record import Record, Value, printed_digits
from diffusionbench.study import published
from diffusionbench.study.board import DRAWS, Board, build
from diffusionbench.study.points import MEASURED, guidance_state, in_set, score_set_of
from diffusionbench.views.figure import GUIDANCE, OTHER, PATHS, STYLES, UNSTATED, Figure, figure
from diffusionbench.views.site.samples import Store

SETS: Final = {
    published.PAPER: ("Paper, June 2026", "Figures of the paper (arXiv 2606.24888) and its project page."),
    published.BLOG: ("Announcement, May 2026", "Figures of the announcement's chart; scored apart from the paper's."),
    MEASURED: ("Measured", "Results measured with this package; every one says how to get it again."),
    published.REPRODUCIBILITY: ("Re-implementations", "The paper's re-implementations beside the original numbers."),
}
# Rows times draws of the interval of a mean rank: keeps a board of thousands of rows at a second.
_BUDGET: Final = 250_000
_MAX_SLUG: Final = 80


@dataclass(frozen=True)
class Contents:
    """Everything the pages show.

    Attributes:
        records: in the order of their files.
        stores: image stores that lie beside them.
    """

    records: tuple[Record, ...]
    stores: tuple[Store, ...] = ()

    @cached_property
    def by_id(self) -> dict[str, Record]:
        return {record.id: record for record in self.records}

    @cached_property
    def sets(self) -> tuple[str, ...]:
        """Sets that have records, the paper's first."""
        held = {score_set_of(record) for record in self.records}
        return tuple(name for name in SETS if name in held)

    @cached_property
    def boards(self) -> dict[str, Board]:
        """The leaderboard of each set; large ones draw fewer re-scorings, and say so."""
        found = {}
        for name in self.sets:
            rows = max(1, len(in_set(self.records, name)))
            found[name] = build(self.records, name, draws=min(DRAWS, max(100, _BUDGET // rows)))
        return found

    @cached_property
    def figures(self) -> dict[str, dict[str, Figure]]:
        """Figure 1 by set and state of guidance, for the sets that have one."""
        return {
            # Published rows say their family, and "all" keeps those that the study does not chart; among measured
            # ones everyone is kept already.
            name: {
                state: figure(self.records, name, state, family=() if name == MEASURED else ("all",))
                for state in GUIDANCE
            }
            for name in self.sets
            if name != published.REPRODUCIBILITY
        }

    @cached_property
    def methods(self) -> dict[str, list[Record]]:
        """Records by method, in order of first mention."""
        found: dict[str, list[Record]] = {}
        for record in self.records:
            found.setdefault(record.method, []).append(record)
        return found


def slug(name: str) -> str:
    """Return a file name for a name that a stranger chose; different names never share one.

    A name that is safe as it is stays readable; any other gets a few digits of its hash.
    """
    plain = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-.")[:_MAX_SLUG]
    return plain if plain == name else f"{plain or 'x'}-{hashlib.sha256(name.encode()).hexdigest()[:10]}"


def record_page(identifier: str) -> str:
    """Path of a record's page below the site."""
    return f"records/{slug(identifier)}.html"


def method_page(name: str) -> str:
    """Path of a method's page below the site."""
    return f"methods/{slug(name)}.html"


def metric_page(key: str) -> str:
    """Path of a metric's page below the site."""
    return f"metrics/{slug(key)}.html"


def digits(record: Record, key: str) -> str:
    """Return a value as its table printed it, else four significant digits."""
    printed = printed_digits(record, key)
    return plain_digits(record.values[key].value) if printed is None else printed


def plain_digits(value: float) -> str:
    """Three decimals below 1, else four significant digits."""
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.4g}"


def uncertainty(value: Value) -> str:
    """Return the 95 % interval, else the standard error, else nothing."""
    if value.interval is not None:
        return f"{plain_digits(value.interval[0])} to {plain_digits(value.interval[1])}"
    return f"± {value.stderr:.2g}" if value.stderr is not None else ""


def guidance_words(record: Record) -> str:
    """Return how images were guided, in words."""
    guidance = record.protocol.guidance
    if guidance is None:
        return "not stated"
    if guidance.scale is None:
        return "guided; strength not stated"
    low, high = guidance.interval
    span = "" if (low, high) == (0.0, 1.0) else f" on times {low:g} to {high:g}"
    return "none" if guidance_state(record) == "none" else f"scale {guidance.scale:g}{span}"


def finite(value: float) -> float | None:
    """Return the value, or None where JSON has no word for it."""
    return value if math.isfinite(value) else None


def caption(records: Sequence[Record]) -> str:
    """Return how many records of which kind."""
    kinds = {kind: sum(record.kind == kind for record in records) for kind in ("published", "measured")}
    return ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)


def family_look(family: str | None) -> dict[str, Any]:
    """Return a family as a legend shows it: title, path of its mark, and the class that colours it."""
    style = STYLES.get(family or "", OTHER)
    known = family in STYLES
    title = style.title if known else family or UNSTATED
    return {"title": title, "path": PATHS[style.shape], "look": family if known else "other", "known": known}
