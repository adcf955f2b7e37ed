"""Figure 1: text-to-image scores against ImageNet FID, one panel for each benchmark; its data, and a static picture.

The interactive page (`views.site`) and the picture for papers draw the same `Figure`, with the points of
`points.select_points`, which `diffusionbench correlate` takes, too.
"""

from __future__ import annotations

import io
import json
import math
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev
from typing import Any, Final

from PIL import Image, PngImagePlugin

from diffusionbench.catalog import ALIASES, SIMPLEEVAL, metric_info, resolve_metric
from diffusionbench.errors import RequestError
from diffusionbench.metrics import METRICS
from diffusionbench.record import Record
from diffusionbench.registry import require
from diffusionbench.study.cells import status_of
from diffusionbench.study.columns import MEASURED, declared
from diffusionbench.study.correlate import fit_line, pearson
from diffusionbench.study.cost import is_derived
from diffusionbench.study.floors import families_of, floor_of
from diffusionbench.study.points import COUNTED, Point, Selection, in_set, select_points
from diffusionbench.views.terminal import ARROWS, UNDEFINED, number, span
from diffusionbench.writing import check_gives_way, write_atomic, write_errors

BENCHMARKS: Final = ("geneval", "dpgbench", "genaibench", "simpleeval")
#: Takes the place of the natural prompts in a study of drawn scenes.
SHAPES: Final = "simpleeval_shapes_v1"
GUIDANCE: Final = ("none", "cfg")
# Endings, and a text that only our figures of that kind contain: other files are not replaced.
FORMATS: Final = {".svg": 'class="marks"', ".png": "diffusionbench figure", ".pdf": "/Producer (svg2pdf)"}
STATES: Final = {"none": "without guidance", "cfg": "tuned guidance"}
UNSTATED: Final = "not stated"


@dataclass(frozen=True)
class FamilyStyle:
    """Colour (Okabe and Ito 2008) and shape of a family's marks; either alone identifies it.

    Attributes:
        colour, dark: on a light and on a dark background.
        shape: name in Vega's vocabulary.
        shown: visible in the interactive figure at first: the study's latent methods.
    """

    title: str
    colour: str
    dark: str
    shape: str
    shown: bool = False


STYLES: Final = {
    "rae": FamilyStyle("RAE", "#0072B2", "#56B4E9", "circle", True),
    "vae": FamilyStyle("VAE", "#E69F00", "#E69F00", "square", True),
    "e2e-vae": FamilyStyle("E2E VAE", "#009E73", "#2FC49A", "diamond", True),
    "pixel": FamilyStyle("Pixel", "#CC79A7", "#DD8FBA", "triangle-up"),
    "few-step": FamilyStyle("Few-step", "#D55E00", "#F0803C", "cross"),
    "reference": FamilyStyle("Reference model", "#555555", "#B0B0B0", "triangle-down"),
}
# The shapes as paths of about equal area around (0, 0), for the pages.
PATHS: Final = {
    "circle": "M5,0A5,5,0,1,1,-5,0A5,5,0,1,1,5,0Z",
    "square": "M-4.5,-4.5H4.5V4.5H-4.5Z",
    "diamond": "M0,-6.4L5.4,0L0,6.4L-5.4,0Z",
    "triangle-up": "M0,-5.8L5.8,4.6H-5.8Z",
    "triangle-down": "M0,5.8L5.8,-4.6H-5.8Z",
    "triangle-right": "M5.8,0L-4.6,5.8V-5.8Z",
    "cross": "M-2,-5.8H2V-2H5.8V2H2V5.8H-2V2H-5.8V-2H-2Z",
}
OTHER: Final = FamilyStyle("Other", "#8C8C8C", "#9A9A9A", "triangle-right", True)
ALL_STYLES: Final = {**STYLES, "other": OTHER}
# Points of 1/72 inch.
_PANEL_WIDTH: Final = 260


@dataclass(frozen=True)
class Paper:
    """Colours of a static figure's background, text, lines and marks' outlines."""

    background: str
    text: str
    grid: str
    line: str
    outline: str


LIGHT: Final = Paper("white", "#222", "#e6e6e6", "#555", "#222222")
DARK: Final = Paper("#0d1117", "#e6e6e6", "#30363d", "#9aa4ae", "#0d1117")


@dataclass(frozen=True)
class Baseline:
    """A score that methods are held against: of a public model, of real images, of pictures drawn from the prompts."""

    title: str
    value: float
    record: str


@dataclass(frozen=True)
class FigurePanel:
    """One benchmark.

    Attributes:
        baselines: of records of family "reference" that are not among the points.
        key: metric key of the score set; where the set does not hold it, the requested one.
        points: methods that have both metrics.
        left_out: (name, reason) of methods that have one of the two.
        problem: the error message, where the panel cannot be drawn.
    """

    key: str
    title: str
    about: str
    points: tuple[Point, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    problem: str | None = None
    baselines: tuple[Baseline, ...] = ()


@dataclass(frozen=True)
class Figure:
    """The panels of one score set in one state of guidance.

    Attributes:
        x_key: their common horizontal axis.
        baselines: on it: real images and the like, scored beside the methods.
    """

    score_set: str
    guidance: str
    x_key: str
    panels: tuple[FigurePanel, ...]
    baselines: tuple[Baseline, ...] = ()


def figure(
    records: Iterable[Record],
    score_set: str,
    guidance: str = "none",
    *,
    x: str | None = None,
    family: Sequence[str] = (),
    select: Sequence[str] = (),
    flagged: bool = False,
) -> Figure:
    """Return the points of Figure 1.

    Args:
        records: any mixture; only those of the set are used.
        score_set, guidance, family, select, flagged: as in `points.select_points`.
        x: horizontal metric, or a cost (`study.cost`); None for FID, or the digits' distance where no FID fits.

    Returns:
        Four panels; `problem` says why one cannot be drawn (no such metric, mixed protocols, two records of a method).

    Raises:
        RequestError: for an unknown set, guidance, family or name.
    """
    pool = in_set(records, score_set)
    present = {key for record in pool for key in record.values}
    if x is None:
        x = _usual_x(pool) if score_set == MEASURED else "fid"
    panels = []
    for name in _names(pool, score_set, present):
        try:
            chosen = select_points(
                pool, x, name, guidance=guidance, score_set=score_set, family=family, select=select, flagged=flagged
            )
        except RequestError as error:
            info, problem = metric_info(_key(name, score_set)), _absent(x, name, score_set, present) or str(error)
            panels.append(FigurePanel(info.key, info.title, info.about, problem=problem))
        else:
            info, lines = metric_info(chosen.y_key), _baselines(pool, chosen)
            panels.append(FigurePanel(info.key, info.title, info.about, chosen.points, chosen.left_out, None, lines))
    if all(panel.problem for panel in panels) and (select or family):
        raise RequestError(str(panels[0].problem))
    return Figure(score_set, guidance, x, tuple(panels), _anchors(pool, x))


def _usual_x(pool: Sequence[Record]) -> str:
    """Return the horizontal metric of measured records, guided or not.

    Only the Inception network gives an FID; laptop-scale results have the Frechet distance of the digits judge. An FID
    that fits no column must not change everybody's axis.
    """
    held = {key for record in pool for key in record.values}
    columns = [c for board in declared().values() if board.records == MEASURED for c in board.columns]
    fits = any(c.key == "fid" and "fid" in r.values and not c.misfits(r) for r in pool for c in columns)
    return "fd_digits" if "fd_digits" in held and not fits else "fid"


def _names(pool: Sequence[Record], score_set: str, present: set[str]) -> tuple[str, ...]:
    """Return the metrics of the panels: the study's benchmarks, or drawn scenes and their families off the floor."""
    if score_set != MEASURED or SHAPES not in present or "simpleeval_v1" in present:
        return BENCHMARKS
    if {ALIASES.get(name, name) for name in BENCHMARKS} & present:
        return (*BENCHMARKS[:-1], SHAPES)
    held = {record.id: record for record in pool if SHAPES in record.values and record.family != "reference"}
    found = floor_of(held, SHAPES, families_of(SHAPES, sorted(present)))
    return (SHAPES, *sorted(found.parts, key=lambda key: found.parts[key])[: len(BENCHMARKS) - 1])


def _baselines(pool: Sequence[Record], chosen: Selection) -> tuple[Baseline, ...]:
    shown, key = {point.y_record for point in chosen.points}, chosen.y_key
    held = [r for r in pool if r.family == "reference" and key in r.values and r.id not in shown]
    counted = [r for r in held if status_of(r, key)[0] in COUNTED and math.isfinite(r.values[key].value)]
    return tuple(Baseline(record.title, record.values[key].value, record.id) for record in counted)


def _anchors(pool: Sequence[Record], key: str) -> tuple[Baseline, ...]:
    """Return the anchors of a metric, as the newest record that has each states it."""
    found: dict[str, Baseline] = {}
    for record in sorted(pool, key=lambda record: record.provenance.created or ""):
        for name, values in record.anchors.items():
            if key in values and key in record.values:
                found[name] = Baseline(name.replace("_", " "), values[key].value, record.id)
    return tuple(found.values())


def _key(name: str, score_set: str) -> str:
    return SIMPLEEVAL.get(score_set, "simpleeval_v1") if name == "simpleeval" else ALIASES.get(name, name)


def _absent(x: str, y: str, score_set: str, present: set[str]) -> str | None:
    """Return a message if no record of the set holds a metric; without "did you mean", as no user typed the name."""
    for name in (x, y):
        if is_derived(name):
            continue
        try:
            resolve_metric(name, score_set, present)
        except RequestError:
            key = _key(name, score_set)
            return f"no record of set '{score_set}' holds {metric_info(key).title if key in METRICS.own else key}"
    return None


def undrawn(shown: Figure) -> str:
    """Return why panels have no point, each reason once; nothing where all have some."""
    empty = [panel for panel in shown.panels if not panel.points]
    names = {
        panel.title: panel.problem or f"no method has both {x_name(shown.x_key)} and {panel.title}" for panel in empty
    }
    return "; ".join(dict.fromkeys(names.values()))


def write(path: Path, shown: Figure, *, columns: int = 2, dark: bool = False) -> None:
    """Draw a figure as SVG, PNG (300 dots per inch) or PDF, by the ending of the file's name.

    Args:
        columns: panels side by side.
        dark: whether it is drawn for a dark page.

    Raises:
        RequestError: for another ending, nothing to draw, or a file that cannot be written.
        MissingPackageError: if altair or vl-convert is not installed.
    """
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise RequestError(f"figure {path}: unknown ending '{path.suffix}'. Allowed: {', '.join(FORMATS)}.")
    if not any(panel.points for panel in shown.panels):
        raise RequestError(f"figure of set '{shown.score_set}' has no points: {undrawn(shown)}")
    spec = json.dumps(chart(shown, columns=columns, dark=dark))
    convert = require("vl_convert", "figure", "A figure")
    content: bytes | str
    if ending == ".svg":
        content = convert.vegalite_to_svg(spec)
    elif ending == ".png":
        # A "Software" entry, by which the file is later recognised as ours.
        text, signed = PngImagePlugin.PngInfo(), io.BytesIO()
        text.add_text("Software", FORMATS[".png"])
        picture = Image.open(io.BytesIO(convert.vegalite_to_png(spec, scale=300 / 72, ppi=72)))
        picture.save(signed, "PNG", dpi=picture.info["dpi"], pnginfo=text)
        content = signed.getvalue()
    else:
        content = convert.vegalite_to_pdf(spec)
    check_gives_way(path, FORMATS[ending])
    with write_errors(f"figure {path}"):
        write_atomic(path, content)


def chart(shown: Figure, *, columns: int = 2, dark: bool = False) -> dict[str, Any]:
    """Return the Vega-Lite specification of a figure."""
    paper = DARK if dark else LIGHT
    altair = require("altair", "site", "A figure")
    present = {_style_key(point.family) for panel in shown.panels for point in panel.points}
    styles = [style for key, style in ALL_STYLES.items() if key in present]
    drawn = [_draw(altair, panel, styles, axis_title(shown), dark) for panel in shown.panels]
    whole = (
        altair.concat(*drawn, columns=columns, bounds="flush", spacing={"row": 92, "column": 66})
        .configure(font="Liberation Sans, Arial, Helvetica, sans-serif", background=paper.background, padding=8)
        .configure_view(stroke=None)
        .configure_axis(
            labelFontSize=10,
            titleFontSize=11,
            titleFontWeight="normal",
            gridColor=paper.grid,
            domainColor=paper.line,
            tickColor=paper.line,
            labelColor=paper.text,
            titleColor=paper.text,
        )
        .configure_title(
            fontSize=12,
            subtitleFontSize=10,
            color=paper.text,
            subtitleColor=paper.text,
            anchor="start",
            frame="group",
            offset=8,
        )
        .configure_legend(
            orient="bottom",
            title=None,
            labelFontSize=11,
            labelColor=paper.text,
            symbolSize=80,
            direction="horizontal",
            columns=len(styles),
        )
        .to_dict()
    )
    return dict(whole)


def _style_key(family: str | None) -> str:
    return family if family in STYLES else "other"


def x_name(key: str) -> str:
    """Return the title of the horizontal metric."""
    info = metric_info(key)
    return f"ImageNet {info.title}" if key == "fid" else info.title


def with_arrow(title: str, key: str) -> str:
    """Return a title with an arrow in the better direction."""
    return title + ARROWS[metric_info(key).higher_is_better]


def y_title(panel: FigurePanel) -> str:
    """Return the title of a vertical axis: the metric's without what stands in brackets, and an arrow."""
    return with_arrow(re.sub(r" \([^)]*\)", "", panel.title), panel.key)


def axis_title(shown: Figure) -> str:
    """Return the title of the horizontal axis."""
    return f"{with_arrow(x_name(shown.x_key), shown.x_key)}{state_words(shown)}"


def state_words(shown: Figure) -> str:
    """Return the state of guidance behind a title; nothing for a cost, which it does not change."""
    return "" if is_derived(shown.x_key) else f", {STATES[shown.guidance]}"


def spread(runs: Sequence[float]) -> float:
    """Return the standard deviation over repeats; 0 for a single one."""
    return stdev(runs) if len(runs) > 1 else 0.0


def summary(points: Sequence[Point]) -> str:
    """Return r, its Fisher z interval and n in one line, as `correlate` prints them, and how many are doubtful."""
    one = pearson([p.x for p in points], [p.y for p in points], draws=0)
    doubtful = Counter(s for p in points for s in {p.x_value.status, p.y_value.status} - {"ok"})
    marks = "".join(f", {count} {status}" for status, count in sorted(doubtful.items()))
    return f"r = {number(one.value)}, 95 % {span(one.fisher)}, n = {one.n}{marks}"


def _draw(altair: Any, panel: FigurePanel, styles: Sequence[FamilyStyle], x_title: str, dark: bool) -> Any:
    paper = DARK if dark else LIGHT
    points = panel.points
    x = altair.X("x:Q", title=x_title, scale=_scale(altair, [p.x for p in points]))
    y = altair.Y("y:Q", title=y_title(panel), scale=_scale(altair, [p.y for p in points]))
    layers = []
    line = fit_line([p.x for p in points], [p.y for p in points])
    if line is not None:
        ends = [min(p.x for p in points), max(p.x for p in points)]
        fitted = altair.Chart(altair.Data(values=[{"x": e, "y": line.intercept + line.slope * e} for e in ends]))
        layers.append(fitted.mark_line(color=paper.line, strokeDash=[5, 3], clip=True).encode(x=x, y=y))
    spreads = [
        {"x": p.x, "y": p.y, "x2": p.x + side * sd_x, "y2": p.y + side * sd_y}
        for p in points
        for sd_x, sd_y in ((spread(p.x_runs), 0.0), (0.0, spread(p.y_runs)))
        for side in (-1, 1)
        if sd_x or sd_y
    ]
    if spreads:
        rules = altair.Chart(altair.Data(values=spreads)).mark_rule(color=paper.line, opacity=0.6)
        layers.append(rules.encode(x=x, y=y, x2="x2:Q", y2="y2:Q"))
    titles = [style.title for style in styles]
    colours = altair.Scale(domain=titles, range=[style.dark if dark else style.colour for style in styles])
    shapes = altair.Scale(domain=titles, range=[style.shape for style in styles])
    values = [{"x": p.x, "y": p.y, "family": ALL_STYLES[_style_key(p.family)].title, "method": p.title} for p in points]
    marks = altair.Chart(altair.Data(values=values)).mark_point(
        filled=True, size=62, opacity=0.9, stroke=paper.outline, strokeWidth=0.6
    )
    colour, shape = altair.Color("family:N", scale=colours), altair.Shape("family:N", scale=shapes)
    layers.append(marks.encode(x=x, y=y, color=colour, shape=shape))
    subtitle = panel.problem or (summary(points) if points else f"{UNDEFINED}: no method has both metrics")
    return altair.layer(*layers).properties(
        width=_PANEL_WIDTH,
        height=round(_PANEL_WIDTH * 0.7),
        title={"text": panel.title, "subtitle": textwrap.wrap(subtitle, _PANEL_WIDTH // 5)[:4]},
    )


def _scale(altair: Any, values: Sequence[float]) -> Any:
    """Return a scale with a margin around the values, so that no mark is cut."""
    if not values:
        return altair.Scale(domain=[0, 1])
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or abs(high) * 0.05 or 0.5
    return altair.Scale(domain=[low - room, high + room], nice=False, zero=False)
