"""One pass of judges over images: what evidence tells already is read, the rest is judged once and kept."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np

from diffusionbench.errors import DataError, RequestError
from diffusionbench.evidence import EvidenceStore, Key, join, line_of, question_digest, split
from diffusionbench.imagesets import ImageSet
from diffusionbench.judges import JUDGES, JudgeSpec
from diffusionbench.judges.deferred import DeferredJudge
from diffusionbench.judges.float32 import in_float32
from diffusionbench.judges.judge import Evidence, JudgeFacts, JudgeManifest
from diffusionbench.metrics import METRICS, MetricSpec
from diffusionbench.metrics.metric import Context, Metric
from diffusionbench.parts import BLOCK, in_batches, regrouped
from diffusionbench.provenance import check_device
from diffusionbench.references.reference import JudgedReference
from diffusionbench.request import Evaluation
from diffusionbench.sample import Sample
from diffusionbench.schema import canonical_json
from diffusionbench.stats import Estimate
from diffusionbench.store import ImageStore
from diffusionbench.writing import check_place

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many images are done, and of how many."""

BATCH: Final = 50
"""Images that a judge sees at once; a divisor of `parts.BLOCK`."""

# Seconds of judging after which evidence is kept though its block is not complete.
_LATEST = 10.0


class ImageBatch(NamedTuple):
    """Some samples, with what their evidence follows from.

    Attributes:
        hashes: SHA-256 of their pixels; None where no evidence is kept.
        pixels: uint8 [B, H, W, 3]; None where all evidence is there.
    """

    samples: list[Sample]
    hashes: list[str] | None
    pixels: np.ndarray | None


class EvidenceRows:
    """What judges said of each image, as the lines that lie beside a record: image, item and row."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {}

    def add(self, batch: ImageBatch, evidence: Mapping[str, Sequence[Any]]) -> None:
        """Take the rows of a batch, by the judge's name."""
        for name, rows in evidence.items():
            hashes = batch.hashes or _hashes(np.asarray(batch.pixels))
            for sample, image, row in zip(batch.samples, hashes, rows, strict=True):
                about = {"sample": sample.id, "item": sample.item.key, "k": sample.k, "image": image}
                self._lines.setdefault(name, []).append(line_of(name, row, about))

    def texts(self) -> dict[str, str]:
        """Return the content of each judge's file, by the file's name."""
        return {f"{name}.jsonl": "".join(f"{line}\n" for line in lines) for name, lines in self._lines.items()}


class JudgingPass:
    """Judges image sets under one protocol, and scores them: each judge sees each image once.

    Attributes:
        device: where judges run.
        judges: by name, each behind those whose evidence it uses.
        judged: how many images each of them has judged, by name.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        device: str,
        progress: Progress | None = None,
        evidence: EvidenceStore | None = None,
    ) -> None:
        """Take the judges as the evidence knows them; none is loaded before it has to judge."""
        self.evaluation = evaluation
        check_device(device)
        self.device = device
        self._progress = progress
        self._evidence = evidence or EvidenceStore(None)
        self.judges = self._deferred(())
        self.judged: Counter[str] = Counter()

    def _deferred(self, anew: Collection[str]) -> dict[str, DeferredJudge]:
        """Return the judges, those named without what evidence says of them."""
        manifests = self._evidence.judges()
        judges: dict[str, DeferredJudge] = {}
        for row in self.evaluation.judges:
            fitting = [one for one in manifests if self._evidence.keeps(row) and _fits(one.facts, row, manifests)]
            # Of several only the weights tell which one is meant.
            known = fitting[0] if len(fitting) == 1 and row.name not in anew else None
            judges[row.name] = DeferredJudge(row, self.device, {name: judges[name] for name in row.uses}, known)
        return judges

    def load(self, images: ImageStore | None = None, samples: Sequence[Sample] = ()) -> None:
        """Load and test the judges that have not judged all of these images; evidence of others is left aside.

        Raises:
            RunError: if a self-test fails.
        """
        ids = [sample.id for sample in samples]
        if images is not None and not ids:
            return
        listed = [] if images is None or images.missing(samples) else self._listed(images, ids)
        wanted = {name for spec in self.evaluation.metrics.values() for name in spec.judges}
        absent = set()
        for name, judge in reversed(self.judges.items()):
            if name in wanted and not (listed and all(self._is_known(name, batch) for batch in listed)):
                absent.add(name)
                wanted |= set(judge.spec.uses)
        self.judges = self._deferred(absent)
        for name in self.judges:
            if name in absent:
                self.judges[name].load()
                self.evaluation.check_loaded(self.judges[name])

    def refuse_other_versions(self) -> None:
        """Refuse evidence of judges that are other ones here under the same name.

        Raises:
            RequestError: naming the first.
        """
        for name, judge in self.judges.items():
            found = [one.facts for one in self._evidence.judges() if one.facts.name == name]
            if found and not any(facts.fits(judge.spec) for facts in found):
                raise RequestError(
                    f"the evidence here is of judge '{name}', version {found[0].version}, {_said(found[0])}; installed "
                    f"is version {judge.spec.version}, {_said(judge.spec)}. Judge the images again with "
                    "`diffusionbench judge`, or install the version that judged them."
                )

    def judge(self, images: ImageStore, ids: Sequence[int]) -> None:
        """Let all judges that metrics name judge stored images, and keep the evidence; no metric is formed."""
        names = sorted({name for spec in self.evaluation.metrics.values() for name in spec.judges})
        try:
            for _, evidence in self._walk("judged", self._stored(images, ids, names), len(ids)):
                for name in names:
                    evidence(name)
        finally:
            self._evidence.flush()

    def __call__(
        self,
        what: str,
        images: ImageSet,
        count: int,
        specs: Mapping[str, MetricSpec],
        said: EvidenceRows | None = None,
    ) -> tuple[dict[str, Estimate], int]:
        """Return estimates of some of the metrics over a set's first `count` images, and how many were readable.

        What judges of rows say of each image goes to `said`.
        """
        metrics = self._metrics(specs, count)
        names = sorted({name for spec in specs.values() for name in spec.judges})
        seen = 0
        try:
            for batch, evidence in self._walk(what, self._batches(images, count, names), count):
                seen += len(batch.samples)
                found = {name: evidence(name) for name in names}
                # Metrics that judge by networks of their own are as exact as judges.
                with in_float32():
                    for key, metric in metrics.items():
                        metric.update({name: found[name] for name in specs[key].judges}, batch.samples)
                if said is not None:
                    said.add(batch, {name: one for name, one in found.items() if not isinstance(one, Mapping)})
        finally:
            # Also where something fails: what was judged is kept.
            self._evidence.flush()
        self._check_number(specs, images, seen, count)
        return {key: metric.compute() for key, metric in metrics.items()}, seen

    def _metrics(self, specs: Mapping[str, MetricSpec], count: int) -> dict[str, Metric]:
        compared = {name for spec in specs.values() for name in spec.reference}
        references = {
            name: JudgedReference(reference, self.judges[name])
            for name, reference in self.evaluation.references.items()
            if name in compared
        }
        for name in references:
            self.evaluation.check_loaded(self.judges[name])
        # One for all, so that they hold evidence and features of real images once.
        context = Context(references, self.evaluation.prompts, self.evaluation.request.prompts, count)
        with in_float32():
            for name in {
                name for spec in specs.values() for name, kind in spec.reference.items() if kind == "features"
            }:
                # Before any moments, which then follow from them: real images are judged once.
                context.real_features(name)
            return {key: METRICS.load(spec.key)(spec, context) for key, spec in specs.items()}

    def _walk(
        self, what: str, batches: Iterable[ImageBatch], total: int
    ) -> Iterator[tuple[ImageBatch, Callable[[str], Evidence]]]:
        """Give each batch with a function that returns the evidence of a judge on it; keep what is new."""
        done, block, started = 0, 0, time.monotonic()
        for batch in batches:
            if batch.samples[0].id // BLOCK != block or time.monotonic() - started > _LATEST:
                self._evidence.flush()
                block, started = batch.samples[0].id // BLOCK, time.monotonic()
            if batch.pixels is not None:
                self.evaluation.check_size((batch.pixels.shape[1], batch.pixels.shape[2]))
            found: dict[str, Evidence] = {}
            yield batch, partial(self._of, batch, found)
            done += len(batch.samples)
            if self._progress:
                self._progress(what, done, total)

    def _of(self, batch: ImageBatch, found: dict[str, Evidence], name: str) -> Evidence:
        """Return the evidence of a judge on a batch: read as far as it is known, the rest judged.

        Where evidence is kept, an image that comes twice is judged once: all that follows is the same whether its
        evidence was read or has just been made.
        """
        if name in found:
            return found[name]
        judge, every = self.judges[name], range(len(batch.samples))
        keys = self._keys(judge, batch)
        if keys is None:
            found[name] = self._judged(judge, batch, found, every)
            return found[name]
        known = self._evidence.known(judge.facts, keys)
        # The first row of each key.
        absent = {keys[row]: row for row in reversed(every) if not known[row]}
        if absent:
            if self._evidence.folder is not None and not self.judged[name]:
                check_place(self._evidence.folder, "folder")
            rows = sorted(absent.values())
            new = self._judged(judge, batch, found, rows)
            self._evidence.hold(judge.facts, [keys[row] for row in rows], new, judge.tested)
        found[name] = self._evidence.read(judge.facts, keys)
        return found[name]

    def _judged(
        self, judge: DeferredJudge, batch: ImageBatch, found: dict[str, Evidence], rows: Sequence[int]
    ) -> Evidence:
        """Let a judge look at some images of a batch."""
        assert batch.pixels is not None
        given = {}
        for other in judge.spec.uses:
            every = split(self._of(batch, found, other))
            given[other] = join([every[row] for row in rows])
        pixels = batch.pixels if len(rows) == len(batch.samples) else batch.pixels[rows]
        self.judged[judge.name] += len(rows)
        with in_float32():
            return judge(pixels, [batch.samples[row].item for row in rows], given)

    def _keys(self, judge: DeferredJudge, batch: ImageBatch) -> list[Key] | None:
        """Return the keys of a judge's evidence, or None where it is not kept."""
        if batch.hashes is None or not self._evidence.keeps(judge.spec):
            return None
        ask = JUDGES.load(judge.name).questions
        asked = [question_digest(ask(sample.item)) for sample in batch.samples]
        return list(zip(batch.hashes, asked, strict=True))

    def _is_known(self, name: str, batch: ImageBatch) -> bool:
        """Return whether the evidence of a judge on a whole batch is there, without loading the judge."""
        judge = self.judges[name]
        keys = self._keys(judge, batch)
        return keys is not None and judge.is_known and all(self._evidence.known(judge.facts, keys))

    def _batches(self, images: ImageSet, count: int, names: Sequence[str]) -> Iterator[ImageBatch]:
        if isinstance(images, ImageStore):
            images.check_whole(count)
            yield from self._stored(images, range(count), names)
            return
        for samples, pixels in regrouped(images.batches(count), BATCH):
            hashes = None if self._evidence.folder is None else _hashes(pixels)
            yield ImageBatch(self._asked(samples), hashes, pixels)

    def _stored(self, images: ImageStore, ids: Sequence[int], names: Sequence[str]) -> Iterator[ImageBatch]:
        """Give stored images by id, with the pixels of those batches that a judge has not seen all of."""
        listed = self._listed(images, ids)
        absent = [not all(self._is_known(name, batch) for name in names) for batch in listed]
        unseen = [sample.id for batch, open_ in zip(listed, absent, strict=True) if open_ for sample in batch.samples]
        for size in images.sizes():
            self.evaluation.check_size(size)
        read = regrouped(images.some(unseen), BATCH)
        held = next(read, None)
        for batch, open_ in zip(listed, absent, strict=True):
            if not open_:
                yield batch
            elif held is not None and held[0][0].id in {sample.id for sample in batch.samples}:
                yield _matching(batch, *held)
                held = next(read, None)

    def _listed(self, images: ImageStore, ids: Sequence[int]) -> list[ImageBatch]:
        """Return stored images in batches, without pixels."""
        wanted = set(ids)
        entries = {one.id: one for one in images.entries(max(wanted, default=-1) + 1) if one.id in wanted}
        groups = in_batches([entry.sample() for entry in entries.values()], BATCH)
        return [ImageBatch(self._asked(group), [entries[one.id].sha256 for one in group], None) for group in groups]

    def _asked(self, samples: Sequence[Sample]) -> list[Sample]:
        """Return the samples with all that prompt set or originals say of them, which a store does not keep."""
        prompts, originals = self.evaluation.prompts, self.evaluation.originals
        if originals is not None:
            return originals.partnered(samples)
        if prompts is None:
            return list(samples)
        return [prompts.sample(one.id) if one.prompt is not None else one for one in samples]

    def _check_number(self, specs: Mapping[str, MetricSpec], images: ImageSet, seen: int, count: int) -> None:
        faults = list(images.unreadable(count).values())
        if seen == 0:
            raise DataError(f"none of the {count} images of {images.description} can be read; the first: {faults[0]}")
        for key, spec in specs.items():
            if seen < spec.min_samples:
                raise RequestError(
                    f"metric '{key}' needs at least {spec.min_samples} images; of {count} only {seen} can be read "
                    f"(the first that cannot: {faults[0]}). Replace the damaged files or leave the metric out."
                )


def _fits(facts: JudgeFacts, row: JudgeSpec, manifests: Sequence[JudgeManifest]) -> bool:
    """Return whether evidence is of a row of the table, and what that judge was given, as far as that is kept, too."""
    used = {one.facts.key: one.facts for one in manifests}
    return facts.fits(row) and all(
        key not in used or _fits(used[key], JUDGES[name], manifests) for name, key in facts.uses.items()
    )


def _said(of: JudgeFacts | JudgeSpec) -> str:
    return f"{of.precision}, options {canonical_json(dict(of.options))}"


def _matching(batch: ImageBatch, samples: Sequence[Sample], pixels: np.ndarray) -> ImageBatch:
    """Return a batch with its pixels; images that turned out to have changed are left out."""
    there = {sample.id for sample in samples}
    rows = [row for row, sample in enumerate(batch.samples) if sample.id in there]
    hashes = None if batch.hashes is None else [batch.hashes[row] for row in rows]
    return ImageBatch([batch.samples[row] for row in rows], hashes, pixels)


def _hashes(pixels: np.ndarray) -> list[str]:
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels]
