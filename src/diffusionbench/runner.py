"""One evaluation from request to record: the same path for a checkpoint, in training, and for a stranger's folder.

`run` is all of it. A job of several processes calls `open_store`, then `fill` on each, then `score` on one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from diffusionbench import provenance
from diffusionbench.axes import Sample
from diffusionbench.axes.t2i import open_prompts
from diffusionbench.catalog import metric_info
from diffusionbench.devices import check_device
from diffusionbench.errors import DataError, RequestError
from diffusionbench.judges import EXTRACTORS, TOLERANCE, SelfTested
from diffusionbench.judges.float32 import in_float32
from diffusionbench.prompts import Prompts
from diffusionbench.record import MAX_ID, Protocol, Provenance, Record, Value
from diffusionbench.request import (
    EvalRequest,
    check,
    check_labels,
    check_metrics,
    check_size,
    expand,
    extractor_names,
    find_reference,
    image_key,
    specs,
)
from diffusionbench.schema import digest
from diffusionbench.shown import few
from diffusionbench.store import (
    CHUNK,
    Entry,
    ImageSet,
    ImageStore,
    Manifest,
    Stream,
    images_digest,
    read,
)

if TYPE_CHECKING:
    from diffusionbench.judges import Extractor
    from diffusionbench.metrics import Metric, MetricSpec
    from diffusionbench.references import Reference
    from diffusionbench.source import Source
    from diffusionbench.stats import Estimate

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many images are done, and of how many."""


def run(
    request: EvalRequest,
    source: Source,
    store_dir: Path | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Record:
    """Check, make or read the images, score them.

    Args:
        store_dir: keeps the images, in a subfolder per source and sampling; None reads the source as it is scored.
        device: where feature extractors run.

    Raises:
        UserError: before any image is made, where the request is at fault.
    """
    check(request, source)
    if store_dir is None:
        return score(request, Stream(source, expand(request, source)), device, progress)
    store = open_store(request, source, store_dir)
    fill(request, source, store, progress=progress)
    return score(request, store, device, progress)


def rescore(
    store_dir: Path,
    metrics: tuple[str, ...],
    reference: str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    command: str | None = None,
) -> Record:
    """Score a store's images with other metrics; no image is made.

    Args:
        store_dir: the store's folder, or one with a single store in it.
        reference: None: the one of the request that filled the store.
        command: what to type to get this record again.

    Raises:
        DataError: if the folder is no store, or lacks an image.
        UserError: where the request does not fit the stored images.
    """
    store = ImageStore(_only_store(store_dir))
    known = store.manifest.request
    store.check_whole(store.asked())
    request = known.model_copy(
        update={
            "metrics": metrics,
            "reference": reference or known.reference,
            "count": store.asked(),
            "command": command,
        }
    )
    check_metrics(request)
    check_labels(specs(request), store.entries(request.count))
    return score(request, store, device, progress)


def _only_store(folder: Path) -> Path:
    """A store's own folder, also where the one that holds it was meant."""
    inside = sorted(path.parent for path in folder.glob("*/store.json"))
    if (folder / "store.json").exists() or not inside:
        return folder
    if len(inside) > 1:
        names = few([path.name for path in inside])
        raise DataError(f"{folder} holds {len(inside)} image stores ({names}). Name one of them.")
    return inside[0]


def open_store(request: EvalRequest, source: Source, root: Path) -> ImageStore:
    """Return the store under `root` for these images: another checkpoint, seed or guidance has another subfolder."""
    key = image_key(request, source)
    manifest = Manifest(key=key, description=source.description, request=request)
    return ImageStore.create(root / key[:16], manifest)


def fill(
    request: EvalRequest,
    source: Source,
    store: ImageStore,
    rank: int = 0,
    world: int = 1,
    progress: Progress | None = None,
) -> None:
    """Make the images that the store lacks, or the slice of them that belongs to one of several processes.

    Batches start at multiples of the source's batch whatever was there before and however many processes there
    are, so the images are the same bit for bit.
    """
    size = source.preferred_batch
    groups = [list(group) for _, group in groupby(expand(request, source), key=lambda sample: sample.id // size)]
    mine = groups[rank * len(groups) // world : (rank + 1) * len(groups) // world]
    absent = {sample.id for sample in store.missing([sample for group in mine for sample in group])}
    total = sum(len(group) for group in mine)
    done = total - len(absent)
    chunk = _Chunk(store)
    for group in mine:
        wanted = [sample for sample in group if sample.id in absent]
        if wanted:
            started = time.perf_counter()
            samples, images, faults = read(source, wanted)
            chunk.take(samples, images, faults, time.perf_counter() - started)
            done += len(wanted)
        if progress:
            progress("images", done, total)
    chunk.close()


class _Chunk:
    """Gathers batches until they are worth a file."""

    def __init__(self, store: ImageStore) -> None:
        self._store = store
        self._clear()

    def _clear(self) -> None:
        self._samples: list[Sample] = []
        self._images: list[np.ndarray] = []
        self._faults: dict[int, str] = {}
        self._seconds = 0.0

    def take(self, samples: list[Sample], images: np.ndarray | None, faults: dict[int, str], seconds: float) -> None:
        self._samples += samples
        self._images += [] if images is None else [images]
        self._faults |= faults
        self._seconds += seconds
        if len(self._samples) + len(self._faults) >= CHUNK:
            self.close()

    def close(self) -> None:
        if self._samples or self._faults:
            images = np.concatenate(self._images) if self._images else None
            self._store.add(self._samples, images, self._faults, self._seconds)
        self._clear()


def score(request: EvalRequest, images: ImageSet, device: str = "cpu", progress: Progress | None = None) -> Record:
    """Score the first `request.count` images of a set or store, and the reference's anchors beside them.

    Raises:
        DataError: if images are missing, or none can be read.
        RequestError: if too few can be read for a metric, or they have the wrong size.
    """
    started = time.perf_counter()
    metrics = specs(request)
    reference = find_reference(request)
    extractors = _load(extractor_names(metrics), device)
    selftest = _self_test(extractors)
    prompts = None if request.prompts is None else Prompts(open_prompts(request), request.prompts)
    judge = _Judge(metrics, reference, prompts, extractors, progress)
    estimates, seen = judge("scored", images, request.count)
    faults = images.unreadable(request.count)
    anchors, notes = _anchors(judge, reference, seen)
    values = _directed(_values(estimates, len(faults)), metrics)
    entries = images.entries(request.count)
    partial = bool(faults) or any(estimate.unscored for estimate in estimates.values())
    protocol = _protocol(request, reference, extractors, notes)
    pixels = images_digest(entries)
    return Record(
        kind="measured",
        # Other metrics on the same images are another record, and an id is also a file name.
        id=f"{_slug(request.method)}-{digest([protocol.model_dump(mode='json'), pixels, sorted(metrics)])[:12]}",
        method=request.method,
        title=request.title,
        family=request.family,
        protocol=protocol,
        values=values,
        anchors=anchors,
        breakdown=_by_class(estimates, entries),
        unscored=(*faults.values(), *_not_finite(estimates)),
        partial=partial,
        provenance=_provenance(request, images, pixels, device, time.perf_counter() - started, selftest),
        extra={"request": request.model_dump(mode="json"), **_duplicates(entries), **_facts(estimates)},
    )


class _Judge:
    """Scores image sets under one protocol: each extractor sees each image once."""

    def __init__(
        self,
        metrics: dict[str, MetricSpec],
        reference: Reference | None,
        prompts: Prompts | None,
        extractors: dict[str, Extractor],
        progress: Progress | None,
    ) -> None:
        self._metrics = metrics
        self._reference = reference
        self._prompts = prompts
        self._extractors = extractors
        self._progress = progress

    def __call__(
        self, what: str, images: ImageSet, count: int, only: set[str] | None = None
    ) -> tuple[dict[str, Estimate], int]:
        """Estimates of all metrics (or `only` some) over a set's first `count` images, and how many were readable."""
        specs = {key: spec for key, spec in self._metrics.items() if only is None or key in only}
        metrics = {key: self._create(spec) for key, spec in specs.items()}
        seen = 0
        for samples, batch in images.batches(count):
            self._check_size(batch.shape[1:3])
            seen += len(samples)
            # Metrics that judge by networks of their own are as exact as extractors.
            with in_float32():
                for name in extractor_names(specs):
                    outputs = self._extractors[name](batch)
                    for key, metric in metrics.items():
                        if specs[key].extractor == name:
                            metric.update(outputs, samples)
            if self._progress:
                self._progress(what, seen, count)
        self._check_number(specs, images, seen, count)
        # Records use the headline key, which may be longer than the metric's name (`kid` gives `kid_mean`).
        return {specs[key].key: metric.compute() for key, metric in metrics.items()}, seen

    def _create(self, spec: MetricSpec) -> Metric:
        with in_float32():
            return spec.create(
                self._prompts if spec.needs == "prompts" else self._reference, self._extractors[spec.extractor]
            )

    def _check_size(self, size: tuple[int, ...]) -> None:
        found = (size[0], size[1])
        if self._reference is not None:
            check_size(found, self._reference.image_size, f"reference '{self._reference.name}'")
        for name, extractor in self._extractors.items():
            check_size(found, extractor.image_size, f"feature extractor '{name}'")

    def _check_number(self, specs: dict[str, MetricSpec], images: ImageSet, seen: int, count: int) -> None:
        faults = list(images.unreadable(count).values())
        if seen == 0:
            raise DataError(f"none of the {count} images of {images.description} can be read; the first: {faults[0]}")
        for key, spec in specs.items():
            if seen < spec.min_samples:
                raise RequestError(
                    f"metric '{key}' needs at least {spec.min_samples} images; of {count} only {seen} can be read "
                    f"(the first that cannot: {faults[0]}). Replace the damaged files or leave the metric out."
                )


def _load(names: list[str], device: str) -> dict[str, Extractor]:
    """Construct extractors; building a network draws random weights first, which must not disturb a training run."""
    import torch

    check_device(device)
    with torch.random.fork_rng():
        return {name: EXTRACTORS.load(name)(device) for name in names}


def _self_test(extractors: dict[str, Extractor]) -> Literal["passed", "failed"] | None:
    """Whether the extractors that can be tested give here what they were shipped with; None where none can be."""
    with in_float32():
        found = [extractor.self_test() for extractor in extractors.values() if isinstance(extractor, SelfTested)]
    # A deviation that is not a number has not passed.
    return None if not found else "passed" if all(one <= TOLERANCE for one in found) else "failed"


def _anchors(
    judge: _Judge, reference: Reference | None, count: int
) -> tuple[dict[str, dict[str, Value]], tuple[str, ...]]:
    """The reference's anchors at the generated count, and what must be said where that is not possible."""
    values: dict[str, dict[str, Value]] = {}
    notes: list[str] = []
    if reference is None:
        return values, ()
    for name, source in reference.anchors(count).items():
        number = len(source.labels or ())
        if number < count:
            notes.append(f"anchor {name}: {number} images, the generated set has {count}")
        fitting = {key for key, spec in judge._metrics.items() if number >= spec.min_samples}
        for key in sorted(judge._metrics.keys() - fitting):
            notes.append(f"anchor {name}: {number} images are too few for {key}, which is not scored on it")
        estimates, _ = judge(f"anchor {name}", Stream(source, _as_samples(source)), number, fitting)
        values[name] = _values(estimates, 0)
    return values, tuple(notes)


def _as_samples(source: Source) -> list[Sample]:
    return [Sample(id=place, label=label) for place, label in enumerate(source.labels or ())]


def _facts(estimates: dict[str, Estimate]) -> dict[str, Any]:
    facts = {key: dict(estimate.facts) for key, estimate in estimates.items() if estimate.facts}
    return {"facts": facts} if facts else {}


def _value(estimate: Estimate, unreadable: int) -> Value:
    return Value(
        value=estimate.value,
        stderr=estimate.stderr,
        interval=estimate.interval,
        method=estimate.method,
        scored=estimate.scored,
        unscored=estimate.unscored + unreadable,
    )


def _values(estimates: dict[str, Estimate], unreadable: int) -> dict[str, Value]:
    """Values by key, with the numbers that some metrics put beside their own."""
    values = {key: _value(estimate, unreadable) for key, estimate in estimates.items()}
    for estimate in estimates.values():
        values |= {key: Value(value=number, scored=estimate.scored) for key, number in estimate.extra.items()}
        values |= {key: _value(part, unreadable) for key, part in estimate.parts.items()}
    return values


def _directed(values: dict[str, Value], metrics: dict[str, MetricSpec]) -> dict[str, Value]:
    """State the direction of metrics that the catalog does not list, so that a board can rank them anywhere."""
    return {
        key: value.model_copy(update={"higher_is_better": metrics[key].higher_is_better})
        if key in metrics and metric_info(key).higher_is_better is None
        else value
        for key, value in values.items()
    }


def _not_finite(estimates: dict[str, Estimate]) -> list[str]:
    """The images whose features some metric could not use, named."""
    return [
        f"image {sample}: what its extractor returned for '{key}' is not finite"
        for key, estimate in estimates.items()
        for sample in estimate.unscored_ids
    ]


def _by_class(estimates: dict[str, Estimate], entries: list[Entry]) -> dict[str, dict[str, Value]]:
    """Mean of each metric that judges single images, by the class that was asked for."""
    parts: dict[str, dict[str, Value]] = {}
    for key, estimate in estimates.items():
        if estimate.per_sample is None or len(estimate.per_sample) != len(entries):
            continue
        labels = np.array([-1 if entry.label is None else entry.label for entry in entries])
        scores = np.array(estimate.per_sample)
        for label in sorted(set(labels[labels >= 0].tolist())):
            own = scores[labels == label]
            part = Value(value=float(own.mean()), scored=len(own))
            parts.setdefault(f"class {label}", {})[key] = part
    return parts


def _protocol(
    request: EvalRequest, reference: Reference | None, extractors: dict[str, Extractor], notes: tuple[str, ...]
) -> Protocol:
    prompts = None if request.prompts is None else open_prompts(request)
    return Protocol(
        name=request.protocol or request.axis,
        axis=request.axis,
        reference=reference.name if reference else None,
        reference_digest=reference.digest if reference else None,
        extractors={name: extractor.digest for name, extractor in extractors.items()},
        count=request.count,
        images_per_prompt=prompts.images_per_prompt if prompts else None,
        prompts=prompts.name if prompts else None,
        prompts_digest=prompts.digest if prompts else None,
        seed=request.seed,
        notes=notes,
        **request.sampling.model_dump(),
    )


def _provenance(
    request: EvalRequest,
    images: ImageSet,
    pixels: str,
    device: str,
    seconds: float,
    selftest: Literal["passed", "failed"] | None,
) -> Provenance:
    commit, dirty = provenance.commit()
    return Provenance(
        source=images.description,
        config_hash=request.config_hash,
        checkpoint_digest=request.checkpoint_digest,
        images_digest=pixels,
        step=request.step,
        command=request.command,
        commit=commit,
        dirty=dirty,
        packages=provenance.packages(),
        hardware=provenance.hardware(device),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        wall_seconds=round(images.seconds() + seconds, 3),
        selftest=selftest,
    )


def _duplicates(entries: list[Entry]) -> dict[str, Any]:
    """How many images repeat an earlier one pixel for pixel, and the first few pairs; nothing where none does."""
    first: dict[str, int] = {}
    pairs = [
        [first[entry.sha256], entry.id] for entry in entries if first.setdefault(entry.sha256, entry.id) != entry.id
    ]
    return {"duplicates": {"count": len(pairs), "first": pairs[:5]}} if pairs else {}


def _slug(name: str) -> str:
    # A hash follows, and both together are a file name.
    return re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[: MAX_ID // 2] or "unnamed"
