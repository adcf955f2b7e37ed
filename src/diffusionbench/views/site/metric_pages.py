"""The list of metrics, and one page for each: what is computed, direction, range, noise, reference, best values."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, Final

from diffusionbench.catalog import CATALOG, direction, metric_info
from diffusionbench.metrics import MetricSpec
from diffusionbench.record import Record
from diffusionbench.study.analysis import rescoring_noise
from diffusionbench.study.points import score_set_of
from diffusionbench.views.site.contents import (
    SETS,
    Contents,
    digits,
    guidance_words,
    metric_page,
    record_page,
    uncertainty,
)
from diffusionbench.views.site.render import Pages

AXES: Final = {
    "class_conditional": "Class-conditional",
    "t2i": "Text-to-image",
    "reconstruction": "Reconstruction",
    None: "Of other packages",
}
BETTER: Final = {True: "higher is better", False: "lower is better", None: "no better end"}
# Rows of one set on a metric's page; the data files hold all.
_LISTED: Final = 200


def pages(contents: Contents, site: Pages) -> Iterator[tuple[str, str]]:
    """(path, HTML) of the list and of every metric that is in the catalog or in a record."""
    holders: dict[str, list[Record]] = {key: [] for key in CATALOG}
    for record in contents.records:
        for key in record.values:
            holders.setdefault(key, []).append(record)
    groups: dict[str, list[dict[str, Any]]] = {title: [] for title in AXES.values()}
    for key, records in holders.items():
        info = metric_info(key)
        title = AXES.get(info.axis, AXES[None])
        groups[title].append(
            {
                "key": key,
                "title": info.title,
                "page": metric_page(key),
                "better": BETTER[_better(key, records)],
                "about": info.about,
                "count": len(records),
            }
        )
    listed = [(title, entries) for title, entries in groups.items() if entries]
    yield "metrics.html", site.render("metrics.html", here="metrics.html", groups=listed)
    for key, records in holders.items():
        yield metric_page(key), _page(key, records, site)


def _better(key: str, records: Sequence[Record]) -> bool | None:
    return direction(key, records[0].values[key]) if records else metric_info(key).higher_is_better


def _page(key: str, records: Sequence[Record], site: Pages) -> str:
    info = metric_info(key)
    paper = re.search(r"arXiv (\d{4}\.\d{4,5})", info.about)
    better = _better(key, records)
    return site.render(
        "metric.html",
        depth=1,
        key=key,
        title=info.title,
        facts=[
            ("key in records", key),
            ("what is computed", info.about or "not described; the metric belongs to another package"),
            ("direction", BETTER[better]),
            ("range", _range(info)),
            ("noise of one scoring", _noise(key, records)),
            ("records", str(len(records))),
        ],
        reference=f"https://arxiv.org/abs/{paper[1]}" if paper else None,
        groups=_groups(key, records, better),
    )


def _range(info: MetricSpec) -> str:
    # A Frechet distance may come out a rounding error below zero; people are told the mathematical range.
    low = 0 if -0.01 < info.low < 0 else info.low
    ends = [
        f"{low:g}" if math.isfinite(low) else "no lower end",
        f"{info.high:g}" if math.isfinite(info.high) else "open",
    ]
    return f"{ends[0]} to {ends[1]}" + (f" ({info.unit})" if info.unit else "")


def _noise(key: str, records: Sequence[Record]) -> str:
    parts = []
    published = rescoring_noise(key)
    if published is not None:
        parts.append(f"standard deviation {published.sd:.4f}: {published.source}")
    errors = [error for record in records if (error := record.values[key].stderr) is not None]
    if errors:
        parts.append(f"median standard error {median(errors):.3g} over {len(errors)} records")
    return "; ".join(parts) or "not known: no record states it, and no two published sets hold it"


def _groups(key: str, records: Sequence[Record], better: bool | None) -> list[dict[str, Any]]:
    """The records of each set, best first."""
    found = []
    for name in dict.fromkeys(score_set_of(record) for record in records):
        alike = [record for record in records if score_set_of(record) == name]
        if better is not None:
            alike.sort(key=lambda record: _order(record.values[key].value, better))
        found.append(
            {
                "title": SETS[name][0] if name in SETS else name,
                "known": any(uncertainty(record.values[key]) for record in alike),
                "more": max(0, len(alike) - _LISTED),
                "rows": [
                    {
                        "title": record.title,
                        "page": record_page(record.id),
                        "guidance": guidance_words(record),
                        "value": digits(record, key),
                        "uncertainty": uncertainty(record.values[key]),
                    }
                    for record in alike[:_LISTED]
                ],
            }
        )
    return found


def _order(value: float, better: bool) -> float:
    return math.inf if not math.isfinite(value) else -value if better else value
