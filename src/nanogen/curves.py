"""Reference curves: loss and gradient norm of finished runs by step, and whether another run follows them. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np

from diffusionbench.errors import CheckpointError, RequestError
from diffusionbench.limits import parse_json, read_small
from diffusionbench.registry import nearest
from diffusionbench.shown import few
from diffusionbench.writing import check_gives_way, write_atomic, write_errors
from nanogen import log
from nanogen.config import differences, read_yaml, reload

KIND: Final = "nanogen curve"
VALUES: Final = ("loss", "grad_norm")
CHOICE: Final = ("task", "method", "scale")
# Deviations outside of which a value is no chance.
LIMIT: Final = 4.0
# Logged steps on either side whose variances are averaged: that of a few seeds at one step is hardly known.
_AROUND: Final = 5
# Settings in which runs of one curve may differ.
_FREE: Final = ("seed", "log.", "eval.", "sample.", "data.path", "data.workers", "train.keep", "train.checkpoint_every")


def shipped() -> list[str]:
    """Return the names of the curves that come with the package."""
    folder = files("nanogen") / "configs" / "curves"
    return sorted(one.name.removesuffix(".json") for one in folder.iterdir()) if folder.is_dir() else []


def make_curve(runs: Sequence[Path]) -> dict[str, Any]:
    """Return the curve of finished runs that differ in their seed alone.

    Returns:
        Plain data: "kind"; "task", "method", "scale"; "seeds"; "steps", at which all runs logged; "loss" and
        "grad_norm", each with "mean" and "sd" by step, the deviation over seeds with 1 degree of freedom less, and
        averaged (as a variance) over five logged steps on either side; "config", of the first run.

    Raises:
        CheckpointError: if a folder is no run.
        RequestError: if there are fewer than two runs, they differ in more than their seeds, or share no step.
    """
    if len(runs) < 2:
        raise RequestError(f"a curve needs the deviation over seeds: two runs or more, found {len(runs)}.")
    opened = [_open(run) for run in runs]
    choices, configs = [one.choice for one in opened], [one.config for one in opened]
    for run, choice, config in zip(runs, choices, configs, strict=True):
        found = {key: pair for key, pair in differences(configs[0], config).items() if not key.startswith(_FREE)}
        if found or choice != choices[0]:
            told = few([f"{key}: {a} and {b}" for key, (a, b) in found.items()], "; ") or "task, method or scale"
            raise RequestError(f"{runs[0]} and {run} are no runs of one curve; they differ in {told}.")
    seeds = [config.seed for config in configs]
    if len(set(seeds)) < len(seeds):
        raise RequestError(f"runs of one curve have different seeds, found {few(seeds)}.")
    steps = sorted(set.intersection(*(set(one.series) for one in opened)))
    if not steps:
        raise RequestError("the runs have no logged step in common. Train them with equal log.every.")
    curve: dict[str, Any] = {"kind": KIND, **choices[0], "seeds": seeds, "steps": steps}
    for place, name in enumerate(VALUES):
        values = np.array([[one.series[step][place] for step in steps] for one in opened], np.float64)
        variance = values.var(0, ddof=1)
        around = [variance[max(0, at - _AROUND) : at + _AROUND + 1].mean() for at in range(len(steps))]
        curve[name] = {"mean": values.mean(0).tolist(), "sd": np.sqrt(around).tolist()}
    return {**curve, "config": configs[0].model_dump(mode="json")}


def read_curve(path: Path) -> dict[str, Any]:
    """Return a curve from a file, or one that ships with the package by its name.

    Raises:
        RequestError: if there is none, or the file holds something else.
    """
    place: Any = path
    if not path.exists() and path.name == str(path):
        if str(path) not in shipped():
            raise RequestError(f"no file and no curve '{path}'. {nearest(str(path), shipped())}")
        place = files("nanogen") / "configs" / "curves" / f"{path}.json"
    try:
        curve = parse_json(read_small(Path(str(place))))
        steps = curve["steps"]
        columns = [steps, *(curve[name][kind] for name in VALUES for kind in ("mean", "sd"))]
        numbers = all(isinstance(one, int | float) and math.isfinite(one) for column in columns for one in column)
        if not numbers or not steps or {len(column) for column in columns} != {len(steps)}:
            raise ValueError("its columns are no numbers of one length")
        if not all(isinstance(curve[key], str) for key in CHOICE):
            raise ValueError("it names no task, method and scale")
        return curve
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else error
        raise RequestError(
            f"{path} is no curve ({reason}). Make one of finished runs: nanogen check --make RUN RUN --out {path}."
        ) from None


def write_curve(curve: Mapping[str, Any], out: Path) -> None:
    """Write a curve; only an earlier one gives way. RequestError if the place is taken or cannot be written."""
    check_gives_way(out, KIND)
    with write_errors(out):
        write_atomic(out, json.dumps(curve) + "\n")


@dataclass(frozen=True)
class CurveComparison:
    """How a run follows a curve at the steps that both have.

    Attributes:
        parts: step at which each value leaves the curve, None where it stays; see `compare_curve`.
        largest: largest distance of each, in deviations, and its step.
        differing: settings in which run and curve differ, as text.
    """

    steps: list[int]
    parts: Mapping[str, int | None]
    largest: Mapping[str, tuple[float, int]]
    differing: tuple[str, ...] = ()

    @property
    def follows(self) -> bool:
        return all(step is None for step in self.parts.values())

    def lines(self) -> Iterable[str]:
        """Return one sentence for each value, and one about the settings that differ."""
        for name, step in self.parts.items():
            distance, at = self.largest[name]
            told = f"{name} follows the curve" if step is None else f"{name} parts from the curve at step {step}"
            yield f"{told}; farthest {distance:.3g} deviations, at step {at} ({len(self.steps)} steps compared)"
        if self.differing:
            yield f"settings that differ: {few(self.differing, '; ')}"


def compare_curve(run: Path, curve: Mapping[str, Any]) -> CurveComparison:
    """Compare the log of a run, finished or not, with a curve.

    A value parts from the curve where it is outside `LIMIT` deviations at two logged steps in a row, or at the last.

    Raises:
        CheckpointError: if the folder is no run.
        RequestError: if the run is of another task, method or scale, or shares fewer than three steps with the curve.
    """
    opened = _open(run)
    if other := [f"{key} {opened.choice[key]} and {curve[key]}" for key in CHOICE if opened.choice[key] != curve[key]]:
        raise RequestError(f"{run} and the curve are of different kinds: {', '.join(other)}. Choose another curve.")
    places = {step: place for place, step in enumerate(curve["steps"]) if step in opened.series}
    if len(places) < 3:
        raise RequestError(
            f"{run} has {len(places)} of the curve's {len(curve['steps'])} steps in its log; 3 are needed. Train "
            f"longer, or with log.every of the curve ({curve['steps'][:3]} ...)."
        )
    steps, at = list(places), list(places.values())
    parts: dict[str, int | None] = {}
    largest = {}
    # A new run varies about the true mean, and the mean of a few seeds does too.
    wider = math.sqrt(1 + 1 / max(1, len(curve.get("seeds", ()))))
    for place, name in enumerate(VALUES):
        mean, sd = (np.array(curve[name][kind], np.float64)[at] for kind in ("mean", "sd"))
        found = np.array([opened.series[step][place] for step in steps], np.float64)
        # Where no seed differs, as in the first step of some networks, rounding must not count.
        distance = np.abs(found - mean) / np.maximum(wider * sd, 1e-4 * np.maximum(np.abs(mean), 1e-12))
        distance[~np.isfinite(found)] = np.inf
        outside = distance > LIMIT
        leaves = np.flatnonzero(outside & np.append(outside[1:], True))
        parts[name] = steps[leaves[0]] if len(leaves) else None
        far = int(distance.argmax())
        largest[name] = float(distance[far]), steps[far]
    differing: tuple[str, ...] = ()
    if "config" in curve:
        there = reload(curve["config"], "curve")
        found_keys = differences(there, opened.config).items()
        differing = tuple(f"{key}: {a} there, {b} here" for key, (a, b) in found_keys if not key.startswith(_FREE))
    return CurveComparison(steps, parts, largest, differing)


@dataclass(frozen=True)
class _Opened:
    choice: dict[str, str]
    config: Any
    series: dict[int, tuple[float, float]]


def _open(run: Path) -> _Opened:
    try:
        facts = json.loads(read_small(run / "run.json"))
        choice = {key: str(facts[key]) for key in CHOICE}
        config = reload(read_yaml(read_small(run / "config.yaml").decode(), str(run / "config.yaml")), str(run))
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"{run} is not a run folder: its run.json or config.yaml is missing or damaged. Give the folder that "
            "`nanogen train` wrote."
        ) from None
    series = {}
    for line in log.read(run / log.FILE):
        terms = [value for key, value in line.items() if key.startswith("loss/")]
        # Logs of earlier versions have no sum; where there is one term, that is it.
        loss = line.get("loss", terms[0] if len(terms) == 1 else None)
        if isinstance(loss, int | float) and isinstance(line.get("grad_norm"), int | float):
            series[line["step"]] = (float(loss), float(line["grad_norm"]))
    return _Opened(choice, config, series)
