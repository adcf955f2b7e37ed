"""The first page: Figure 1, interactive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from diffusionbench.shown import few
from diffusionbench.study.points import Point
from diffusionbench.views.figure import (
    BENCHMARKS,
    OTHER,
    STATES,
    STYLES,
    UNSTATED,
    Figure,
    Panel,
    axis_title,
    with_arrow,
    x_name,
)
from diffusionbench.views.site.contents import SETS, Contents, digits, family_look, method_page
from diffusionbench.views.site.render import Pages

SCRIPTS: Final = ("stats.js", "axes.js", "figure.js")
# Names shown for one reason why methods are not among the points; the count is always whole.
_NAMED: Final = 12


def pages(contents: Contents, site: Pages) -> Iterator[tuple[str, str]]:
    """(path, HTML)."""
    sets = [_set(contents, name) for name in contents.figures]
    families = _families(sets)
    yield (
        "index.html",
        site.render(
            "index.html",
            here="index.html",
            scripts=SCRIPTS,
            data={"sets": sets, "families": families},
            sets=sets,
            families=families,
            states=STATES,
            benchmarks=BENCHMARKS,
        ),
    )


def _families(sets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The legend: families that any view holds, those that the table of styles does not name last."""
    held = {m["family"] for one in sets for view in one["views"].values() for m in view["methods"]}
    named = [key for key in STYLES if key in held]
    return [
        {"key": key, "shown": STYLES.get(key, OTHER).shown, **family_look(key)}
        for key in [*named, *sorted(held - set(named))]
    ]


def _set(contents: Contents, name: str) -> dict[str, Any]:
    title, about = SETS[name]
    views = {state: _view(contents, shown) for state, shown in contents.figures[name].items()}
    return {"key": name, "title": title, "about": about, "views": views}


def _view(contents: Contents, shown: Figure) -> dict[str, Any]:
    index: dict[str, int] = {}
    methods: list[dict[str, Any]] = []
    for panel in shown.panels:
        for point in panel.points:
            if point.name not in index:
                index[point.name] = len(methods)
                methods.append(_method(contents, point, shown.x_key))
    return {
        "x": {
            "key": shown.x_key,
            "title": f"{x_name(shown.x_key)}, {STATES[shown.guidance]}",
            "axis": axis_title(shown),
        },
        "methods": methods,
        "panels": [_panel(contents, panel, index) for panel in shown.panels],
        "leftOut": _left_out(shown),
    }


def _method(contents: Contents, point: Point, x_key: str) -> dict[str, Any]:
    record = contents.by_id[point.x_record]
    return {
        "name": point.name,
        "title": point.title,
        "family": point.family or UNSTATED,
        "page": method_page(record.method),
        "record": record.id,
        "x": point.x,
        "shown": digits(record, x_key),
    }


def _panel(contents: Contents, panel: Panel, index: dict[str, int]) -> dict[str, Any]:
    points = [[index[p.name], p.y, digits(contents.by_id[p.y_record], panel.key), p.y_record] for p in panel.points]
    return {
        "key": panel.key,
        "title": panel.title,
        "axis": with_arrow(panel.title.split(" (")[0], panel.key),
        "about": panel.about,
        "problem": panel.problem,
        "points": points,
    }


def _left_out(shown: Figure) -> list[str]:
    """Who is missing from a panel and why, one sentence for each reason."""
    reasons: dict[str, list[str]] = {}
    for panel in shown.panels:
        for name, reason in panel.left_out:
            names = reasons.setdefault(reason, [])
            if name not in names:
                names.append(name)
    return [f"{reason}: {few(names, first=_NAMED)}" for reason, names in reasons.items()]
