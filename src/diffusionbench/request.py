"""One evaluation as a value that can be stored, and all that can be checked before it costs anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator

from diffusionbench import bounds
from diffusionbench.axes import AXES, asks_for
from diffusionbench.axes.t2i import open_prompts
from diffusionbench.errors import RequestError
from diffusionbench.files import class_key
from diffusionbench.judges import EXTRACTORS
from diffusionbench.metrics import METRICS
from diffusionbench.prompts import PromptChoice
from diffusionbench.record import MAX_NAME, Guidance
from diffusionbench.references import resolve
from diffusionbench.schema import Strict, digest
from diffusionbench.shown import clipped, few

if TYPE_CHECKING:
    from diffusionbench.axes import Sample
    from diffusionbench.metrics import MetricSpec
    from diffusionbench.references import Reference
    from diffusionbench.source import Source
    from diffusionbench.stats import Placed


class Sampling(Strict):
    """How a generator made the images; None where unknown. Two different ones never share stored images."""

    noise: str | None = None
    sampler: str | None = None
    num_steps: int | None = None
    shift: float | None = None
    guidance: Guidance | None = None
    ema: bool | None = None
    precision: str | None = None
    quantisation: Literal["truncate", "round"] | None = None


class EvalRequest(Strict):
    """What to score and how.

    Attributes:
        metrics: keys in `METRICS`.
        reference: name in `REFERENCES` or a path; None if no metric compares with real images.
        prompts: the texts to draw, on axis `t2i`.
        count: images to score.
        seed: of the generator's noise.
        method, title, family: what the record calls the generator.
        protocol: name of the rule set; the axis's name if not given.
        classes: names of the images' classes in the order of their labels; None where they have none.
        num_classes: for a generator whose reference has no labels: ask for 0, 1, ..., in turn.
        config_hash, checkpoint_digest, step, command: provenance that only the caller knows.
    """

    axis: str = "class_conditional"
    metrics: tuple[str, ...]
    reference: str | None = None
    prompts: PromptChoice | None = None
    count: int = Field(ge=1, le=bounds.IMAGES)
    seed: int = Field(0, ge=0, le=bounds.SEED)
    method: str = Field(min_length=1)
    title: str
    family: str | None = None
    protocol: str | None = None
    classes: tuple[str, ...] | None = None
    num_classes: int | None = Field(None, ge=1, le=bounds.CLASSES)
    sampling: Sampling = Sampling()
    config_hash: str | None = None
    checkpoint_digest: str | None = None
    step: int | None = None
    command: str | None = None

    @field_validator("metrics")
    @classmethod
    def _distinct(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
        if not metrics:
            raise RequestError(f"no metric was asked for. Name at least one of: {', '.join(sorted(METRICS))}.")
        twice = sorted({key for key in metrics if metrics.count(key) > 1})
        if twice:
            raise RequestError(f"metric '{twice[0]}' is asked for twice. Name each metric once.")
        return metrics

    @field_validator("method", "title")
    @classmethod
    def _short(cls, name: str) -> str:
        if len(name) > MAX_NAME:
            raise RequestError(
                f"the generator's name has {len(name):,} characters, {MAX_NAME} are allowed: {clipped(name, 60)}. Give "
                "a shorter one with --method or --title."
            )
        return name


def specs(request: EvalRequest) -> dict[str, MetricSpec]:
    """Return the request's metrics by key.

    Raises:
        UserError: if one is unknown; the nearest known name is suggested.
    """
    return {key: METRICS.load(key) for key in request.metrics}


def find_reference(request: EvalRequest) -> Reference | None:
    """Return the request's reference, if it has one."""
    return None if request.reference is None else resolve(request.reference)


def expand(request: EvalRequest, source: Source) -> list[Sample]:
    """Return the request's samples for a source: a pure function of both."""
    return AXES.load(request.axis)().samples(request, find_reference(request), source.labels)


# Enough of the label order to tell two orders apart: every class of ImageNet appears.
_ORDER = 1000


def image_key(request: EvalRequest, source: Source) -> str:
    """Return the SHA-256 of all that the images depend on.

    Neither metrics nor count are among it: a longer request continues a shorter one.
    """
    order: object = None
    if request.prompts is not None:
        order = open_prompts(request).digest
    elif source.labels is None:
        order = [[s.label, s.prompt] for s in expand(request.model_copy(update={"count": _ORDER}), source)]
    return digest(
        {
            "axis": request.axis,
            "seed": request.seed,
            "sampling": request.sampling.model_dump(mode="json"),
            "source": source.digest,
            "checkpoint": request.checkpoint_digest,
            "order": order,
        }
    )


def check(request: EvalRequest, source: Source) -> None:
    """Check all that can be known before a weight is loaded or an image is made.

    Raises:
        UserError: an unknown name, a reference that a metric cannot use, too few images, missing or impossible
            labels, images of the wrong size, missing weights or packages.
    """
    check_metrics(request)
    metrics, reference = specs(request), find_reference(request)
    check_labels(metrics, expand(request, source))
    if reference is not None:
        check_size(source.image_size, reference.image_size, f"reference '{reference.name}'")
    for name in extractor_names(metrics):
        check_size(source.image_size, EXTRACTORS.load(name).image_size, f"feature extractor '{name}'")


def known_classes(metrics: Sequence[str], reference: Reference | None) -> tuple[str, ...] | None:
    """Return the names by which folders of images are numbered: the reference's, else those of a metric's judge.

    Args:
        metrics: keys in `METRICS`.

    Raises:
        UserError: if a metric is unknown.
    """
    judged = (_judged_classes(METRICS.load(key)) for key in metrics)
    return getattr(reference, "classes", None) or next(filter(None, judged), None)


def _judged_classes(spec: MetricSpec) -> tuple[str, ...] | None:
    return getattr(EXTRACTORS.load(spec.extractor), "classes", None) if spec.needs_labels else None


def _check_classes(key: str, spec: MetricSpec, request: EvalRequest, reference: Reference | None) -> None:
    """Refuse a metric that reads labels where these mean other classes than the reference or the judge knows."""
    known = known_classes((), reference)
    judged = _judged_classes(spec)
    for found, wanted, whose in (
        (known, judged, f"the classes of reference '{request.reference}'"),
        (request.classes, known or judged, "the folders"),
    ):
        if found is None or wanted is None:
            continue
        keys = [*map(class_key, wanted)]
        # A set of images may lack the last classes.
        if [*map(class_key, found)] == keys[: len(found)]:
            continue
        other = [name for name in found if class_key(name) not in keys] or found
        raise RequestError(
            f"metric '{key}' needs classes that it knows ({few(wanted, first=3)}), and {whose} are others "
            f"({few(other, first=3)}). Rename the folders, give a file of labels, or leave the metric out."
        )


def check_metrics(request: EvalRequest) -> None:
    """Check what a request says without its images: names, reference, counts, weights.

    Raises:
        UserError: as `check`.
    """
    metrics = specs(request)
    check_axis(request.axis, metrics)
    if request.prompts is not None and asks_for(request.axis) != "prompts":
        raise RequestError(
            f"prompt set '{request.prompts.name}' was given, and axis '{request.axis}' asks for classes. Leave it out, "
            "or name an axis of prompts."
        )
    reference = find_reference(request)
    for key, spec in metrics.items():
        _check_reference(key, spec, request, reference)
        if spec.needs_labels:
            _check_classes(key, spec, request, reference)
        if request.count < spec.min_samples:
            raise RequestError(
                f"metric '{key}' needs at least {spec.min_samples} images, and {request.count} were asked for or "
                "found. Give more images or leave the metric out."
            )
    for name in extractor_names(metrics):
        EXTRACTORS.load(name).check()


def check_axis(axis: str, metrics: Mapping[str, MetricSpec]) -> None:
    """Refuse metrics that judge images by something else than the axis asks for.

    Raises:
        UserError: naming the first such metric, or if there is no such axis.
    """
    asked = asks_for(axis)
    for key, spec in metrics.items():
        judged = "prompts" if spec.needs == "prompts" else "classes" if spec.needs_labels else asked
        if judged != asked:
            raise RequestError(
                f"metric '{key}' judges images by the {judged} that were asked for, and axis '{axis}' asks for "
                f"{asked}. Leave the metric out, or use a generator and an axis that ask for {judged}."
            )


def check_labels(metrics: Mapping[str, MetricSpec], samples: Iterable[Placed]) -> None:
    """Refuse images without the class that a metric judges them by, or with one that its extractor does not know.

    Raises:
        RequestError: naming the first metric and image.
    """
    classes = {
        key: getattr(EXTRACTORS.load(spec.extractor), "num_classes", None)
        for key, spec in metrics.items()
        if spec.needs_labels
    }
    for sample in samples if classes else ():
        for key, known in classes.items():
            if sample.label is None:
                raise RequestError(
                    f"metric '{key}' needs the class that was asked for, and image {sample.id} has no label. Put the "
                    "images in one subfolder per class, give a file of labels, or leave the metric out."
                )
            if known is not None and not 0 <= sample.label < known:
                raise RequestError(
                    f"metric '{key}' knows the classes 0..{known - 1}, and image {sample.id} has the label "
                    f"{sample.label}. Leave the metric out, or choose one that knows all classes."
                )


def extractor_names(metrics: dict[str, MetricSpec]) -> list[str]:
    """Return the feature extractors these metrics share, each once."""
    return sorted({spec.extractor for spec in metrics.values()})


def check_size(found: tuple[int, int] | None, wanted: tuple[int, int] | None, whose: str) -> None:
    """Refuse images of the wrong (height, width); None is unknown or any.

    Raises:
        RequestError: naming both sizes and who asks.
    """
    if found is not None and wanted is not None and tuple(found) != tuple(wanted):
        raise RequestError(
            f"the images are {found[0]}x{found[1]}, and {whose} needs {wanted[0]}x{wanted[1]} (height x width). "
            "Make images of that size or choose other metrics; we do not resize."
        )


def _check_reference(key: str, spec: MetricSpec, request: EvalRequest, reference: Reference | None) -> None:
    if spec.needs == "nothing":
        return
    if spec.needs == "prompts":
        found = open_prompts(request)
        if spec.prompts not in (None, found.name):
            raise RequestError(
                f"metric '{key}' judges images of prompt set '{spec.prompts}', and the images are of '{found.name}'. "
                "Choose the matching metric or prompt set."
            )
        return
    if reference is None:
        raise RequestError(f"metric '{key}' on axis '{request.axis}' needs a reference, and none was given. Name one.")
    if spec.needs not in reference.offers:
        raise RequestError(
            f"metric '{key}' needs the {spec.needs} of real images, and reference '{reference.name}' offers only "
            f"{', '.join(sorted(reference.offers))}. Give a folder or .npz of real images."
        )
