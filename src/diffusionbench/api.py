"""The Python interface, as `diffusionbench.evaluate` and `diffusionbench.compare`: images in, a record out."""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image
from pydantic import ValidationError
from torch import Tensor

from diffusionbench import bounds, runner
from diffusionbench.axes import AXES
from diffusionbench.callables import BATCH, as_source, examine, importable, is_named, open_named, to_images
from diffusionbench.catalog import asked_metrics
from diffusionbench.errors import Caution, RequestError
from diffusionbench.images import Rule
from diffusionbench.judges import JUDGES
from diffusionbench.layouts import parse_layout
from diffusionbench.metrics import METRICS
from diffusionbench.prompts import PromptChoice
from diffusionbench.record import Guidance, Record, breaches, load
from diffusionbench.references import Role
from diffusionbench.registry import nearest
from diffusionbench.request import EvalRequest, Evaluation, Sampling
from diffusionbench.shown import few, printable
from diffusionbench.source import ArraySource, ImageSource, exists_already, open_prompt_images, open_source, read_labels
from diffusionbench.study import comparison
from diffusionbench.writing import check_place

Source = str | Path | np.ndarray | Tensor | Sequence[Image] | Callable[..., Any] | ImageSource
"""What can be scored: a folder or .npz, images in memory, a function or its name "module:function", or a source."""

Labels = Sequence[int] | str | Path | None
"""Classes of images that exist already, or a file with one a line."""

# Fields of a request, as users call them here.
_CALLED = {"count": "num", "num_classes": "classes", "method": "name"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `evaluate`, which takes each by its name.

    Attributes:
        reference_extractor: judges whose statistics you say those are that nothing else tells whose they are.
        reference_role: which split you say the real images are: "train", "val" or "test".
        prompts: prompt set to ask for, also as "NAME:LAYOUT"; by default the one that the metrics judge.
        num: images to score; by default all that exist already, or a complete evaluation of a generator.
        classes: ask a function for labels 0 .. classes - 1, in turn; by default for those of the reference.
        labels: of images that exist already, or a file with one a line.
        layout: of files, as in docs/data.md; by default it is recognised.
        name, title, family: what the record calls the generator.
        guidance: scale that the images are made with, for the record.
        quantisation: rule by which floats become 8 bits, "truncate" if none is given; of 8-bit images for the record.
        trained_with: judges that the generator was trained with; values that reduce their evidence are flagged.
        seed: from which the seeds of a function's samples follow.
        axis: see `diffusionbench ls axes`; by default the one of prompts where a prompt set is asked for.
        batch: most images to ask a function for at once.
        version: of what a function's images depend on: where the store has images of the same function, name and
            version, they are used again. Without it they are made anew.
        allow_partial: score the images of a prompt set though some are missing; the record is partial.
    """

    reference_extractor: str | Sequence[str] = ()
    reference_role: Role | None = None
    prompts: str | PromptChoice | None = None
    num: int | None = None
    classes: int | None = None
    labels: Labels = None
    layout: str | None = None
    name: str | None = None
    title: str | None = None
    family: str | None = None
    guidance: float | None = None
    quantisation: Rule | None = None
    trained_with: Sequence[str] = ()
    seed: int = 0
    axis: str | None = None
    batch: int = BATCH
    version: str | None = None
    allow_partial: bool = False


def evaluate(
    source: Source,
    *,
    metrics: str | Sequence[str],
    reference: str | Path | Mapping[str, str | Path] | None = None,
    store: str | Path | None = None,
    device: str = "cpu",
    progress: runner.Progress | None = None,
    **options: Any,
) -> Record:
    """Score images of any generator, and return a record; docs/python.md has examples.

    Args:
        source: a function of `labels` or `prompts`, and `seeds`, that returns images (see `callables.to_images`); its
            name "module:function"; a folder or .npz; an array or tensor of images, or a list of Pillow images.
        metrics: keys, separated by spaces or commas, or a sequence of them.
        reference: name of a reference, or path of real images or statistics; or these by judge.
        store: folder that keeps the images.
        device: where judges run.
        progress: called with what is being done, how many images are done, and of how many.
        options: num, classes, labels, prompts, name, ...: see `Options`.

    Raises:
        UserError: before any image is made, where the request is at fault; or if a function returns something else
            than images.
        RunError: if a function raises an exception.
    """
    asked = _options(options)
    keys = asked_metrics(filter(None, re.split(r"[\s,]+", metrics)) if isinstance(metrics, str) else metrics)
    if store is not None:
        check_place(Path(store), "folder")
    real: dict[str, Any] = {"reference": None if reference is None else str(reference)}
    if isinstance(reference, Mapping):
        real = {"references": {judge: str(one) for judge, one in reference.items()}}
    evaluation, images = opened(source, keys, real, asked)
    evaluation = evaluation.updated(command=_command(source, evaluation.request, asked))
    evaluation.check(images)
    evaluation = examine(evaluation, images)
    record = runner.run(evaluation, images, None if store is None else Path(store), device, progress)
    return noted(record, left_out(evaluation, images))


def _options(given: Mapping[str, Any]) -> Options:
    known = [field.name for field in fields(Options)]
    if unknown := [name for name in given if name not in known]:
        raise RequestError(f"evaluate has no option '{unknown[0]}'. {nearest(unknown[0], known)}")
    options = Options(**given)
    if not 1 <= options.batch <= bounds.BATCH:
        raise RequestError(
            f"batch={options.batch} was given. A function is asked for 1 to {bounds.BATCH:,} images at once."
        )
    return options


def opened(
    source: Any, metrics: tuple[str, ...], real: Mapping[str, Any], options: Options
) -> tuple[Evaluation, ImageSource]:
    """Return an evaluation, which is not yet checked, and its images; without a count, of all of them.

    `real` holds the fields `reference` and `references` of the request.
    """
    given, called, rule = _given(source, options)
    choice, axis = _prompts(metrics, options.prompts, options.axis)
    asserted = options.reference_extractor
    try:
        request = EvalRequest(
            **_generator(given, rule, options),
            **real,
            reference_extractors=(asserted,) if isinstance(asserted, str) else tuple(asserted),
            reference_role=options.reference_role,
            axis=axis,
            metrics=metrics,
            prompts=choice,
            count=1 if options.num is None else options.num,
            seed=options.seed,
            method=called,
            title=options.title or called,
            family=options.family,
            allow_partial=options.allow_partial,
        )
    except ValidationError as error:
        wrong = [re.sub(r"^\w+", lambda found: _CALLED.get(found[0], found[0]), breach) for breach in breaches(error)]
        raise RequestError(f"the request cannot be carried out: {few(wrong, '; ')}. Correct it.") from None
    evaluation = Evaluation(request)
    images, found = _images(given, evaluation, options)
    return evaluation.updated(count=options.num or found, classes=getattr(images, "classes", None)), images


def compare(first: Record | str | Path, second: Record | str | Path) -> comparison.Comparison:
    """Compare two records, each given as it is or by its file; `print` shows the comparison.

    Raises:
        RequestError: if a file is no record.
        DataError: if what lies beside a record is damaged.
    """
    paths = [None if isinstance(given, Record) else Path(given) for given in (first, second)]
    return comparison.compare(_record(first), _record(second), paths=paths)


def _record(given: Record | str | Path) -> Record:
    return given if isinstance(given, Record) else load(given)


def _prompts(
    metrics: Sequence[str], prompts: str | PromptChoice | None, axis: str | None
) -> tuple[PromptChoice | None, str]:
    """Return the prompt set to ask for, None for classes, and the axis."""
    names = [METRICS[key].prompts for key in metrics if METRICS[key].prompts is not None]
    choice = PromptChoice.parse(prompts) if isinstance(prompts, str) else prompts
    axis = axis or infer_axis(metrics, choice is not None)
    if choice is None and names and AXES[axis].asks == "prompts":
        choice = PromptChoice(name=names[0])
    return choice, axis


def infer_axis(metrics: Sequence[str], prompted: bool) -> str:
    """Return the axis that metrics judge by, where none was named.

    Metrics that need no items, such as `rfid`, are judged by the axis that all of them belong to.

    Args:
        prompted: whether a prompt set was named.
    """
    rows = [METRICS[key] for key in metrics]
    asked = "prompts" if prompted else next((row.items for row in rows if row.items in ("prompts", "originals")), "")
    if not asked:
        asked = "originals" if rows and all(row.axis == "reconstruction" for row in rows) else "classes"
    return next(key for key, row in AXES.items() if row.asks == asked)


def _given(source: Any, options: Options) -> tuple[Path | ImageSource, str, Rule | None]:
    """Return a path or an opened source, what the record calls the generator, and how floats become 8 bits."""
    name, rule = options.name, options.quantisation
    if isinstance(source, np.ndarray | Tensor | list | tuple):
        count = len(source) if getattr(source, "ndim", 1) else 0
        images, floats = to_images(source, count, "the caller", rule or "truncate")
        rule = rule or ("truncate" if floats else None)
        return ArraySource(images, _read(options.labels), "images in memory"), name or "images", rule
    if isinstance(source, str | Path):
        if not is_named(str(source)):
            return Path(source), name or printable(Path(source).resolve().stem) or "images", rule
        name, source = name or printable(str(source)), open_named(str(source))
    if not callable(source) and not hasattr(source, "images"):
        raise RequestError(
            f"source is an object of type {type(source).__name__}. Give a function, a path, an array of images or "
            '"module:function".'
        )
    called = name or getattr(source, "__name__", "").strip("<>") or type(source).__name__
    return as_source(source, called, options.batch, options.version, rule), called, rule


def _read(labels: Labels) -> Sequence[int] | None:
    return read_labels(Path(labels)) if isinstance(labels, str | Path) else labels


def _images(given: Path | ImageSource, evaluation: Evaluation, options: Options) -> tuple[ImageSource, int]:
    """Return a source as an evaluation needs it, and how many images are to be scored without a number."""
    labels, layout = options.labels, options.layout
    if not isinstance(given, Path):
        told = {"labels": None if isinstance(given, ArraySource) else labels, "layout": layout}
        if unused := [name for name, value in told.items() if value is not None]:
            raise RequestError(
                f"{' and '.join(unused)} tells files apart, and {given.description} is none. Leave it out."
            )
        return given, evaluation.full_count if given.labels is None else len(given.labels)
    kind, prompts = None if layout is None else parse_layout(layout), evaluation.prompts
    if prompts is None:
        images = open_source(given, _read(labels), evaluation.classes, kind)
        return images, len(images.labels)
    if labels is not None:
        raise RequestError("labels were given, and the images are told apart by their prompts. Leave them out.")
    wanted = prompts.samples()
    return open_prompt_images(given, wanted, prompts.images_per_prompt, kind), len(wanted)


def left_out(evaluation: Evaluation, images: ImageSource) -> list[str]:
    """Return what of the files of images and references is not scored, in sentences."""
    notes = [*getattr(images, "notes", ()), *(note for one in evaluation.distinct_references for note in one.notes)]
    count, labels = evaluation.request.count, images.labels or ()
    kept, classes = len({*labels[:count]}), len({*labels})
    if kept < classes:
        notes.append(
            f"{images.description}: the first {count:,} of {len(labels):,} images are scored, which are of {kept:,} of "
            f"{classes:,} classes"
        )
    if (originals := evaluation.originals) is not None:
        made = {sample.item.key for sample in evaluation.samples(images)}
        if alone := [key for key in originals.keys if key not in made]:
            notes.append(f"{len(alone):,} of {len(originals.keys):,} originals have no reconstruction: {few(alone)}")
    return notes


def noted(record: Record, notes: list[str]) -> Record:
    """Return a record that says what was left out."""
    return record.model_copy(update={"extra": {**record.extra, "left_out": notes}}) if notes else record


def _generator(given: Path | ImageSource, rule: Rule | None, options: Options) -> dict[str, Any]:
    """Return the fields of a request about how the images are made: those given, and what only the source knows."""
    # What only a source knows, such as its sampler.
    facts: Mapping[str, Any] = getattr(given, "facts", {})
    guidance, classes = options.guidance, options.classes
    for name, value in (("guidance", guidance), ("quantisation", rule)):
        if value is not None and "sampling" in facts:
            raise RequestError(f"{name}={value} was given, and the source states its own. Leave it out.")
    if classes is not None and (isinstance(given, Path) or exists_already(given)):
        raise RequestError(f"classes={classes} was given, and the source holds images already. Leave it out.")
    if unknown := [name for name in options.trained_with if name not in JUDGES]:
        warnings.warn(
            f"no judge is called {', '.join(map(repr, unknown))}, so no value is flagged as trained with it. "
            f"{nearest(unknown[0], list(JUDGES))}",
            Caution,
            stacklevel=2,
        )
    # A guidance of -0 is one of 0, and would have a digest of its own.
    sampling = Sampling(guidance=None if guidance is None else Guidance(scale=guidance + 0.0), quantisation=rule)
    trained = tuple(sorted({*options.trained_with, *facts.get("trained_with", ())}))
    asked = {} if classes is None else {"num_classes": classes}
    return {"sampling": sampling, **facts, **asked, "trained_with": trained}


def _command(source: Any, request: EvalRequest, options: Options) -> str | None:
    """Return the command line that gives the record again; None where it cannot name the images or the prompts."""
    named = str(source) if isinstance(source, str | Path) else importable(source)
    choice = request.prompts
    if named is None or (choice is not None and choice != PromptChoice.parse(str(choice))):
        return None
    if not isinstance(options.labels, str | Path | None):
        return None
    words = ["diffusionbench", "run", named, "--metrics", ",".join(request.metrics), "--method", request.method]
    same = ("num", "classes", "labels", "layout", "title", "family", "guidance", "quantisation")
    given = {
        "axis": None if request.axis == EvalRequest.model_fields["axis"].default else request.axis,
        "prompts": choice and str(choice),
        "reference": request.reference,
        "reference-role": request.reference_role,
        **{name: getattr(options, name) for name in same},
        "seed": options.seed or None,
        "batch": None if options.batch == BATCH else options.batch,
    }
    pairs = [(option, value) for option, value in given.items() if value is not None]
    pairs += [("reference", f"{judge}={one}") for judge, one in request.references.items()]
    pairs += [("reference-extractor", one) for one in request.reference_extractors]
    pairs += [("trained-with", one) for one in request.trained_with]
    words += ["--allow-partial"] if request.allow_partial else []
    return printable(shlex.join([*words, *(word for option, value in pairs for word in (f"--{option}", str(value)))]))
