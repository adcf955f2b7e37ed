"""Evaluations and sample grids of a network, made the same way in training and after it.

Noise has its own seeds, and the network is the averaged copy: nothing here can change the training.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from torch import nn

from diffusionbench import runner
from diffusionbench.axes import AXES
from diffusionbench.errors import CheckpointError, ConfigError, DataError, MissingPackageError, RequestError
from diffusionbench.evidence import EVIDENCE
from diffusionbench.images import decode_rgb, grid, save_png
from diffusionbench.judges import JUDGES
from diffusionbench.prompts import open_prompts
from diffusionbench.record import Guidance, InternalGuidance, Record, Tuning, check_record_place, load
from diffusionbench.references import references_by_judge, split_name
from diffusionbench.references.half import HalfReference
from diffusionbench.references.reference import Reference
from diffusionbench.request import EvalRequest, Evaluation, Sampling, check_metric_axis
from diffusionbench.sample import Sample
from diffusionbench.shown import printable
from diffusionbench.store import ImageStore
from diffusionbench.writing import remove, write_errors
from nanogen import parallel, threads
from nanogen.build import Components
from nanogen.conditions import CONDITIONS, SampleSpec
from nanogen.config import TRAINING_IMAGES, Config, differences
from nanogen.log import say
from nanogen.losses import frozen_networks
from nanogen.objectives import OBJECTIVES
from nanogen.pipeline import ImagePipeline, Loaded, open_weights
from nanogen.progress import tell
from nanogen.reference import training_reference
from nanogen.resolve import prompt_choice, resolve
from nanogen.rng import SeededNoise
from nanogen.run import EVALS, SAMPLES, Run

# Columns of a sample grid.
COLUMNS = 10
# Times on which the published ImageNet figures are guided.
TUNED_INTERVAL = (0.0, 0.9)
_written = partial(write_errors, remedy="Make room and start it again.", kind=CheckpointError)


def metadata(specs: Sequence[SampleSpec]) -> dict[str, list[int | None] | list[str | None]]:
    """Return the labels or the prompts of many images, by that name."""
    if all(spec.caption is None for spec in specs):
        return {"labels": [spec.label for spec in specs]}
    return {"prompts": [spec.caption for spec in specs]}


class NetworkSource:
    """A network as the benchmark's image source, with the batch size of its config's evaluation.

    Attributes:
        facts: fields of a request that only the source knows, where the caller does not know them either.
    """

    labels: Sequence[int | None] | None = None
    image_format: str | None = None
    facts: Mapping[str, Any] = {}

    def __init__(self, pipeline: ImagePipeline, description: str) -> None:
        self.pipeline = pipeline
        self.preferred_batch = pipeline.config.eval.batch_size
        self.description = description
        self.image_size: tuple[int, int] | None = (pipeline.components.derived.image_size,) * 2

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the weights."""
        sha = hashlib.sha256()
        for name, parameter in self.pipeline.net.named_parameters():
            sha.update(name.encode())
            sha.update(parameter.detach().cpu().contiguous().numpy().tobytes())
        return sha.hexdigest()

    def images(self, samples: Sequence[Sample]) -> np.ndarray:
        """Return uint8 [B, H, W, 3]; each depends on the weights, the sample's label or prompt, and its seed only."""
        prompts = [sample.prompt for sample in samples if sample.prompt is not None]
        condition = self.pipeline.components.conditioner([sample.label for sample in samples], prompts or None)
        seeds = [sample.seed for sample in samples if sample.seed is not None]
        if len(seeds) < len(samples):
            raise RequestError(
                f"{len(samples) - len(seeds)} of {len(samples)} samples have no seed, and a network takes its noise "
                "from nothing else. Ask for samples through an evaluation, or give each a seed."
            )
        return self.pipeline(condition, SeededNoise(seeds, self.pipeline.components.device))


def request_facts(config: Config, components: Components) -> dict[str, Any]:
    """Return the fields of a request that say what network makes the images, and how."""
    objective = OBJECTIVES[config.objective["name"]]
    read = {*objective.networks(components.objective.options), *frozen_networks(config.losses)}
    # A judge of the same weights under another name is the same network.
    weights = {JUDGES[name].sha256 for name in read & JUDGES.keys()} - {None}
    return {
        "num_classes": components.derived.shape.num_classes,
        "sampling": Sampling(
            sampler=config.sampler.name,
            num_steps=config.sampler.num_steps,
            shift=resolve(config).sampler_shift,
            guidance=_guidance(config),
            ema=True,
            precision=components.precision,
            quantisation="truncate",
        ),
        "config_hash": config.hash,
        "trained_with": tuple(sorted(read | {name for name, row in JUDGES.items() if row.sha256 in weights})),
    }


def _guidance(config: Config) -> Guidance:
    guidance, (scale, null_scale) = config.guidance, config.guidance.internal.scales
    internal = InternalGuidance(scale=scale, null_scale=null_scale, interval=guidance.internal.interval)
    return Guidance(
        scale=guidance.scale,
        interval=guidance.interval,
        internal=None if scale == null_scale == 1 else internal,
    )


def evaluation_of(config: Config, components: Components, method: str, step: int | None = None) -> Evaluation:
    """Return the evaluation that a config asks for, opened; see `check_axis` for what is refused."""
    check_axis(config)
    request = EvalRequest(
        axis=config.eval.axis,
        metrics=config.eval.metrics,
        **references_by_judge(config.eval.references),
        reference_extractors=config.eval.reference_extractors,
        prompts=prompt_choice(config),
        count=1,
        seed=config.eval.seed,
        method=method,
        title=method,
        step=step,
        **request_facts(config, components),
    )
    # References of judges that only other metrics name have no meaning here.
    request = request.with_metrics(request.metrics)
    own: dict[str, Reference] = {}
    for name in filter(None, (request.reference, *request.references.values())):
        base, half = split_name(name)
        if base == TRAINING_IMAGES:
            whole = own.get(base) or training_reference(config)
            own[name] = whole if half is None else HalfReference(whole, half)
    evaluation = Evaluation(request, own)
    asked = config.eval.num_samples
    # Samples of a prompt set that rules their noise carry the seeds of their generators.
    ruled = evaluation.prompts is not None and evaluation.prompts.noise_seeds is not None
    return evaluation.updated(
        count=evaluation.full_count if asked == "auto" else asked,
        sampling=request.sampling.model_copy(update={"noise": None if ruled else config.noise}),
    )


def prompt_texts(config: Config) -> tuple[str, ...]:
    """Return the captions that the config's evaluation asks for; none where it asks for classes."""
    choice = prompt_choice(config)
    return () if choice is None else open_prompts(choice).texts


def check_axis(config: Config) -> None:
    """Refuse an evaluation that asks for what the network does not draw, or metrics that judge by something else."""
    axis, kind = config.eval.axis, config.condition.kind
    check_metric_axis(axis, config.eval.metrics)
    answers, wanted = CONDITIONS[kind].answers, AXES[axis].asks
    if answers not in (None, wanted):
        raise ConfigError(
            f"eval.axis '{axis}' asks for {wanted}, and a network with condition.kind '{kind}' draws {answers}. "
            f"Set eval.axis to one that asks for {answers}, with metrics of it."
        )


def check(config: Config, components: Components, classes: Sequence[str] | None = None) -> None:
    """Refuse an evaluation that cannot work, before any training.

    Args:
        classes: names of the classes that the network will draw, or None where unknown.

    Raises:
        UserError, RunError: see `diffusionbench.runner.run`.
    """
    evaluation = evaluation_of(config, components, "check").updated(classes=classes)
    try:
        evaluation.check(NetworkSource(ImagePipeline(nn.Identity(), components, config), ""))
    except MissingPackageError as error:
        raise MissingPackageError(f"{error} To train without scores, set eval.metrics=[].") from None
    runner.JudgingPass(evaluation, components.device).load()


def evaluate(
    pipeline: ImagePipeline,
    run: Run,
    step: int,
    save: bool = True,
    tuning: Tuning | None = None,
    command: str | None = None,
    folder: str = EVALS,
) -> Record | None:
    """Make the images that are missing and score them; every process calls it, and the main one gets the record.

    Args:
        pipeline: of the averaged network after `step` updates.
        save: write the record into the folder.
        tuning: on which images the guidance was chosen, where it was.
        command: what to type to get the record again; None: `nanogen eval` with all that differs from the run.
        folder: of the run, for records and, in its `images`, for images.

    Raises:
        UserError: see `diffusionbench.runner.run`.
        RunError: if the run's folder is moved or deleted meanwhile.
    """
    config, components = pipeline.config, pipeline.components
    main, images, judging = parallel.is_main(), run.path / folder / "images", None
    source = NetworkSource(pipeline, f"{run.path.name}, step {step}")
    with parallel.agreed(), _written(f"evaluation of {run.path}"):
        evaluation = evaluation_of(config, components, run.facts["method"], step)
        classes = run.facts.get("classes")
        evaluation = evaluation.updated(
            checkpoint_digest=source.digest,
            command=command or _command(run, step, config),
            classes=classes and tuple(classes),
            tuning=tuning,
        )
        evaluation.check(source)
        if main:
            run.check_there()
            store = runner.open_store(evaluation, source, images)
            judging = runner.prepare(evaluation, source, store, components.device, tell)
    with parallel.agreed(), _written(f"evaluation of {run.path}"):
        store = runner.open_store(evaluation, source, images)
        runner.fill(evaluation, source, store, parallel.rank(), parallel.world_size(), tell)
    record = None
    with parallel.agreed(), _written(f"evaluation of {run.path}"):
        if main:
            record = runner.score(evaluation, store, components.device, prepared=judging)
            if save:
                keep(record, run, folder)
            _keep_images(store, config.eval.num_kept)
    return record


def _keep_images(store: ImageStore, count: int | None) -> None:
    """Remove the images of a store, and what judges said of them, but the first `count`; None keeps all."""
    if count is None:
        return
    kept = [*store.some(range(count))]
    names, folder = store.chunks(), store.folder
    remove(folder / EVIDENCE)
    for name in names:
        # The list first: a chunk without its file would be damaged.
        (folder / f"{name}.json").unlink(missing_ok=True)
        (folder / f"{name}.images").unlink(missing_ok=True)
    if not kept:
        remove(folder)
        with suppress(OSError):
            folder.parent.rmdir()
        return
    store = ImageStore(folder)
    for samples, images in kept:
        store.add(samples, images)


def keep(record: Record, run: Run, folder: str = EVALS) -> None:
    """Write a record into a folder of its run, which must be there."""
    run.check_there()
    place = run.path / folder / f"{record.id}.json"
    if _loaded(place) is None:
        # Half a record gives way; a whole one of this id is the same measurement.
        place.unlink(missing_ok=True)
    record.save(place)


def _command(run: Run, step: int, config: Config, *options: str) -> str:
    """Return what to type to get a record again: the weights by their step, and all in which the config differs."""
    changes = [f"{key}={json.dumps(new)}" for key, (_, new) in differences(run.config, config).items()]
    return printable(shlex.join(["nanogen", "eval", str(run.path), "--step", str(step), *options, *changes]))


def _loaded(path: Path) -> Record | None:
    """Return a record, or None where there is none, or one that is cut off."""
    try:
        return load(path)
    except RequestError:
        return None


def records_of(run: Path, folder: str = EVALS) -> list[Record]:
    """Return the records of a run that can be read, the newest step first; their files may have any name."""
    files = sorted((run / folder).glob("*.json"))
    found = [record for record in map(_loaded, files) if record is not None]
    if damaged := len(files) - len(found):
        say(f"{run}: {damaged} record(s) cannot be read and are left out, of {len(files)} in {folder}")
    return sorted(
        found, key=lambda record: (record.provenance.step or 0, record.provenance.created or ""), reverse=True
    )


def finished_record(
    pipeline: ImagePipeline, run: Run, step: int, tuning: Tuning | None = None, folder: str = EVALS
) -> Record | None:
    """Return a record of a step that holds what `evaluate` would measure, or None where it is missing or cut off.

    It is found by its content: records of earlier versions have other names.
    """
    evaluation = evaluation_of(pipeline.config, pipeline.components, run.facts["method"], step)
    wanted = evaluation.updated(tuning=tuning).request
    free = {"metrics", "classes", "checkpoint_digest", "command", "trained_with"}
    for record in records_of(run.path, folder):
        if not {*wanted.metrics} <= record.values.keys():
            continue
        try:
            asked = EvalRequest.model_validate(record.extra.get("request"))
        except (ValidationError, RequestError):
            continue
        if asked.model_dump(exclude=free) == wanted.model_dump(exclude=free):
            return record
    return None


def guided(scale: float) -> list[str]:
    """Return the overrides that guide at a scale on the interval of the published figures."""
    return [f"guidance.scale={scale}", f"guidance.interval={list(TUNED_INTERVAL)}"]


def open_run(path: Path, device: str, step: int | None = None) -> tuple[Loaded, Run]:
    """Return the weights of a run at a step, or its newest, and the run; a weights file is refused."""
    loaded = open_weights(path, device, step)
    if loaded.run is None:
        raise CheckpointError(f"{path} is a file. Give the run folder, so that the record can name its run.")
    return loaded, loaded.run


def evaluate_run(
    path: Path, overrides: Sequence[str], tuned: bool, out: Path | None, step: int | None = None
) -> Record | None:
    """Score a run's weights, and return the record in the main process.

    Args:
        overrides: of sampler.*, guidance.* and eval.*.
        tuned: the method's tuned guidance on times [0, 0.9].
        out: where the caller will save the record, which is checked first; None: it is saved in the run's folder.
    """
    if out is not None:
        check_record_place(out)
    with parallel.processes() as device:
        with parallel.agreed():
            loaded, run = open_run(path, device, step)
            pipeline = loaded.pipeline(overrides)
            if tuned:
                scale = pipeline.config.eval.tuned_scale
                if scale == 1:
                    raise RequestError(
                        "this method has no tuned guidance scale (eval.tuned_scale is 1). Give --guidance."
                    )
                pipeline = loaded.pipeline([*overrides, *guided(scale)])
            if not pipeline.config.eval.metrics:
                raise RequestError(f"{path} names no metric. Choose with --metrics; see `diffusionbench ls metrics`.")
        # The table of methods does not say on which images it was chosen.
        tuning = Tuning(split="not stated (eval.tuned_scale)") if tuned else None
        command = _command(run, loaded.step, pipeline.config, "--tuned") if tuned else None
        with threads.as_trained(run.facts.get("threads"), device):
            return evaluate(pipeline, run, loaded.step, save=out is None, tuning=tuning, command=command)


def grid_path(run: Path, step: int) -> Path:
    """Return the file of a step's sample grid."""
    return run / SAMPLES / f"step-{step:08d}.png"


def has_grid(run: Path, step: int) -> bool:
    """Return whether the sample grid of a step lies there, whole."""
    try:
        decode_rgb(grid_path(run, step).read_bytes(), "")
    except (OSError, DataError):
        return False
    return True


def sample_grid(pipeline: ImagePipeline, run: Run, step: int, specs: Sequence[SampleSpec]) -> Path:
    """Write a grid of samples, one per spec, and return its file."""
    config, path = pipeline.config, grid_path(run.path, step)
    images = pipeline.in_batches(specs, config.eval.seed, config.eval.batch_size)
    facts = {"step": step, "seed": config.eval.seed, "guidance": config.guidance.scale, **metadata(specs)}
    run.check_there()
    with _written(f"sample grid of {run.path}"):
        save_png(grid(images, COLUMNS), path, facts)
    return path
