"""One evaluation from request to record: the same path for a checkpoint, in training, and for any folder of images.

`run` is all of it. Its stages are `fill` (images), `judge` (evidence) and `score` (record): each continues where it
stopped, and the first two work on a part of the samples, or in several processes on one store.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusionbench.assemble import Findings, assemble
from diffusionbench.errors import Caution
from diffusionbench.evidence import EVIDENCE, EvidenceStore, Keep
from diffusionbench.imagesets import ImageSet, ImageStream, read
from diffusionbench.judges import JUDGES
from diffusionbench.judging import EvidenceRows, JudgingPass, Progress
from diffusionbench.parts import WHOLE, Part, find_store, in_batches
from diffusionbench.record import JudgeUsed, Record
from diffusionbench.request import Evaluation
from diffusionbench.sample import Sample, plain_item
from diffusionbench.source import ImageSource
from diffusionbench.stats import Estimate
from diffusionbench.store import CHUNK, ImageStore, StoreManifest


def run(
    evaluation: Evaluation,
    source: ImageSource,
    store_dir: Path | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    keep: Keep = "features",
) -> Record:
    """Check, make or read the images, judge and score them.

    Args:
        store_dir: keeps images and evidence, in a subfolder per source and sampling; None reads the source as it is
            scored.
        device: where judges run.
        keep: "moments" keeps no arrays of features on the disk.

    Raises:
        UserError: before any image is made, where the request is at fault.
        RunError: before any image is made, where a judge fails its self-test.
    """
    evaluation.check(source)
    if store_dir is None:
        return score(evaluation, ImageStream(source, evaluation.samples(source)), device, progress)
    store = open_store(evaluation, source, store_dir)
    pass_ = prepare(evaluation, source, store, device, progress, keep=keep)
    fill(evaluation, source, store, progress=progress)
    return score(evaluation, store, device, progress, pass_)


def prepare(
    evaluation: Evaluation,
    source: ImageSource,
    store: ImageStore,
    device: str = "cpu",
    progress: Progress | None = None,
    part: Part = WHOLE,
    keep: Keep = "features",
) -> JudgingPass:
    """Load and test the judges that will have to judge the images of a part, before any is made.

    Raises:
        RunError: if one fails its self-test.
    """
    samples = evaluation.samples(source)
    pass_ = JudgingPass(evaluation, device, progress, EvidenceStore(store.folder / EVIDENCE, keep))
    pass_.load(store, [samples[place] for place in part.span(len(samples))])
    return pass_


def run_part(
    evaluation: Evaluation,
    source: ImageSource,
    store_dir: Path,
    part: Part,
    device: str = "cpu",
    progress: Progress | None = None,
) -> ImageStore:
    """Make and judge the images of one part; `merge` and `rescore` make a record of all of them. Raises as `run`."""
    evaluation.check(source)
    store = open_store(evaluation, source, store_dir)
    pass_ = prepare(evaluation, source, store, device, progress, part)
    fill(evaluation, source, store, progress=progress, part=part)
    pass_.judge(store, part.span(evaluation.request.count))
    return store


def judge(
    store_dir: Path,
    metrics: tuple[str, ...],
    part: Part | None = None,
    anew: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, tuple[int, int]]:
    """Judge a store's images for some metrics; no image is made and no metric formed.

    Args:
        store_dir: the store's folder, or one with a single store in it.
        part: None judges what is there; a part must be there as a whole.
        anew: judge by the judges that are installed also where evidence of others of their names is there.

    Returns:
        How many images each judge has judged now, and how many there are, by its name.

    Raises:
        DataError: if the folder is no store, or lacks an image of the part.
        UserError, RunError: see `run`.
    """
    store = find_store(store_dir)
    known = store.manifest.request
    # Real images play no part yet, and may lie on another machine.
    evaluation = Evaluation(known.without_references(metrics))
    evaluation.check_metrics(references=False)
    ids: Sequence[int] = store.ids()
    if part is not None:
        ids = span = part.span(known.count)
        store.check_whole(span.stop, span.start)
    pass_ = JudgingPass(evaluation, device, progress, EvidenceStore(store.folder / EVIDENCE))
    if anew:
        pass_.load()
    else:
        pass_.load(store, [entry.sample() for entry in store.entries(max(ids, default=-1) + 1) if entry.id in ids])
    pass_.judge(store, ids)
    return {name: (pass_.judged[name], len(ids)) for name in pass_.judges}


def rescore(
    store_dir: Path,
    metrics: tuple[str, ...],
    reference: str | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    command: str | None = None,
    verify: bool = False,
    **references: Any,
) -> Record:
    """Score a store's images; none is made, and none is judged of which there is evidence.

    Args:
        store_dir: the store's folder, or one with a single store in it.
        reference: None: the one of the request that filled the store.
        references: the other fields of `EvalRequest` about real images.
        command: what to type to get this record again.
        verify: read and hash all images first, also those that judges have seen.

    Raises:
        DataError: if the folder is no store, or lacks an image or holds a damaged one.
        UserError: where the request does not fit the stored images or their evidence.
    """
    store = find_store(store_dir)
    known, count = store.manifest.request, store.asked()
    store.verify(count) if verify else store.check_whole(count)
    asked = known.with_metrics(metrics, reference=reference, **references)
    evaluation = Evaluation(asked.model_copy(update={"count": count, "command": command}))
    evaluation.check_metrics(judges=False)
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
    part: Part = WHOLE,
) -> None:
    """Make the images that the store lacks, of a part, or the slice of it that belongs to one of several processes.

    Batches start at multiples of the source's batch in every block of samples, whatever was there before, and however
    many parts and processes there are, so the images are the same bit for bit.
    """
    samples = evaluation.samples(source)
    groups = in_batches([samples[place] for place in part.span(len(samples))], source.preferred_batch)
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
            made, images, unreadable = read(source, wanted)
            kept += made
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


def score(
    evaluation: Evaluation,
    images: ImageSet,
    device: str = "cpu",
    progress: Progress | None = None,
    prepared: JudgingPass | None = None,
) -> Record:
    """Score the first `request.count` images of a set or store, and the reference's anchors beside them.

    A store's evidence is used, and a judge loaded only where some of it is absent, or by `prepare` before.

    Raises:
        DataError: if images are missing, or none can be read.
        RequestError: if too few can be read for a metric, they have the wrong size, or evidence is of other judges.
        RunError: if a judge has to judge and fails its self-test.
    """
    if prepared is not None:
        pass_ = prepared
    elif isinstance(images, ImageStore):
        pass_ = JudgingPass(evaluation, device, progress, EvidenceStore(images.folder / EVIDENCE))
        pass_.refuse_other_versions()
    else:
        pass_ = JudgingPass(evaluation, device, progress)
        pass_.load()
    started, rows = time.perf_counter(), EvidenceRows()
    estimates, seen = pass_("scored", images, evaluation.request.count, evaluation.metrics, rows)
    for judge in pass_.judges.values():
        # Not in the record, which is the same where evidence leaves nothing to judge.
        if judge.caution is not None:
            warnings.warn(judge.caution, Caution, stacklevel=2)
    anchors, notes = _anchors(pass_, seen)
    found = Findings(
        estimates=estimates,
        anchors=anchors,
        notes=(*_too_few(evaluation, seen), *notes),
        judges={
            name: JudgeUsed(digest=one.digest, precision=one.facts.precision, options=one.facts.options)
            for name, one in pass_.judges.items()
            if one.spec.in_protocol
        },
        self_tests={name: judge.tested for name, judge in pass_.judges.items() if judge.tested is not None},
        # One that fails ends the evaluation.
        selftest="passed" if any(judge.spec.self_test for judge in pass_.judges.values()) else None,
        attachments=rows.texts(),
        device=pass_.device,
        seconds=time.perf_counter() - started,
    )
    return assemble(evaluation, images, found)


def _too_few(evaluation: Evaluation, count: int) -> Iterator[str]:
    """Say which metrics compare moments of fewer images than features."""
    for key, spec in evaluation.metrics.items():
        for judge, needed in spec.reference.items():
            if needed == "moments" and count < JUDGES[judge].dim:
                yield (
                    f"{key}: {count:,} images are fewer than the {JUDGES[judge].dim:,} features of judge '{judge}', so "
                    "that most of the value comes from their number. It compares with equal counts only."
                )


def _anchors(pass_: JudgingPass, count: int) -> tuple[dict[str, dict[str, Estimate]], tuple[str, ...]]:
    """Score each reference's anchors at the generated count; also say what must be said where that is not possible."""
    found: dict[str, dict[str, Estimate]] = {}
    notes: list[str] = []
    # Class means are nobody's reconstructions.
    references = pass_.evaluation.distinct_references if pass_.evaluation.originals is None else ()
    for reference in references:
        metrics = pass_.evaluation.compared_with(reference)
        for name, source in reference.anchors(count).items():
            samples = [Sample(place, plain_item(label)) for place, label in enumerate(source.labels or ())]
            number = len(samples)
            if number < count:
                notes.append(f"anchor {name}: {number} images, the generated set has {count}")
            fitting = {key: spec for key, spec in metrics.items() if number >= spec.min_samples}
            for key in sorted(metrics.keys() - fitting.keys()):
                notes.append(f"anchor {name}: {number} images are too few for {key}, which is not scored on it")
            values, _ = pass_(f"anchor {name}", ImageStream(source, samples), number, fitting)
            found.setdefault(name, {}).update(values)
    return found, tuple(notes)
