"""One evaluation from request to record: the same path for a checkpoint, in training, and for any folder of images.

`run` is all of it. A job of several processes calls `open_store`, then `fill` on each, then `score` on one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from diffusionbench.assemble import Findings, assemble
from diffusionbench.errors import DataError, RequestError
from diffusionbench.imagesets import ImageSet, ImageStream, read
from diffusionbench.judges import JUDGES, TOLERANCE
from diffusionbench.judges.float32 import in_float32
from diffusionbench.judges.judge import Evidence, Judge
from diffusionbench.metrics import METRICS, MetricSpec
from diffusionbench.metrics.metric import Context, Metric
from diffusionbench.provenance import check_device
from diffusionbench.record import Record
from diffusionbench.references.reference import JudgedReference
from diffusionbench.request import Evaluation, judge_order
from diffusionbench.sample import Sample, plain_item
from diffusionbench.shown import few
from diffusionbench.source import ImageSource
from diffusionbench.stats import Estimate
from diffusionbench.store import CHUNK, STORE, ImageStore, StoreManifest

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many images are done, and of how many."""


def run(
    evaluation: Evaluation,
    source: ImageSource,
    store_dir: Path | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Record:
    """Check, make or read the images, score them.

    Args:
        store_dir: keeps the images, in a subfolder per source and sampling; None reads the source as it is scored.
        device: where judges run.

    Raises:
        UserError: before any image is made, where the request is at fault.
    """
    evaluation.check(source)
    if store_dir is None:
        return score(evaluation, ImageStream(source, evaluation.samples(source)), device, progress)
    store = open_store(evaluation, source, store_dir)
    fill(evaluation, source, store, progress=progress)
    return score(evaluation, store, device, progress)


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
    inside = [path.parent for path in sorted(store_dir.glob(f"*/{STORE}"))]
    if inside and not (store_dir / STORE).exists():
        if len(inside) > 1:
            names = few([path.name for path in inside])
            raise DataError(f"{store_dir} holds {len(inside)} image stores ({names}). Name one of them.")
        store_dir = inside[0]
    store = ImageStore(store_dir)
    known, count = store.manifest.request, store.asked()
    store.check_whole(count)
    named = {"metrics": metrics, "reference": reference or known.reference}
    evaluation = Evaluation(known.model_copy(update={**named, "count": count, "command": command}))
    evaluation.check_metrics()
    evaluation.check_labels(entry.sample() for entry in store.entries(count))
    return score(evaluation, store, device, progress)


def open_store(evaluation: Evaluation, source: ImageSource, root: Path) -> ImageStore:
    """Return the store under `root` for these images: another checkpoint, seed or guidance has another subfolder."""
    key = evaluation.image_key(source)
    manifest = StoreManifest.of(key, source, evaluation.request)
    return ImageStore.create(root / key[:16], manifest, source)


def fill(
    evaluation: Evaluation,
    source: ImageSource,
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
    groups = [list(group) for _, group in groupby(evaluation.samples(source), key=lambda sample: sample.id // size)]
    mine = groups[rank * len(groups) // world : (rank + 1) * len(groups) // world]
    absent = {sample.id for sample in store.missing([sample for group in mine for sample in group])}
    total = sum(len(group) for group in mine)
    done = total - len(absent)
    kept: list[Sample] = []
    arrays: list[np.ndarray] = []
    faults: dict[int, str] = {}
    started = time.perf_counter()
    for group in mine:
        wanted = [sample for sample in group if sample.id in absent]
        if wanted:
            samples, images, unreadable = read(source, wanted)
            kept += samples
            arrays += [] if images is None else [images]
            faults |= unreadable
            done += len(wanted)
        # Batches are gathered until they are worth a file.
        if len(kept) + len(faults) >= (CHUNK if group is not mine[-1] else 1):
            seconds = time.perf_counter() - started
            store.add(kept, np.concatenate(arrays) if arrays else None, faults, seconds)
            kept, arrays, faults, started = [], [], {}, time.perf_counter()
        if progress:
            progress("images", done, total)


def score(evaluation: Evaluation, images: ImageSet, device: str = "cpu", progress: Progress | None = None) -> Record:
    """Score the first `request.count` images of a set or store, and the reference's anchors beside them.

    Raises:
        DataError: if images are missing, or none can be read.
        RequestError: if too few can be read for a metric, or they have the wrong size.
    """
    started = time.perf_counter()
    pass_ = JudgingPass(evaluation, device, progress)
    selftest = pass_.self_test()
    estimates, seen = pass_("scored", images, evaluation.request.count, evaluation.metrics)
    anchors, notes = _anchors(pass_, seen)
    found = Findings(
        estimates=estimates,
        anchors=anchors,
        notes=notes,
        judges={name: judge.digest for name, judge in pass_.judges.items() if judge.spec.in_protocol},
        selftest=selftest,
        device=device,
        seconds=time.perf_counter() - started,
    )
    return assemble(evaluation, images, found)


class JudgingPass:
    """Scores image sets under one protocol: each judge sees each image once."""

    def __init__(self, evaluation: Evaluation, device: str, progress: Progress | None = None) -> None:
        """Load the judges."""
        self.evaluation = evaluation
        check_device(device)
        self._progress = progress
        # Building a network draws random weights first, which must not disturb a training run.
        with torch.random.fork_rng():
            self.judges: dict[str, Judge] = {row.name: JUDGES.load(row.name)(device) for row in evaluation.judges}

    def self_test(self) -> Literal["passed", "failed"] | None:
        """Test the judges that were shipped with outputs; None where none was."""
        with in_float32():
            found = [judge.self_test() for judge in self.judges.values() if judge.spec.self_test]
        # NaN counts as failed.
        return None if not found else "passed" if all(one <= TOLERANCE for one in found) else "failed"

    def __call__(
        self, what: str, images: ImageSet, count: int, specs: dict[str, MetricSpec]
    ) -> tuple[dict[str, Estimate], int]:
        """Return estimates of some of the metrics over a set's first `count` images, and how many were readable."""
        reference, prompts = self.evaluation.reference, self.evaluation.prompts
        metrics: dict[str, Metric] = {}
        for key, spec in specs.items():
            references = {
                name: JudgedReference(reference, self.judges[name]) for name in spec.reference if reference is not None
            }
            with in_float32():
                context = Context(references, prompts, self.evaluation.request.prompts)
                metrics[key] = METRICS.load(spec.key)(spec, context)
        needed = {row.name for row in judge_order(specs.values())}
        seen = 0
        for samples, batch in images.batches(count):
            if prompts is not None:
                # A store does not keep all that the prompt set says of an image.
                samples = [prompts.sample(one.id) if one.prompt is not None else one for one in samples]
            self.evaluation.check_size((batch.shape[1], batch.shape[2]))
            seen += len(samples)
            # Metrics that judge by networks of their own are as exact as judges.
            with in_float32():
                evidence: dict[str, Evidence] = {}
                for name, judge in self.judges.items():
                    if name in needed:
                        uses = {other: evidence[other] for other in judge.spec.uses}
                        evidence[name] = judge(batch, [sample.item for sample in samples], uses)
                for key, metric in metrics.items():
                    metric.update({name: evidence[name] for name in specs[key].judges}, samples)
            if self._progress:
                self._progress(what, seen, count)
        self._check_number(specs, images, seen, count)
        return {key: metric.compute() for key, metric in metrics.items()}, seen

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


def _anchors(pass_: JudgingPass, count: int) -> tuple[dict[str, dict[str, Estimate]], tuple[str, ...]]:
    """Score the reference's anchors at the generated count; also say what must be said where that is not possible."""
    found: dict[str, dict[str, Estimate]] = {}
    notes: list[str] = []
    reference, metrics = pass_.evaluation.reference, pass_.evaluation.metrics
    for name, source in (reference.anchors(count) if reference else {}).items():
        samples = [Sample(place, plain_item(label)) for place, label in enumerate(source.labels or ())]
        number = len(samples)
        if number < count:
            notes.append(f"anchor {name}: {number} images, the generated set has {count}")
        fitting = {key: spec for key, spec in metrics.items() if number >= spec.min_samples}
        for key in sorted(metrics.keys() - fitting.keys()):
            notes.append(f"anchor {name}: {number} images are too few for {key}, which is not scored on it")
        found[name], _ = pass_(f"anchor {name}", ImageStream(source, samples), number, fitting)
    return found, tuple(notes)
