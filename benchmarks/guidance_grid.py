"""The guidance scale that `nanogen sweep` finds, against the best of a fine grid, for trained runs that draw classes.

Usage:
    python benchmarks/guidance_grid.py RUN [RUN ...] [--scales 17] [--high 10] [--evaluations 8] [--num IMAGES]

Both searches tune on the same images; what an earlier call measured is read. Prints a Markdown table; exit code 1 where
a chosen scale is worse than the grid's best by more than noise: two standard errors of the difference, on the images
that tune or on those that score. Errors are combined as if the two scales had other seeds; they have the same, so it is
an upper bound.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from diffusionbench.metrics import METRICS
from diffusionbench.record import Record, stderr_of
from nanogen.sweep import FOLDER, SweepRequest, sweep_run

HEAD = ("run", "metric", "images", "search", "value", "grid's best", "value", "difference", "noise", "within")


def fine_grid(high: float, number: int) -> tuple[float, ...]:
    """Scales from 1 to `high`, evenly on a logarithmic scale, as the search sees them."""
    return tuple(round(float(scale), 3) for scale in np.geomspace(1, high, number))


def rows(run: Path, found: Record, grid: Record) -> list[tuple[str, ...]]:
    """One row for the images that tune and one for those that score; positive differences are the search's loss."""
    key = found.extra[FOLDER]["metric"]
    sides = {"that tune": (_tuned(found), _tuned(grid)), "that score": (_scored(found, key), _scored(grid, key))}
    made = []
    for images, pair in sides.items():
        difference, noise = loss(key, *pair)
        shown = [
            word for one in pair for word in (f"{one['scale']:g}", f"{one['value']:.4g} ± {one['stderr'] or 0:.2g}")
        ]
        within = "yes" if difference <= 2 * noise else "no"
        made.append((run.name, key, images, *shown, f"{difference:+.3g}", f"{noise:.2g}", within))
    return made


def loss(key: str, chosen: dict[str, Any], best: dict[str, Any]) -> tuple[float, float]:
    """By how much a chosen scale is worse than another one, and the standard error of that."""
    sign = -1 if METRICS[key].higher_is_better else 1
    noise = 0.0 if chosen["scale"] == best["scale"] else math.hypot(chosen["stderr"] or 0, best["stderr"] or 0)
    return sign * (chosen["value"] - best["value"]), noise


def _tuned(record: Record) -> dict[str, Any]:
    facts = record.extra[FOLDER]
    return next(one for one in facts["tried"] if one["scale"] == facts["scale"])


def _scored(record: Record, key: str) -> dict[str, Any]:
    value = record.values[key]
    return {"scale": record.extra[FOLDER]["scale"], "value": value.value, "stderr": stderr_of(value)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--scales", type=int, default=17)
    parser.add_argument("--high", type=float, default=10.0)
    parser.add_argument("--evaluations", type=int, default=8)
    parser.add_argument("--num", type=int)
    given = parser.parse_args()
    made = []
    for run in given.runs:
        found = sweep_run(run, SweepRequest(high=given.high, evaluations=given.evaluations, num=given.num))
        grid = sweep_run(run, SweepRequest(grid=fine_grid(given.high, given.scales), num=given.num))
        if found is None or grid is None or FOLDER not in found.extra:
            sys.exit(f"{run}: its guidance is not tuned, so there is nothing to compare.")
        made += rows(run, found, grid)
    for row in (HEAD, ("---",) * len(HEAD), *made):
        print(f"| {' | '.join(row)} |")
    return int(any(row[-1] == "no" for row in made))


if __name__ == "__main__":
    sys.exit(main())
