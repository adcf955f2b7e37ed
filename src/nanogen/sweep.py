"""Guidance tuned on some images and scored on others: `nanogen sweep RUN`.

The scale is chosen by one distance on times [0, 0.9], as published ImageNet figures have it. Real images of even index
and one seed of noise choose; those of odd index and another seed score. Where the real images are statistics, which
cannot be divided, only the seeds differ.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from diffusionbench import bounds
from diffusionbench.axes import AXES
from diffusionbench.errors import MissingPackageError, RequestError
from diffusionbench.metrics import METRICS
from diffusionbench.record import Record, Tuning, stderr_of
from diffusionbench.registry import nearest, require
from diffusionbench.writing import write_atomic, write_errors
from nanogen import parallel, threads
from nanogen.config import Config
from nanogen.evaluate import TUNED_INTERVAL, evaluate, evaluation_of, finished_record, guided, keep, open_run
from nanogen.log import say
from nanogen.objectives import OBJECTIVES
from nanogen.pipeline import ImagePipeline, Loaded
from nanogen.run import EVALS, Run

FOLDER: Final = "sweep"
"""Of the run, for records of the scales that were tried; their images are not kept."""

_GOLDEN: Final = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class SweepRequest:
    """How to tune.

    Attributes:
        metric: by which the scale is chosen; None: the run's first that compares features with those of real images.
        grid: scales to try; empty: golden-section search.
        high: largest scale of the search; 1, no guidance, is the smallest.
        evaluations: scales that the search tries, 1 among them.
        num: images of each evaluation; None: the run's.
        seed: of the noise that scores; the next one tunes. None: the run's.
        step: of a checkpoint that is kept; None: the newest.
    """

    metric: str | None = None
    grid: tuple[float, ...] = ()
    high: float = 10.0
    evaluations: int = 8
    num: int | None = None
    seed: int | None = None
    step: int | None = None

    @property
    def words(self) -> list[str]:
        """The options of `nanogen sweep` that ask for it."""
        search: dict[str, Any] = {"high": f"{self.high:g}", "evaluations": self.evaluations}
        if self.grid:
            search = {"grid": ",".join(f"{scale:g}" for scale in self.grid)}
        given = {"metric": self.metric, "num": self.num, "seed": self.seed, "step": self.step, **search}
        return [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]


def parse_scales(text: str) -> tuple[float, ...]:
    """Return guidance scales of a list such as "1,1.5,2", each in 1..1,000; none of an empty text."""
    scales = []
    for word in text.replace(" ", "").split(",") if text else ():
        try:
            scale = float(word)
        except ValueError:
            scale = math.nan
        if not 1 <= scale <= bounds.GUIDANCE:
            raise RequestError(
                f"--grid {text}: found '{word}', which is no guidance scale from 1 (off) to {bounds.GUIDANCE:g}. Give "
                "scales separated by commas, such as 1,1.5,2."
            )
        scales.append(scale)
    return tuple(dict.fromkeys(scales))


def golden_section(value: Callable[[float], float], low: float, high: float, evaluations: int) -> dict[float, float]:
    """Return value by place of all that were tried: `low`, then those of a golden-section search for the smallest.

    Places are searched on a logarithmic scale, 0 < low < high, and rounded to three decimals. The search presumes one
    valley; where noise makes more, the smallest value that was tried is still the smallest that is returned.

    Source: Kiefer 1953, "Sequential minimax search for a maximum".
    """
    tried = {low: value(low)}

    def at(logarithm: float) -> float:
        place = min(max(round(math.exp(logarithm), 3), low), high)
        if place not in tried and len(tried) < evaluations:
            tried[place] = value(place)
        return tried.get(place, math.inf)

    left, right = math.log(low), math.log(high)
    while len(tried) < evaluations and right - left > 1e-3:
        lower, upper = right - _GOLDEN * (right - left), left + _GOLDEN * (right - left)
        if at(lower) <= at(upper):
            right = upper
        else:
            left = lower
    return tried


class Tuner:
    """The evaluations of one sweep, each made once: what an earlier command measured is read.

    Raises:
        RequestError: if the run draws captions, names no metric to tune by, or `request.metric` is none.
    """

    def __init__(self, loaded: Loaded, run: Run, request: SweepRequest) -> None:
        self.loaded, self.run, self.request = loaded, run, request
        given = {"eval.num_samples": request.num, "eval.seed": request.seed}
        self.base = [f"{key}={value}" for key, value in given.items() if value is not None]
        self.config = loaded.pipeline(self.base).config
        self.seed = self.config.eval.seed
        self.metric = _metric(self.config, request.metric, run.path)
        opened = evaluation_of(self.config, loaded.components, run.facts["method"])
        self.count = opened.request.count
        self.halves = all(
            "features" in reference.offers and reference.made_by(judge) is None
            for judge, reference in opened.references.items()
        )
        self.tried: dict[float, Record] = {}

    def pipeline(self, half: str, *changes: str) -> ImagePipeline:
        """Return the network with changes, compared with one half of the real images where they can be divided."""
        divided = []
        if self.halves and self.config.eval.references:
            # A run that is scored on the way by the odd half is divided already.
            names = [reference.removesuffix(":odd") for reference in self.config.eval.references]
            divided = [f"eval.reference={json.dumps([f'{name}:{half}' for name in names])}"]
        return self.loaded.pipeline([*self.base, *divided, *changes])

    def value(self, scale: float) -> float:
        """Return the metric of a scale on the images that tune, such that smaller is better."""
        only = (f"eval.metrics=[{self.metric}]", f"eval.seed={self.seed + 1}", "eval.keep_images=none")
        record = self.tried[scale] = self.record(self.pipeline("even", *guided(scale), *only), FOLDER)
        found = record.values[self.metric].value
        return -found if METRICS[self.metric].higher_is_better else found

    def record(self, pipeline: ImagePipeline, folder: str, tuning: Tuning | None = None) -> Record:
        """Return the record of an evaluation, in every process; a finished one is read."""
        run, step = self.run, self.loaded.step
        found = parallel.from_main(lambda: finished_record(pipeline, run, step, tuning, folder))
        if found is not None:
            return found
        command = None if tuning is None else shlex.join(["nanogen", "sweep", str(run.path), *self.request.words])
        made = evaluate(pipeline, run, step, save=tuning is None, tuning=tuning, command=command, folder=folder)
        shared = parallel.from_main(lambda: made)
        assert shared is not None
        return shared


def _metric(config: Config, asked: str | None, run: Path) -> str:
    """Return the key of the metric to tune by."""
    if AXES[config.eval.axis].asks != "classes":
        raise RequestError(
            f"{run} draws captions, whose guidance is not tuned: it is {config.guidance.scale:g}, and the published "
            "study has 6 everywhere. `nanogen eval --guidance` scores another scale."
        )
    known = [key for key in config.eval.metrics if METRICS[key].reference]
    if asked is None and known:
        return known[0]
    if asked not in config.eval.metrics:
        wanted = "its config names no metric that compares with real images" if asked is None else f"found '{asked}'"
        raise RequestError(
            f"{run}: guidance is tuned by a metric of the run, {wanted}. "
            f"{nearest(asked or '', list(config.eval.metrics))} Train with eval.metrics, or choose with --metric."
        )
    return asked


def sweep_run(path: Path, request: SweepRequest) -> Record | None:
    """Choose the guidance of a run and score it; records of all that was tried stay in the run's folder.

    An objective whose guidance is trained in is scored without guidance, and nothing is tuned.

    Returns:
        The record of the score, which holds the split, the scales and values tried, and the optimism in
        `extra["sweep"]`; None in processes other than the main one.

    Raises:
        UserError: see `Tuner` and `nanogen.evaluate.evaluate`.
    """
    with parallel.processes() as device, ExitStack() as held:
        with parallel.agreed():
            loaded, run = open_run(path, device, request.step)
            tuner = Tuner(loaded, run, request)
        held.enter_context(threads.as_trained(run.facts.get("threads"), device))
        unguided = tuner.record(tuner.pipeline("odd", "guidance.scale=1.0"), EVALS)
        reason = OBJECTIVES[tuner.config.objective["name"]].unguided
        if reason:
            if parallel.is_main():
                say(f"{path}: guidance is not tuned: {reason}")
            return unguided if parallel.is_main() else None
        if request.grid:
            values = {scale: tuner.value(scale) for scale in (1.0, *request.grid)}
        else:
            values = golden_section(tuner.value, 1.0, request.high, request.evaluations)
        best = min(values, key=lambda scale: (values[scale], scale))
        return _scored(tuner, best, unguided)


def _scored(tuner: Tuner, scale: float, unguided: Record) -> Record | None:
    """Score the chosen scale on the images that did not choose it, and keep the record with the whole search."""
    tried = dict(sorted(tuner.tried.items()))
    split = "even real images tune, odd ones score" if tuner.halves else "the same statistics; seeds differ"
    ids = tuple(record.id for record in tried.values())
    tuning = Tuning(split=split, seeds=(tuner.seed + 1,), count=tuner.count, records=ids)
    record = tuner.record(tuner.pipeline("odd", *guided(scale)), EVALS, tuning)
    if not parallel.is_main():
        return None
    if FOLDER not in record.extra:
        facts = {
            "metric": tuner.metric,
            "search": "grid" if tuner.request.grid else "golden-section",
            "interval": TUNED_INTERVAL,
            "split": split,
            "seeds": {"tuning": tuner.seed + 1, "scoring": tuner.seed},
            "tried": [{"scale": one, **_measured(found, tuner.metric)} for one, found in tried.items()],
            "scale": scale,
            "unguided": _measured(unguided, tuner.metric),
            "optimism": optimism(tuner.metric, (tried[scale], record), (tried[1.0], unguided)),
        }
        record = record.model_copy(update={"extra": {**record.extra, FOLDER: facts}})
        keep(record, tuner.run)
    with write_errors(f"plot of {tuner.run.path}"):
        _plot(tuner.run, record)
    for line in lines(record):
        say(line)
    return record


def _measured(record: Record, metric: str) -> dict[str, Any]:
    value = record.values[metric]
    return {"value": value.value, "stderr": stderr_of(value), "record": record.id}


def optimism(metric: str, chosen: tuple[Record, Record], free: tuple[Record, Record]) -> dict[str, float | None]:
    """Return by how much a chosen scale looks better on the images that chose it than on others.

    The halves may differ by themselves, which an unguided pair shows, as nothing was chosen there: that difference is
    taken off. Positive is optimism, whichever way the metric points.

    Args:
        chosen, free: records on the images that tune and on those that score, of the chosen scale and without guidance.

    Returns:
        "value", and its "stderr" as if the four errors were independent (those of one seed are not; it is the larger).
    """
    sign = -1 if METRICS[metric].higher_is_better else 1
    four = [record.values[metric] for record in (*chosen, *free)]
    tuned, scored, before, after = (sign * value.value for value in four)
    errors = [error for value in four if (error := stderr_of(value)) is not None]
    return {"value": (scored - tuned) - (after - before), "stderr": math.hypot(*errors) if len(errors) == 4 else None}


def lines(record: Record) -> list[str]:
    """Return what to say of a tuned record: the scale, the scores with and without it, and the optimism."""
    facts: dict[str, Any] = record.extra[FOLDER]
    key, chosen = facts["metric"], next(one for one in facts["tried"] if one["scale"] == facts["scale"])

    def shown(found: dict[str, Any]) -> str:
        return f"{found['value']:.4g}" + ("" if found["stderr"] is None else f" ± {found['stderr']:.2g}")

    return [
        f"guidance {facts['scale']:g} on {list(facts['interval'])}, best of {len(facts['tried'])} by {key} "
        f"({facts['search']}; {facts['split']}; seed {facts['seeds']['tuning']} tunes)",
        f"{key}: {shown(_measured(record, key))}, without guidance {shown(facts['unguided'])}",
        f"optimism of tuning: {shown(facts['optimism'])} ({shown(chosen)} on the images that chose it)",
    ]


def _plot(run: Run, record: Record) -> None:
    """Draw the metric against the scale with its standard errors, into the run's folder of the sweep."""
    try:
        altair, convert = require("altair", "demo", "A plot"), require("vl_convert", "demo", "A plot")
    except MissingPackageError as error:
        say(f"no plot: {error}")
        return
    facts: dict[str, Any] = record.extra[FOLDER]
    key = facts["metric"]
    scored = [{"scale": 1.0, **facts["unguided"]}, {"scale": facts["scale"], **_measured(record, key)}]
    sides = {"that tune": facts["tried"], "that score": scored}
    data = []
    for images, found in sides.items():
        for one in found:
            value, spread = one["value"], one["stderr"] or 0.0
            place = {"scale": one["scale"], "images": images}
            data.append({**place, "value": value, "low": value - spread, "high": value + spread})
    base = altair.Chart(altair.Data(values=data)).encode(
        x=altair.X("scale:Q", title="guidance scale", scale=altair.Scale(type="log", nice=False)),
        color=altair.Color("images:N", title="images"),
    )
    y = altair.Y("value:Q", title=METRICS[key].title, scale=altair.Scale(zero=False))
    errors = base.mark_rule().encode(y=altair.Y("low:Q", title=METRICS[key].title), y2="high:Q")
    chart = (base.mark_line(point=True).encode(y=y) + errors).properties(width=480, height=300, background="white")
    text = convert.vegalite_to_svg(json.dumps(chart.to_dict()))
    write_atomic(run.path / FOLDER / f"{key}.svg", text)
