"""A correlation study for people (rich tables) and for programs (plain dictionaries)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table

from diffusionbench.catalog import metric_info
from diffusionbench.shown import few
from diffusionbench.study.analysis import Study, SubsetCoefficient
from diffusionbench.study.correlate import Coefficient

UNDEFINED = "not defined"


def as_dict(study: Study) -> dict[str, Any]:
    """Return the whole study; what is not defined is null."""
    content = asdict(study)
    selection = study.selection
    content["selection"] = {
        "score_set": selection.score_set,
        "guidance": selection.guidance,
        "x": selection.x_key,
        "y": selection.y_key,
        "points": [
            {
                "name": point.name,
                "title": point.title,
                "family": point.family,
                "x": point.x,
                "y": point.y,
                "x_record": point.x_record,
                "y_record": point.y_record,
            }
            for point in selection.points
        ],
        "left_out": [{"name": name, "reason": reason} for name, reason in selection.left_out],
    }
    return content


def number(value: float | None, digits: int = 4) -> str:
    """Return a signed number, or "not defined"."""
    return UNDEFINED if value is None else f"{value:+.{digits}f}"


def span(interval: tuple[float, float] | None, digits: int = 3) -> str:
    """[low, high], or "not defined"."""
    return UNDEFINED if interval is None else f"[{interval[0]:+.{digits}f}, {interval[1]:+.{digits}f}]"


def print_study(study: Study, console: Console) -> None:
    """Print every part of a study to a console that shows strings as they are (`terminal.PlainConsole`)."""
    for part in _parts(study):
        console.print(part)


def _parts(study: Study) -> Iterable[RenderableType]:
    selection = study.selection
    x, y = metric_info(selection.x_key), metric_info(selection.y_key)
    condition = f", guidance {selection.guidance}" if "class_conditional" in (x.axis, y.axis) else ""
    yield f"{x.title} ({_better(x.higher_is_better)}) against {y.title} ({_better(y.higher_is_better)})"
    yield f"set {selection.score_set}{condition}, {len(selection.points)} methods"
    yield _coefficients("over all methods", [study.pearson, study.spearman, study.kendall], study)
    line = study.line
    fitted = UNDEFINED if line is None else f"{line.intercept:.4f} {line.slope:+.5f} * {selection.x_key}"
    yield f"line: {selection.y_key} = {fitted}"
    yield from _families(study)
    if study.top:
        yield _subsets(f"methods that are best on {selection.x_key}", study.top)
    yield _influence(study)
    yield _noise(study)
    if selection.left_out:
        reasons: dict[str, list[str]] = {}
        for name, reason in selection.left_out:
            reasons.setdefault(reason, []).append(name)
        lines = [f"not among the points: {few(names, first=40)} ({reason})" for reason, names in reasons.items()]
        yield Group(*lines)
    yield (
        f"bootstrap and permutations: {study.draws} draws, seed {study.seed}; intervals are 95 % over the choice of "
        "methods"
    )


def _better(higher: bool | None) -> str:
    return "direction unknown" if higher is None else "higher is better" if higher else "lower is better"


def _coefficients(title: str, coefficients: Iterable[Coefficient], study: Study) -> Table:
    table = Table("", "value", "95 %", "by", "p", "n", title=title, title_justify="left")
    for one in coefficients:
        by = "bootstrap" if one.kind in ("spearman", "kendall") else "Fisher z"
        interval = (
            "not drawn" if by == "bootstrap" and not study.draws and one.value is not None else span(one.interval)
        )
        table.add_row(_kind(one), number(one.value), interval, by, _p(one), str(one.n))
        if one.note:
            table.add_row("", one.note, "", "", "", "")
    return table


def _kind(one: Coefficient) -> str:
    return {"pearson": "Pearson r", "spearman": "Spearman rho", "kendall": "Kendall tau-b", "partial": "partial r"}[
        one.kind
    ]


def _p(one: Coefficient) -> str:
    return "" if one.p_value is None else f"{one.p_value:.4f}"


def _families(study: Study) -> Iterable[RenderableType]:
    yield _subsets("within each family (Pearson)", study.per_family)
    yield _coefficients("within families together: partial correlation given family", [study.within], study)
    between = study.between
    share = UNDEFINED if between.share is None else f"{100 * between.share:.0f} %"
    yield (
        f"between families: r of the {between.families} family means {number(between.value)}; "
        f"share of the pooled covariance that lies between families: {share}"
    )
    if study.without_family:
        yield _subsets("without one family (Pearson)", study.without_family)


def _subsets(title: str, parts: Iterable[SubsetCoefficient]) -> Table:
    table = Table("", "r", "Fisher z 95 %", "p", "n", title=title, title_justify="left")
    for part in parts:
        one = part.coefficient
        table.add_row(part.name, number(one.value), span(one.interval), _p(one), str(one.n))
    return table


def _influence(study: Study) -> Table:
    table = Table("without", "r", "change", title="influence of single methods (largest five)", title_justify="left")
    for one in study.influence[:5]:
        table.add_row(one.name, number(one.without), number(one.change))
    return table


def _noise(study: Study) -> RenderableType:
    lines = []
    for key, noise in ((study.selection.x_key, study.noise_x), (study.selection.y_key, study.noise_y)):
        known = "not known; taken as none" if noise is None else f"sd {noise.sd:.4g} ({noise.source})"
        lines.append(f"noise of one scoring of {key}: {known}")
    for one in study.attenuation:
        ceiling = UNDEFINED if one.ceiling is None else f"{one.ceiling:.4f}"
        again = "" if one.rescored_sd is None else f"; scoring again moves r by {one.rescored_sd:.4f} (sd)"
        lines.append(
            f"{one.scope}: a perfect relation would show |r| = {ceiling}; "
            f"r without noise {number(one.corrected)}{again}"
        )
    if not study.attenuation:
        lines.append(f"attenuation by noise: {UNDEFINED}")
    return Group(*lines)
