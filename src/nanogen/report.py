"""One self-contained HTML page about a run, or two next to each other; opens from the file system, without network."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diffusionbench.errors import CheckpointError, DataError, RequestError, UserError
from diffusionbench.images import decode_rgb, encode_png, to_uint8
from diffusionbench.limits import parse_json, read_small
from diffusionbench.metrics import METRICS
from diffusionbench.record import Record, facts_of, told_doubts
from diffusionbench.registry import require
from diffusionbench.shown import few
from diffusionbench.store import ImageStore
from diffusionbench.writing import check_gives_way, write_result
from nanogen import live, log
from nanogen import run as runs
from nanogen.chart import line_chart
from nanogen.conditions import SampleSpec
from nanogen.config import differences
from nanogen.evaluate import COLUMNS, grid_path, records_of
from nanogen.pipeline import ImagePipeline, Loaded, open_weights
from nanogen.resolve import resolve
from nanogen.rng import sampling_noise
from nanogen.tokenizer.first_stage import RECIPE

# Judged images on the page: the first of the evaluation, nothing selected; and of a grid with its prompts.
_JUDGED, _PROMPTED = 24, 8
# Parameters up to which a sample is drawn for the page, and its states on the way.
_SMALL, FRAMES = 20_000_000, 9


def write_report(paths: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page, and return its file.

    Args:
        paths: one run folder, or two to show side by side with the config lines that differ.
        out: the HTML file; None: `report.html` in the first run folder.

    Raises:
        RequestError: if there are more than two, a file that is no report would be lost, or it cannot be written.
        CheckpointError: if one is no run folder.
        MissingPackageError: if jinja2 is not installed.
    """
    if len(paths) > 2:
        raise RequestError(f"a report shows one run or two side by side, found {len(paths)}. Name at most two.")
    out = out or paths[0] / "report.html"
    if (paths[0] / RECIPE).is_file():
        return _write_page("tokenizer.html", _first_stage(paths), paths, out)
    sides = [_side(path) for path in paths]
    shown = next((side["loaded"] for side in sides if side["loaded"] and not live.why_not(side["run"].config)), None)
    if shown is not None:
        live.write_live(shown, out.with_name(live.FILE))
    facts = {
        "sides": sides,
        "changed": differences(*(side["run"].config for side in sides)) if len(sides) == 2 else {},
        "metrics": METRICS,
        "number": number,
        "title": title,
        "doubts": told_doubts,
        "few": few,
        "live": shown and {"file": live.FILE, "name": shown.path.name},
    }
    return _write_page("report.html", facts, paths, out)


def _side(path: Path) -> dict[str, Any]:
    """Return what the page shows of one run."""
    run, lines, records, grids = runs.read(path), log.read(path / log.FILE), records_of(path), sample_grids(path)
    loaded, newest = _small_network(run), _newest_grid(path, grids)
    # An accuracy stands in the first sentence, else the first score.
    keys = [*records[0].values] if records else []
    return {
        "run": run,
        "grids": grids,
        "tiles": _tiles(newest),
        "strip": _strip(run, loaded, newest) if loaded is not None else None,
        "curve": _curve(lines),
        "records": records,
        "headline": next((key for key in keys if key.startswith("accuracy_")), next(iter(keys), None)),
        "judged": next(filter(None, (_judged(path, record) for record in records)), []),
        "speeds": [line["images_per_second"] for line in lines if "images_per_second" in line],
        "parameters": loaded and loaded.net.shape.num_parameters(),
        "step": max((line["step"] for line in lines), default=0),
        "loaded": loaded,
        "config": (path / runs.CONFIG).read_text(encoding="utf-8"),
    }


def _small_network(run: runs.Run) -> Loaded | None:
    """Return a run's network, or None where it is large, not there yet or lacks something it needs."""
    if resolve(run.config).shape.num_parameters() > _SMALL:
        return None
    try:
        return open_weights(run.path, "cpu")
    except UserError as error:
        log.say(f"{run.path}: no sample is drawn for the report: {error}")
        return None


def _newest_grid(path: Path, grids: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the newest grid as an image, and the classes or prompts of its tiles."""
    if not grids:
        return {}
    with Image.open(grid_path(path, grids[0]["step"])) as image:
        told: dict[str, Any] = {key: json.loads(image.info[key]) for key in ("labels", "prompts") if key in image.info}
        return {"image": image.convert("RGB"), **told}


def _tiles(grid: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the first pictures of a grid with their prompts; none of a grid of classes."""
    found = []
    for place, prompt in enumerate(grid.get("prompts", [])[:_PROMPTED]):
        # As `diffusionbench.images.grid` lays them out: two pixels apart.
        side = (grid["image"].width - 2) // min(COLUMNS, len(grid["prompts"]))
        left, top = 2 + place % COLUMNS * side, 2 + place // COLUMNS * side
        tile = grid["image"].crop((left, top, left + side - 2, top + side - 2))
        found.append({"prompt": prompt, "uri": _png_uri(encode_png(tile))})
    return found


def _strip(run: runs.Run, loaded: Loaded, grid: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return one sample from noise to image, of the grid's fourth class or first prompt."""
    labels, prompts = grid.get("labels", []), grid.get("prompts", [])
    if prompts:
        spec, told = SampleSpec(caption=prompts[0]), prompts[0]
    elif labels:
        label, classes = labels[min(3, len(labels) - 1)], run.facts.get("classes")
        spec, told = SampleSpec(label=label), f"class {classes[label] if classes else label}"
    else:
        return None
    frames = filmstrip(loaded.pipeline([]), spec, 0)
    return {"told": told, "frames": [{"t": t, "uri": _png_uri(encode_png(image))} for t, image in frames]}


def filmstrip(pipeline: ImagePipeline, spec: SampleSpec, seed: int) -> list[tuple[float, np.ndarray]]:
    """Return at most `FRAMES` states of sample 0 with their times, 1 to 0, decoded to uint8 [H, W, 3].

    Args:
        spec: its class or caption.
        seed: of the noise, as in `nanogen sample --seed`.
    """
    components = pipeline.components
    states: list[tuple[float, Tensor]] = []
    condition = components.conditioner([spec.label], [] if spec.caption is None else [spec.caption])
    final = pipeline(condition, sampling_noise(seed, [0], components.device), lambda z, t: states.append((t, z)))[0]
    # A solver of second order asks twice at a time; the first state of each counts.
    by_time = dict(reversed(states))
    times = sorted(by_time, reverse=True)
    chosen = {times[round(place)] for place in np.linspace(0, len(times) - 1, min(FRAMES - 1, len(times)))}
    with torch.no_grad():
        found = [
            (t, to_uint8(components.latent.decode(components.objective.latent(by_time[t])).float())[0])
            for t in sorted(chosen, reverse=True)
        ]
    return [*found, (0.0, final)]


def _write_page(template: str, facts: Mapping[str, Any], paths: Sequence[Path], out: Path) -> Path:
    jinja2, templates = require("jinja2", "demo", "A report"), files("nanogen") / "templates"
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
        (templates / template).read_text(encoding="utf-8")
    )
    style = (templates / "page.css").read_text(encoding="utf-8")
    text = page.render(name=" and ".join(path.name for path in paths), show=json.dumps, style=style, **facts)
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
                {"what": what.rstrip("12"), "asked": asked, "seen": seen or "unclear", "right": asked == seen}
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
    series: dict[str, list[tuple[float, float]]] = {}
    for line in lines:
        for name, value in line.items():
            if name.startswith("loss/") and isinstance(value, int | float):
                series.setdefault(name.removeprefix("loss/"), []).append((line["step"], value))
    return line_chart(series, "optimizer step", "training loss")


def title(key: str) -> str:
    """Return what readers call a score: its metric's title, or the words that follow its metric's name."""
    if key in METRICS:
        return METRICS[key].title
    owner = max((name for name in METRICS if key.startswith(f"{name}_")), key=len, default="")
    return key.removeprefix(f"{owner}_").replace("_", " ")


def number(value: float) -> str:
    """Return a score for readers: three decimals, fewer of large ones, and no sign or power of ten of a zero."""
    return f"{value:.4g}" if abs(value) >= 100 else f"{round(value, 3) + 0.0:.3f}"
