"""Pieces of a page of findings as Markdown: tables, commands, coefficients in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from diffusionbench.catalog import metric_info
from diffusionbench.study.analysis import Study
from diffusionbench.study.correlate import Coefficient


def percent(share: float | None) -> str:
    """Return a share in percent, or "not defined"."""
    return "not defined" if share is None else f"{100 * share:.0f} %"


def command(one: Study, family: Sequence[str] = ()) -> str:
    """Return the command that prints a study."""
    selection = one.selection
    words = ["diffusionbench correlate", f"--x {selection.x_key}", f"--y {selection.y_key}"]
    words += [f"--guidance {selection.guidance}", f"--set {selection.score_set}", *["--flagged"] * counts_flagged(one)]
    return " ".join([*words, *(f"--family {name}" for name in family)])


def number(one: Coefficient) -> str:
    """Return a coefficient with its interval."""
    span = one.interval
    if one.value is None:
        return "not defined"
    return f"{one.value:+.4f}" + ("" if span is None else f" [{span[0]:+.2f}, {span[1]:+.2f}]")


def verdict(coefficients: Iterable[Coefficient]) -> str:
    """Return how many of the 95 % intervals exclude 0, and how many exclude a strong relation (|r| >= 0.8)."""
    spans = [one.fisher for one in coefficients if one.fisher is not None]
    away = sum(low > 0 or high < 0 for low, high in spans)
    weak = sum(max(abs(low), abs(high)) < 0.8 for low, high in spans)
    return f"{away} of {len(spans)} intervals exclude 0; {weak} of {len(spans)} exclude |r| >= 0.8."


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Iterable[int] = ()) -> str:
    """Return a table of Markdown, columns at the places `right` aligned to the right; cells must be escaped."""
    rule = "".join("---:|" if place in right else "---|" for place in range(len(head)))
    return "\n".join([f"| {' | '.join(head)} |", f"|{rule}", *(f"| {' | '.join(row)} |" for row in rows)])


def block(*lines: str) -> str:
    """Return lines as a block of commands."""
    return "\n".join(["```sh", *lines, "```"])


def commands(studies: Iterable[Study], family: Sequence[str] = ()) -> str:
    """Return the commands that print studies, as a block."""
    return block(*(command(one, family) for one in studies))


def title(key: str) -> str:
    """Return the title of a metric."""
    return metric_info(key).title


def label(one: Study) -> str:
    """Return the metric of a study, whether the images were guided, and whether flagged values count."""
    guided = "guided" if one.selection.guidance == "cfg" else "unguided"
    return f"{title(one.selection.y_key)}, {guided}{', flagged counted' * counts_flagged(one)}"


def counts_flagged(one: Study) -> bool:
    """Return whether a value that a guard flags is among the points of a study."""
    return any(status == "flagged" for _, _, status, _ in one.selection.doubtful)
