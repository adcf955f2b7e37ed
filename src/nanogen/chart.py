"""A small line chart as SVG whose colours are those of the page around it, in the light and in the dark."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT, LEFT, BOTTOM = 640, 260, 52, 34
# Points of a line in the page, and over which share of them a smoothed value averages.
_MAX_POINTS, _SHARE = 600, 30

Points = Sequence[tuple[float, float]]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about `count` round numbers in [low, high], steps of 1, 2 or 5 times a power of ten."""
    raw = max(high - low, 1e-12) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    return [index * step for index in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def smooth(points: Points) -> list[tuple[float, float]]:
    """Return points whose values are a running mean, exponential with the weights of the beginning corrected."""
    keep = 1 - 1 / max(1.0, len(points) / _SHARE)
    total = weight = 0.0
    found = []
    for x, y in points:
        total, weight = keep * total + y, keep * weight + 1
        found.append((x, total / weight))
    return found


def line_chart(series: Mapping[str, Points], x_title: str, y_title: str) -> str:
    """Return an SVG of lines, each thin as it is and thick when smoothed; values that are not finite are left out.

    Colours are the page's variables --series-1 to --series-4 and --quiet.
    """
    lines = {name: [point for point in points if math.isfinite(point[1])] for name, points in series.items()}
    lines = {name: points[:: 1 + len(points) // _MAX_POINTS] for name, points in lines.items() if points}
    if not lines:
        return ""
    smoothed = {name: smooth(points) for name, points in lines.items()}
    xs = [x for points in lines.values() for x, _ in points]
    # A first value far above the rest would flatten it: the thin line is cut at the frame.
    settled = sorted(y for points in smoothed.values() for _, y in points)
    high = max(settled[int(0.95 * (len(settled) - 1))] * 1.6, settled[0] + 1e-9)
    low, first, last = min(0.0, settled[0]), min(xs), max(*xs, min(xs) + 1)

    def place(x: float, y: float) -> str:
        across = LEFT + (x - first) / (last - first) * (WIDTH - LEFT - 12)
        return f"{across:.1f},{(HEIGHT - BOTTOM) - (y - low) / (high - low) * (HEIGHT - BOTTOM - 12):.1f}"

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{y_title} by {x_title}">']
    parts.append(
        f'<clipPath id="f"><rect x="{LEFT}" y="4" width="{WIDTH - LEFT - 8}" height="{HEIGHT - BOTTOM}"/></clipPath>'
    )
    for tick in ticks(low, high):
        x, y = place(first, tick).split(",")
        parts.append(
            f'<path d="M{x} {y}H{WIDTH - 12}" class="rule"/><text x="{LEFT - 8}" y="{y}" dy=".32em" '
            f'text-anchor="end">{tick:g}</text>'
        )
    for tick in ticks(first, last):
        x, _ = place(tick, low).split(",")
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:,.0f}</text>')
    parts.append(f'<text x="{WIDTH - 12}" y="{HEIGHT - 2}" text-anchor="end">{x_title}</text>')
    for index, name in enumerate(lines):
        for points, kind in ((lines[name], "raw"), (smoothed[name], "smooth")):
            drawn = " ".join(place(x, y) for x, y in points)
            parts.append(
                f'<polyline points="{drawn}" class="{kind}" clip-path="url(#f)" '
                f'style="stroke:var(--series-{index % 4 + 1})"/>'
            )
        if len(lines) > 1:
            parts.append(
                f'<text x="{WIDTH - 20}" y="{24 + 16 * index}" text-anchor="end" '
                f'style="fill:var(--series-{index % 4 + 1})">{html.escape(name)}</text>'
            )
    return "".join([*parts, "</svg>"])
