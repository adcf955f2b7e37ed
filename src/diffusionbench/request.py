"""Requests that can be stored, and evaluations: a request with all that it names, checked before any work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from functools import cache
from typing import Any, Final, Literal

from pydantic import Field, field_validator

from diffusionbench import bounds
from diffusionbench.axes import AXES
from diffusionbench.axes.axis import Asked, Axis
from diffusionbench.errors import RequestError, UserError
from diffusionbench.files import class_key
from diffusionbench.judges import JUDGES, JudgeSpec
from diffusionbench.judges.judge import Judge
from diffusionbench.metrics import METRICS, MetricSpec
from diffusionbench.prompts import PROMPTS, PromptChoice, open_prompts
from diffusionbench.record import MAX_NAME, Guidance, Tuning
from diffusionbench.references import Role
from diffusionbench.references.opening import resolve
from diffusionbench.references.reference import Reference
from diffusionbench.sample import SAMPLE, Sample
from diffusionbench.schema import Strict, digest
from diffusionbench.shown import clipped, few
from diffusionbench.source import ImageSource, exists_already, image_keys

# Enough of the label order to tell two orders apart: every class of ImageNet appears.
_ORDER: Final = 1000


class Sampling(Strict):
    """Settings with which a generator made the images, None where unknown; other settings have other stored images."""

    noise: str | None = None
    sampler: str | None = None
    num_steps: int | None = None
    shift: float | None = None
    guidance: Guidance | None = None
    ema: bool | None = None
    precision: str | None = None
    quantisation: Literal["truncate", "round"] | None = None


class EvalRequest(Strict):
    """Names what to score and how.

    Attributes:
        metrics: keys in `METRICS`.
        reference: name in `REFERENCES` or a path, for all judges; None if no metric compares with real images.
        references: the same by judge, in its place.
        reference_extractors: judges whose statistics the user says those are that nothing else tells whose they are.
        reference_role: which split the user says the real images are.
        prompts: the texts to draw, on axis `t2i`.
        count: images to score.
        seed: of the generator's noise.
        method, title, family: what the record calls the generator.
        protocol: name of the rule set; the axis's name if not given.
        classes: names of the images' classes in the order of their labels; None where they have none.
        num_classes: for a generator whose reference has no labels: ask for 0, 1, ..., in turn.
        config_hash, checkpoint_digest, step, command: provenance that only the caller knows.
        trained_with: names of judges or networks that the method was trained with.
        tuning: on which images guidance or another setting was chosen.
        allow_partial: whether images of prompts may be missing; the record is then partial.
        repeat_error: mean absolute difference in grey levels between two images that a function made of one sample;
            None where that was not tried.
    """

    axis: str = "class_conditional"
    metrics: tuple[str, ...]
    reference: str | None = None
    references: dict[str, str] = {}
    reference_extractors: tuple[str, ...] = ()
    reference_role: Role | None = None
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
    trained_with: tuple[str, ...] = ()
    tuning: Tuning | None = None
    allow_partial: bool = False
    repeat_error: float | None = None

    def with_metrics(self, metrics: tuple[str, ...], **references: Any) -> EvalRequest:
        """Return the request for other metrics, with other real images where any field about them is given.

        Without, it keeps its own, as far as the metrics compare with them.
        """
        given = {field: value for field, value in references.items() if value}
        if given:
            return self.without_references(metrics).model_copy(update=given)
        comparing = {judge for key in metrics for judge in METRICS[key].reference}
        own = {judge: name for judge, name in self.references.items() if judge in comparing}
        extractors = tuple(judge for judge in self.reference_extractors if judge in comparing)
        return self.model_copy(update={"metrics": metrics, "references": own, "reference_extractors": extractors})

    def without_references(self, metrics: tuple[str, ...]) -> EvalRequest:
        """Return the request for other metrics, with no real images."""
        none: dict[str, Any] = {"reference": None, "references": {}, "reference_extractors": (), "reference_role": None}
        return self.model_copy(update={"metrics": metrics, **none})

    @field_validator("metrics")
    @classmethod
    def _distinct(cls, metrics: tuple[str, ...]) -> tuple[str, ...]:
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


def check_metric_axis(axis: str, metrics: Iterable[str]) -> None:
    """Refuse metrics that judge images by something else than the axis asks for.

    Raises:
        UserError: naming the first such metric, or if there is no such axis or metric.
    """
    asked = AXES[axis].asks
    for key in metrics:
        judged = METRICS[key].items or asked
        if judged != asked:
            raise RequestError(
                f"metric '{key}' judges images by the {judged} that were asked for, and axis '{axis}' asks for "
                f"{asked}. Leave the metric out, or use a generator and an axis that ask for {judged}."
            )


def judge_order(metrics: Iterable[MetricSpec]) -> list[JudgeSpec]:
    """Return the judges that metrics need, each once, by name, behind those whose evidence it uses."""
    order: dict[str, JudgeSpec] = {}

    def place(name: str, *above: str) -> None:
        if name in above:
            raise UserError(
                f"judges use each other in a circle: {', '.join((*above, name))}. Correct their rows' uses."
            )
        for used in JUDGES[name].uses:
            place(used, *above, name)
        order.setdefault(name, JUDGES[name])

    for name in sorted({judge for spec in metrics for judge in spec.judges}):
        place(name)
    return list(order.values())


def _are_names(classes: Sequence[str] | None) -> bool:
    """Return whether classes are called by more than their numbers."""
    return classes is not None and any(name != str(place) for place, name in enumerate(classes))


class Evaluation:
    """A request with all that it names, each opened once for the whole run.

    Attributes:
        metrics: rows by key.
        judges: rows of the judges that the metrics need, in the order in which they judge.
        references: the real images by judge, of every judge through which a metric compares with some.
        reference: those that say which classes are asked for, or None.
        prompts: the opened prompt set, or None.
        axis: the axis' code.
    """

    def __init__(self, request: EvalRequest, opened: Mapping[str, Reference] | None = None) -> None:
        """Open all that the request names.

        Args:
            opened: references that only the caller can open, by the name that the request has for them.

        Raises:
            UserError: if a name is unknown (the nearest known one is suggested), or a file cannot be used.
        """
        self.request = request
        self.metrics: dict[str, MetricSpec] = {key: METRICS[key] for key in request.metrics}
        for key in request.metrics:
            METRICS.load(key)
        self.judges = judge_order(self.metrics.values())
        self.axis: Axis = AXES.load(request.axis)()
        self.references: dict[str, Reference] = {}
        self.reference: Reference | None = None
        self._open_references(opened or {})
        asks = AXES[request.axis].asks
        if request.prompts is not None and asks != "prompts":
            raise RequestError(
                f"prompt set '{request.prompts.name}' was given, and axis '{request.axis}' asks for {asks}. Leave it "
                "out, or name an axis of prompts."
            )
        if request.prompts is None and asks == "prompts":
            raise RequestError(
                f"axis '{request.axis}' needs a prompt set, and neither a metric nor the request names one. Ask "
                "for a metric that judges the images of one, or name it (diffusionbench: --prompts); known: "
                f"{', '.join(sorted(PROMPTS))}."
            )
        self.prompts = None if request.prompts is None else open_prompts(request.prompts)

    def _open_references(self, opened: Mapping[str, Reference]) -> None:
        request, comparing = self.request, {judge for spec in self.metrics.values() for judge in spec.reference}
        for judge in (*request.references, *request.reference_extractors):
            if judge not in comparing:
                raise RequestError(
                    f"a reference or its extractor was named for judge '{JUDGES[judge].name}', and no metric asked for "
                    f"compares through it. Leave it out; those asked for compare through: "
                    f"{', '.join(sorted(comparing)) or 'none'}."
                )
        shared = [judge for judge in request.reference_extractors if judge not in request.references]
        if len(shared) > 1:
            raise RequestError(
                f"one reference cannot hold the statistics of {' and '.join(shared)}. Give each judge its own, as "
                "--reference JUDGE=FILE."
            )

        @cache
        def opened_once(name: str, asserted: str | None) -> Reference:
            return opened.get(name) or resolve(name, asserted, request.reference_role)

        if request.reference is not None:
            self.reference = opened_once(request.reference, next(iter(shared), None))
            self.references = dict.fromkeys(sorted(comparing), self.reference)
        for judge, name in request.references.items():
            self.references[judge] = opened_once(name, judge if judge in request.reference_extractors else None)
        # The classes that a generator is asked for are those of real images that have some.
        given = self.distinct_references
        self.reference = next((one for one in given if one.num_classes), next(iter(given), None))
        for judge in request.reference_extractors:
            if judge not in self.references or self.references[judge].made_by(judge) is None:
                raise RequestError(
                    f"--reference-extractor says whose statistics a file holds, and judge '{judge}' is given none. "
                    "Leave the option out, or give the file with --reference."
                )

    @property
    def distinct_references(self) -> list[Reference]:
        """The references of all judges, each once, that of the classes first."""
        found = (self.reference, *self.references.values())
        return list({id(one): one for one in found if one is not None}.values())

    def compared_with(self, reference: Reference) -> dict[str, MetricSpec]:
        """Return the metrics that compare with these real images; those that give the classes have the others too."""
        return {
            key: spec
            for key, spec in self.metrics.items()
            if any(self.references.get(judge) is reference for judge in spec.reference)
            or (not spec.reference and reference is self.reference)
        }

    def updated(self, **changes: Any) -> Evaluation:
        """Return the same evaluation of a changed request; what names something may not change."""
        twin = copy(self)
        twin.request = self.request.model_copy(update=changes)
        return twin

    @property
    def originals(self) -> Reference | None:
        """The images of which those to be scored are reconstructions, or None where no metric compares pairs.

        Raises:
            RequestError: if judges were given different ones.
        """
        kinds = [(judge, kind) for spec in self.metrics.values() for judge, kind in spec.reference.items()]
        found = [self.references[judge] for judge, kind in kinds if kind == "pairs" and judge in self.references]
        if len({id(one) for one in found}) > 1:
            raise RequestError("metrics of pairs were given different references. Name one, without JUDGE=.")
        return next(iter(found), None)

    @property
    def full_count(self) -> int:
        """Images of a complete evaluation of a generator."""
        return self.axis.full_count(self.prompts)

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Names by which folders of images are numbered: the reference's, else those of a metric's judge."""
        judged = (self._judged_classes(spec) for spec in self.metrics.values())
        return next(filter(None, (*(one.classes for one in self.distinct_references), *judged)), None)

    def _judged_classes(self, spec: MetricSpec) -> tuple[str, ...] | None:
        return JUDGES[spec.judges[0]].classes if spec.items == "classes" else None

    def samples(self, source: ImageSource, count: int | None = None) -> list[Sample]:
        """Return the samples of a source, as many as the request asks for if no other count is given."""
        return self.axis.samples(
            Asked(
                count=self.request.count if count is None else count,
                num_classes=self.request.num_classes,
                reference=self.reference,
                prompts=self.prompts,
                given=source.labels,
                names=image_keys(source),
                seed=self._seed(source),
            )
        )

    def _seed(self, source: ImageSource) -> int | None:
        return None if exists_already(source) else self.request.seed

    def image_key(self, source: ImageSource) -> str:
        """Return the SHA-256 of all that the images depend on.

        Neither metrics nor count are among it: a longer request continues a shorter one. What is None does not count,
        so that images stay found when requests get a new field.
        """
        request = self.request
        order: object = None
        if self.prompts is not None:
            order = self.prompts.digest
        elif source.labels is None:
            order = [[s.label, s.prompt] for s in self.samples(source, _ORDER)]
        facts = {
            "axis": request.axis,
            "seed": self._seed(source),
            "purpose": None if self._seed(source) is None else SAMPLE,
            "sampling": request.sampling.model_dump(mode="json", exclude_none=True) or None,
            "source": source.digest,
            "checkpoint": request.checkpoint_digest,
            "order": order,
        }
        return digest({name: value for name, value in facts.items() if value is not None})

    def check(self, source: ImageSource) -> None:
        """Check all that can be known before a weight is loaded or an image is made.

        Raises:
            UserError: as `check_metrics` and `check_images`.
        """
        self.check_metrics()
        self.check_images(source)

    def check_images(self, source: ImageSource) -> None:
        """Check all that can be known of the images before one is made.

        Raises:
            UserError: too few images, missing or impossible labels, images of the wrong size.
        """
        samples = self.samples(source)
        self._check_covered(source, samples)
        self.check_labels(samples)
        if (originals := self.originals) is not None:
            originals.partnered(samples)
        self.check_size(source.image_size)

    def _check_covered(self, source: ImageSource, samples: Sequence[Sample]) -> None:
        """Refuse images that lack some of the prompts, unless that is allowed."""
        has = getattr(source, "has", None)
        if has is None or self.request.allow_partial or self.prompts is None:
            return
        absent = [sample for sample in samples if not has(sample)]
        if not absent:
            return
        choice, keys = self.request.prompts, list(dict.fromkeys(sample.item.key for sample in absent))
        smaller = "" if any(sample.k == 0 for sample in absent) else f", choose '{self.prompts.name}:1x'"
        raise RequestError(
            f"{source.description} does not cover prompt set '{choice}': {len(absent):,} of {len(samples):,} images "
            f"are missing, of {len(keys):,} prompts ({few(keys)}). Add them{smaller}, or score the rest with "
            "--allow-partial, which marks the record partial and names every missing image."
        )

    def check_metrics(self, judges: bool = True, references: bool = True) -> None:
        """Check what a request says without its images: names, real images, counts, weights.

        Args:
            judges: whether judges must be there, which only matters where evidence is absent.
            references: whether real images must be there, which only matters where values are formed.

        Raises:
            UserError: a reference that a metric cannot use, too few images, missing weights or packages.
        """
        request = self.request
        if not request.metrics:
            raise RequestError(
                f"no metric was asked for. Name at least one of: {', '.join(sorted(METRICS.with_code))}."
            )
        check_metric_axis(request.axis, self.metrics)
        for key, spec in self.metrics.items():
            if self.prompts is not None and spec.prompts not in (None, self.prompts.name):
                raise RequestError(
                    f"metric '{key}' judges images of prompt set '{spec.prompts}', and the images are of "
                    f"'{self.prompts.name}'. Choose the matching metric or prompt set."
                )
            if references:
                self._check_comparison(key, spec)
        for judge in self.judges if judges else ():
            JUDGES.load(judge.name).check()

    def _check_comparison(self, key: str, spec: MetricSpec) -> None:
        """Refuse a metric whose real images or classes are others, or of too few images."""
        for judge, needed in spec.reference.items():
            reference = self.references.get(judge)
            if reference is None:
                lacks = ", and none was given"
                if self.references:
                    lacks = f" for judge '{judge}', and one was given for {', '.join(self.references)} only"
                raise RequestError(
                    f"metric '{key}' on axis '{self.request.axis}' needs a reference{lacks}. Name real images, or "
                    f"statistics of '{judge}', with --reference."
                )
            reference.check(JUDGES[judge])
            if needed not in reference.offers:
                raise RequestError(
                    f"metric '{key}' needs the {needed} of real images, and reference '{reference.name}' offers only "
                    f"{', '.join(sorted(reference.offers))}. Give a folder or .npz of real images, or statistics made "
                    "with `diffusionbench prepare reference --features`."
                )
            if needed == "features" and reference.count is not None and reference.count < spec.min_samples:
                raise RequestError(
                    f"metric '{key}' needs at least {spec.min_samples} real images, and reference '{reference.name}' "
                    f"has {reference.count}. Give more real images or leave the metric out."
                )
        if spec.items == "classes":
            self._check_classes(key, spec)
        if self.request.count < spec.min_samples:
            raise RequestError(
                f"metric '{key}' needs at least {spec.min_samples} images, and {self.request.count} were asked for or "
                "found. Give more images or leave the metric out."
            )

    def check_loaded(self, judge: Judge) -> None:
        """Refuse a judge that is not the one whose statistics it is given, as only its loaded weights tell.

        Raises:
            RequestError: naming the statistics and both digests.
        """
        if (reference := self.references.get(judge.name)) is not None:
            reference.check_loaded(judge)

    def _check_classes(self, key: str, spec: MetricSpec) -> None:
        """Refuse a metric that reads labels where these mean other classes than the reference or the judge knows."""
        judged = self._judged_classes(spec)
        real = [(one.classes, judged, f"the classes of reference '{one.name}'") for one in self.distinct_references]
        known = next((classes for classes, _, _ in real if classes is not None), judged)
        for found, wanted, whose in (*real, (self.request.classes, known, "the folders")):
            if found is None or wanted is None or (_are_names(wanted) and not _are_names(found)):
                # Where classes have numbers alone, `check_labels` counts them.
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

    def check_labels(self, samples: Iterable[Sample]) -> None:
        """Refuse images without the class that a metric judges them by, or with one that its judge does not know.

        Raises:
            RequestError: naming the first metric and image.
        """
        samples = list(samples)
        for key, spec in self.metrics.items():
            if spec.items != "classes":
                continue
            judge = JUDGES[spec.judges[0]]
            for sample in samples:
                if sample.label is None:
                    raise RequestError(
                        f"metric '{key}' needs the class that was asked for, and image {sample.id} has no label. Put "
                        "the images in one subfolder per class, give a file of labels, or leave the metric out."
                    )
                if judge.num_classes is not None and not 0 <= sample.label < judge.num_classes:
                    raise RequestError(
                        f"metric '{key}' knows the classes 0..{judge.num_classes - 1}, and image {sample.id} has the "
                        f"label {sample.label}. Leave the metric out, or choose one that knows all classes."
                    )
            self._check_numbers(key, judge, samples)

    def _check_numbers(self, key: str, judge: JudgeSpec, samples: Sequence[Sample]) -> None:
        """Refuse numbers as labels that are not known to mean the judge's classes, where these have names."""
        told: tuple[EvalRequest | Reference, ...] = (self.request, *self.distinct_references)
        if not _are_names(judge.classes) or any(_are_names(one.classes) for one in told):
            return
        largest = max((sample.label or 0 for sample in samples), default=0)
        found = next(filter(None, (one.num_classes for one in told)), 1 + largest)
        if found != judge.num_classes:
            raise RequestError(
                f"metric '{key}' knows {judge.num_classes:,} classes ({few(judge.classes or (), first=3)}) in its own "
                f"order, and these labels are numbers of {found:,} classes without names. Put the images into folders "
                "of those names, or leave the metric out."
            )

    def check_size(self, found: tuple[int, int] | None) -> None:
        """Refuse images of a (height, width) that the reference or a judge does not take; None is unknown.

        Raises:
            RequestError: naming both sizes and who asks.
        """
        wanted = {f"reference '{one.name}'": one.image_size for one in self.distinct_references}
        wanted |= {f"judge '{judge.name}'": judge.image_size for judge in self.judges}
        for whose, size in wanted.items():
            if found is not None and size is not None and tuple(found) != tuple(size):
                other = "choose other metrics"
                if whose.startswith("reference"):
                    other = "give a reference of theirs (docs/data.md, 'Score them')"
                raise RequestError(
                    f"the images are {found[0]}x{found[1]}, and {whose} needs {size[0]}x{size[1]} (height x width). "
                    f"We do not resize: make images of that size, or {other}."
                )
