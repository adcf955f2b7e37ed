"""One self-contained HTML page about a run; opens from the file system, without network."""

from __future__ import annotations

import base64
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from diffusionbench.errors import CheckpointError
from diffusionbench.metrics import METRICS
from diffusionbench.record import Record, Value
from diffusionbench.record import load as load_record
from diffusionbench.registry import require
from diffusionbench.schema import write_atomic
from nanogen import log
from nanogen import run as runs

# At most this many points of a curve are drawn; the file keeps all of them.
_MAX_POINTS = 600


def write_report(path: Path, out: Path | None = None) -> Path:
    """Write the page.

    Args:
        path: a run folder.
        out: the HTML file; None: `report.html` in the run folder.

    Returns:
        The file written.

    Raises:
        CheckpointError: if this is no run folder, or the page cannot be written.
        MissingPackageError: if jinja2 or altair is not installed.
    """
    run = runs.read(path)
    lines = log.read(path / "metrics.jsonl")
    records = [load_record(file) for file in sorted((path / runs.EVALS).glob("*.json"))]
    jinja2 = require("jinja2", "demo", "A report")
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        (files("nanogen") / "templates" / "report.html").read_text(encoding="utf-8")
    )
    page = template.render(
        name=path.name,
        facts=run.facts,
        grids=_grids(path),
        curve=_curve(lines),
        tables=[_table(record) for record in reversed(records)],
        last=lines[-1] if lines else {},
        config=(path / runs.CONFIG).read_text(encoding="utf-8"),
    )
    out = out or path / "report.html"
    try:
        write_atomic(out, page)
    except OSError as error:
        raise CheckpointError(f"report {out} cannot be written: {error.strerror or error}.") from None
    return out


def _grids(path: Path) -> list[dict[str, Any]]:
    """The newest sample grid, then earlier ones, as data URIs."""
    found = []
    for file in sorted((path / runs.SAMPLES).glob("step-*.png"), reverse=True):
        data = base64.b64encode(file.read_bytes()).decode()
        found.append({"step": int(file.stem.removeprefix("step-")), "uri": f"data:image/png;base64,{data}"})
    return found


def _curve(lines: list[dict[str, Any]]) -> str:
    """Loss by step as an SVG picture."""
    points = [
        {"step": line["step"], "loss": value, "term": name.removeprefix("loss/")}
        for line in lines
        for name, value in line.items()
        if name.startswith("loss/")
    ]
    if not points:
        return ""
    altair = require("altair", "demo", "A report")
    convert = require("vl_convert", "demo", "A report")
    chart = (
        altair.Chart(altair.Data(values=points[:: 1 + len(points) // _MAX_POINTS]))
        .mark_line(point=len(points) < 3)
        .encode(
            x=altair.X("step:Q", title="optimizer step"),
            y=altair.Y("loss:Q", title="training loss", scale=altair.Scale(zero=False)),
            color=altair.Color("term:N", title="term"),
        )
        .properties(width=640, height=240, background="white")
    )
    return convert.vegalite_to_svg(json.dumps(chart.to_dict()))


def _table(record: Record) -> dict[str, Any]:
    """A record's rows: what was measured, with its interval, between its anchors."""
    rows = []
    for key, value in record.values.items():
        spec = METRICS.load(key) if key in METRICS else None
        rows.append(
            {
                "key": key,
                "title": spec.title if spec else key,
                "better": "" if spec is None else "higher" if spec.higher_is_better else "lower",
                "value": _number(value),
                "uncertainty": _uncertainty(value),
                "scored": value.scored,
                "anchors": {name: _anchor(values.get(key), value) for name, values in record.anchors.items()},
            }
        )
    return {
        "record": record,
        "rows": rows,
        "anchor_names": list(record.anchors),
        "guidance": record.protocol.guidance,
        "json": json.dumps(record.provenance.model_dump(mode="json", exclude_none=True), indent=2),
    }


def _number(value: Value | None) -> str:
    return "–" if value is None else f"{value.value:.4g}"


def _anchor(anchor: Value | None, value: Value) -> str:
    if anchor is None or anchor.scored == value.scored:
        return _number(anchor)
    return f"{_number(anchor)} (n = {anchor.scored})"


def _uncertainty(value: Value) -> str:
    if value.interval is not None:
        return f"{value.interval[0]:.4g} to {value.interval[1]:.4g}"
    return "not defined" if value.stderr is None else f"± {value.stderr:.2g} (standard error)"
