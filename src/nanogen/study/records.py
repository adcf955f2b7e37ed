"""The records of a study's cells: what was measured, with the study's names, the cost and the scores on the way."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping

from diffusionbench.errors import RunError
from diffusionbench.record import MAX_NAME, PER_SAMPLE, Cost, ProgressPoint, Record, facts_of, load, with_attachments
from diffusionbench.study.published import METHODS
from nanogen import log
from nanogen.config import Config
from nanogen.costs import training_flops
from nanogen.objectives import OBJECTIVES
from nanogen.resolve import resolve
from nanogen.run import EVALS, Run
from nanogen.study.file import StudyCell, StudyFile
from nanogen.sweep import FOLDER

# Families of the published study, by the class of a latent space's codec.
_CODECS = {"Pixel": "pixel", "RAE": "rae"}


def family_of(method: str, config: Config) -> str:
    """Return the family of a method: that of the published study, else by objective and latent space."""
    if method in METHODS:
        return METHODS[method].family
    if OBJECTIVES[config.objective["name"]].num_times > 1:
        return "few-step"
    return _CODECS.get(resolve(config).latent.load.partition(":")[2], "vae")


def named(record: Record, title: str, family: str, variant: str | None, facts: Mapping[str, object]) -> Record:
    """Return a record under other names and with further facts, without the answers to single questions."""
    scores = {
        key: {name: value for name, value in found.items() if name not in ("predictions", "verdicts", "text")}
        for key, found in facts_of(record).items()
    }
    extra: dict[str, object] = {name: record.extra[name] for name in ("request", FOLDER) if name in record.extra}
    extra |= {**({"facts": scores} if scores else {}), **facts}
    evidence = {name: one for name, one in record.evidence.items() if name == PER_SAMPLE}
    changes = {"title": title, "family": family, "variant": variant, "extra": extra, "evidence": evidence}
    return record.model_copy(update=changes)


def cell_records(study: StudyFile, cell: StudyCell, run: Run, scored: str, command: str) -> list[Record]:
    """Return the records of a finished cell: its score and, where guidance was chosen, the one without guidance.

    Args:
        scored: id of the score in the run's folder.
        command: of the training.

    Raises:
        RunError: if a record is missing.
    """
    first = _read(run, scored)
    unguided = first.extra.get(FOLDER, {}).get("unguided")
    facts = {
        "study": {"name": study.name, "scale": study.scale, "task": cell.task, "seed": cell.seed, "cell": cell.name},
        "train": command,
    }
    title, family = f"{cell.method}, {cell.task}", family_of(cell.method, run.config)
    found = []
    for record in [first] if unguided is None else [first, _read(run, unguided["record"])]:
        cost = cost_of(run, record.provenance.step or 0, study.price_per_hour)
        done = named(record, title, family, None, facts)
        found.append(done.model_copy(update={"cost": cost, "progress": progress_of(run)}))
    return found


def _read(run: Run, name: str) -> Record:
    place = run.path / EVALS / f"{name}.json"
    if not place.exists():
        raise RunError(f"record {place} is gone. Start the same command again; it is measured anew.")
    return with_attachments(load(place), place)


def cost_of(run: Run, step: int, price_per_hour: float | None) -> Cost:
    """Return what a training has used up to a step: images, model FLOPs, hours of its devices, and money at a price.

    FLOPs are those of the network's passes, without frozen encoders. Hours follow from the images and the median
    speed of the log, which evaluations and checkpoints between the steps do not move, over all processes.
    """
    config, counted, classes = run.config, run.config, run.facts.get("classes")
    if classes is not None and config.condition.num_classes == "auto":
        condition = config.condition.model_copy(update={"num_classes": len(classes)})
        counted = config.model_copy(update={"condition": condition})
    text = run.facts.get("text_tokens")
    flops = training_flops(config, resolve(counted).shape, *([] if text is None else [text]))
    images = step * config.train.batch_size
    speeds = [line["images_per_second"] for line in log.read(run.path / log.FILE) if "images_per_second" in line]
    hours = images / statistics.median(speeds) / 3600 * run.facts.get("processes", 1) if speeds else 0.0
    return Cost(
        training_images=images,
        training_flops=float(flops) * images,
        device_hours=hours,
        device=str(run.facts.get("hardware"))[:MAX_NAME],
        price_per_hour=price_per_hour,
        money=None if price_per_hour is None else hours * price_per_hour,
    )


def progress_of(run: Run) -> tuple[ProgressPoint, ...]:
    """Return the scores of the evaluations during training, the last one included; none where no epoch is known."""
    size, images = run.config.train.batch_size, run.facts.get("num_images", 0)
    found: dict[int, dict[str, float]] = {}
    for line in log.read(run.path / log.FILE):
        scores = {key.removeprefix(log.EVAL): value for key, value in line.items() if key.startswith(log.EVAL)}
        found.setdefault(line["step"], {}).update(scores)
    if images < size:
        return ()
    # An epoch leaves out the images that fill no batch.
    return tuple(
        ProgressPoint(images=step * size, epoch=step / (images // size), scores=scores)
        for step, scores in sorted(found.items())
        if scores
    )


def short(text: str) -> str:
    """Return the last sentence of a program's stderr: what it says of its failure."""
    lines = [line for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
