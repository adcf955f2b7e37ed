"""One self-contained HTML page about a run, or two next to each other; opens from the file system, without network."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from diffusionbench.errors import CheckpointError, DataError, RequestError
from diffusionbench.images import decode_rgb, encode_png
from diffusionbench.limits import parse_json, read_small
from diffusionbench.metrics import METRICS
from diffusionbench.record import Record, facts_of
from diffusionbench.registry import require
from diffusionbench.store import ImageStore
from diffusionbench.writing import check_gives_way, write_result
from nanogen import log
from nanogen import run as runs
from nanogen.config import differences
from nanogen.evaluate import records_of
from nanogen.tokenizer.first_stage import RECIPE

# Judged images on the page: the first of the evaluation, nothing selected.
_JUDGED = 24
# Points of a curve on the page; the log file keeps all of them.
_MAX_POINTS = 600


def write_report(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page.

    Args:
        paths: one run folder, or two to show side by side with the config lines that differ.
        out: the HTML file; None: `report.html` in the first run folder.

    Returns:
        The file written.

    Raises:
        RequestError: if there are more than two, a file that is no report would be lost, or it cannot be written.
        CheckpointError: if one is no run folder.
        MissingPackageError: if jinja2 or altair is not installed.
    """
    if len(paths) > 2:
        raise RequestError(f"a report shows one run or two side by side, found {len(paths)}. Name at most two.")
    if (paths[0] / RECIPE).is_file():
        return _write_page("tokenizer.html", _first_stage(paths), paths, out)
    sides: list[dict[str, Any]] = []
    for path in paths:
        run, lines = runs.read(path), log.read(path / "metrics.jsonl")
        records = records_of(path)
        sides.append(
            {
                "run": run,
                "grids": sample_grids(path),
                "curve": _curve(lines),
                "records": records,
                "judged": next(filter(None, (_judged(path, record) for record in records)), []),
                "last": lines[-1] if lines else {},
                "config": (path / runs.CONFIG).read_text(encoding="utf-8"),
            }
        )
    facts = {
        "sides": sides,
        "changed": differences(*(side["run"].config for side in sides)) if len(sides) == 2 else {},
        "metrics": METRICS,
    }
    return _write_page("report.html", facts, paths, out)


def _write_page(template: str, facts: Mapping[str, Any], paths: Sequence[Path], out: Path | None) -> Path:
    jinja2 = require("jinja2", "demo", "A report")
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        (files("nanogen") / "templates" / template).read_text(encoding="utf-8")
    )
    text = page.render(name=" and ".join(path.name for path in paths), show=json.dumps, **facts)
    out = out or paths[0] / "report.html"
    check_gives_way(out, "NanoGen report</title>")
    write_result(out, text)
    return out


def _first_stage(paths: Sequence[Path]) -> dict[str, Any]:
    """Return what the page of a first stage shows: reconstructions, metrics by step, losses, recipe."""
    path = paths[0]
    if len(paths) > 1:
        raise RequestError(f"{path} is a first stage, and a report shows one of those. Name it alone.")
    try:
        facts = parse_json(read_small(path / RECIPE))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / RECIPE} cannot be read ({error}). Start the training again.") from None
    lines = log.read(path / log.FILE)
    found = [
        {
            "step": line["step"],
            "values": [(*key.removeprefix(log.EVAL).split("/", 1), line[key]) for key in line if log.EVAL in key],
        }
        for line in reversed(lines)
    ]
    measured = [line for line in found if line["values"]]
    return {"facts": facts, "grids": sample_grids(path), "measured": measured, "curve": _curve(lines)}


def _judged(path: Path, record: Record) -> list[dict[str, Any]]:
    """Return the first images of a record that has a verdict on each image, with their prompts and verdicts."""
    verdicts = next((facts["verdicts"] for facts in facts_of(record).values() if "verdicts" in facts), None)
    if not verdicts:
        return []
    free = {"metrics", "count", "command"} | {"reference", "references", "reference_extractors", "reference_role"}
    request = {key: value for key, value in record.extra.get("request", {}).items() if key not in free}
    stores = filter(None, map(_store, sorted((path / runs.EVALS / "images").glob("*/store.json"))))
    same = (one for one in stores if one.manifest.request.model_dump(mode="json", exclude=free) == request)
    store = next(same, None)
    found = []
    for samples, images in store.batches(min(store.count(), _JUDGED)) if store else ():
        for sample, image in zip(samples, images, strict=True):
            rows = [
                {"what": what, "asked": asked, "seen": seen or "unclear", "right": asked == seen}
                for what, asked, seen in verdicts.get(str(sample.id), [])
            ]
            found.append({"prompt": sample.prompt, "uri": _png_uri(encode_png(image)), "rows": rows})
    return found


def _store(file: Path) -> ImageStore | None:
    """Open the store of a `store.json`; one that cannot be read, or of an earlier version, has no images to show."""
    try:
        return ImageStore(file.parent)
    except DataError:
        return None


def _png_uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def sample_grids(path: Path) -> list[dict[str, Any]]:
    """Return the sample grids as data URIs, newest first; damaged ones are left out, and counted."""
    found, damaged = [], []
    for file in sorted((path / runs.SAMPLES).glob("step-*.png"), reverse=True):
        step = file.stem.removeprefix("step-")
        if not re.fullmatch("[0-9]{8,18}", step):
            continue
        try:
            data = file.read_bytes()
            decode_rgb(data, file.name)
        except (OSError, DataError):
            damaged.append(file.name)
            continue
        found.append({"step": int(step), "uri": _png_uri(data)})
    if damaged:
        log.say(f"{path}: {len(damaged)} sample grid(s) cannot be read and are left out, the first is {damaged[0]}")
    return found


def _curve(lines: list[dict[str, Any]]) -> str:
    """Return the losses by step as an SVG picture."""
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
