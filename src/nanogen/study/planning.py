"""What a study will take: hours and disk of each cell, from a few measured steps."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from diffusionbench.limits import read_small
from diffusionbench.prompts import open_prompts
from diffusionbench.schema import digest
from diffusionbench.writing import write_atomic
from nanogen.datasets import DATASETS
from nanogen.objectives import OBJECTIVES
from nanogen.resolve import prompt_choice
from nanogen.settings import NEVER, to_steps
from nanogen.study.file import StudyCell, StudyFile
from nanogen.study.records import short

FILE: Final = "plan.json"
# Steps that are timed for each cell, after one that is not.
STEPS: Final = 3
# Averaged and raw weights and two moments, each in float32.
_STATE_BYTES = 16
# Of a published evaluation of classes.
_FULL = 50_000


@dataclass(frozen=True)
class CellPlan:
    """What is expected of a cell.

    Attributes:
        steps: of the training; None where its duration is in epochs and nobody has counted the images.
        num_bytes: checkpoints and images.
        problem: why nothing could be measured; "" where it was.
    """

    name: str
    steps: int | None = None
    train_seconds: float | None = None
    score_seconds: float | None = None
    num_bytes: int = 0
    problem: str = ""

    @property
    def seconds(self) -> float | None:
        """Of training and scoring together."""
        return None if self.train_seconds is None else self.train_seconds + (self.score_seconds or 0)


def plan_cells(
    study: StudyFile, cells: Sequence[StudyCell], folder: Path, launch: Sequence[str], tell: Callable[[str], None]
) -> list[CellPlan]:
    """Return the plans of cells; steps that were timed by an earlier command are not timed again.

    Args:
        folder: of the study, which keeps the timings; cells that differ in the seed alone share one.
        launch: see `nanogen.study.runner.run_cells`.
        tell: called with the name of a cell whose steps are about to be timed.
    """
    try:
        known: dict[str, dict[str, Any]] = json.loads(read_small(folder / FILE))
    except (OSError, ValueError):
        known = {}
    plans = []
    for cell in cells:
        key = digest([cell.composed.config.model_dump(mode="json", exclude={"seed"}), list(launch)])
        if "error" in known.get(key, {"error": ""}):
            tell(cell.name)
            known[key] = _timed(cell, launch)
            write_atomic(folder / FILE, json.dumps(known, indent=1) + "\n")
        plans.append(plan_of(study, cell, known[key]))
    return plans


def _timed(cell: StudyCell, launch: Sequence[str]) -> dict[str, Any]:
    """Time steps of a cell on random images, which its data and text encoder would only delay."""
    words = ["bench", *cell.words, "--synthetic", "--steps", str(STEPS), "--warmup", "1"]
    done = subprocess.run([*launch, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        return {"error": short(done.stderr)}
    found = json.loads(done.stdout[done.stdout.index("{") :])
    return {key: found[key] for key in ("seconds_per_step", "batch_size", "parameters", "processes", "hardware")}


def plan_of(study: StudyFile, cell: StudyCell, timed: dict[str, Any]) -> CellPlan:
    """Return the plan that follows from a cell's timing.

    A forward pass of an image takes a third of its training step; guidance doubles the passes.
    """
    config = cell.composed.config
    steps = to_steps(config.train.duration, config.train.batch_size, DATASETS[config.data.name].images or 0) or None
    if "error" in timed:
        return CellPlan(cell.name, steps, problem=timed["error"])
    images, passes = config.eval.num_samples, config.sampler.num_steps * (2 if config.sampler.name == "heun" else 1)
    if images == "auto":
        choice = prompt_choice(config)
        images = _FULL if choice is None else open_prompts(choice).count
    forward = timed["seconds_per_step"] / timed["batch_size"] / 3
    unguided = OBJECTIVES[config.objective["name"]].unguided
    every = to_steps(config.eval.every, config.train.batch_size, 0)
    during = steps // max(1, every or steps) if steps and config.eval.every != NEVER else 0
    work = (1 + during) * (1 if unguided or config.guidance.scale == 1 else 2) * images
    if cell.tunes and not unguided:
        # All tried scales but 1, the chosen one on other images, and both without guidance.
        tries = study.protocol.evaluations
        work += 2 * (tries - 1) * (study.protocol.num or images) + 2 * images + 2 * images
    pixels = 3 * config.data.image_size**2
    size = (config.train.keep + 1) * _STATE_BYTES * timed["parameters"] + (4 + during) * images * pixels
    train = None if steps is None else steps * timed["seconds_per_step"]
    return CellPlan(cell.name, steps, train, work * passes * forward, size)
