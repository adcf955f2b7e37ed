"""The base class of metrics and the samples that one has seen."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from diffusionbench.errors import RequestError
from diffusionbench.judges import Unjudged
from diffusionbench.judges.judge import Evidence
from diffusionbench.metrics import MetricSpec
from diffusionbench.metrics.features import SharedRows
from diffusionbench.moments import as_matrix
from diffusionbench.prompts import PromptChoice, PromptList
from diffusionbench.references.reference import JudgedReference
from diffusionbench.sample import Sample
from diffusionbench.stats import GROUPS, Estimate, groups_of, jackknife, jackknife_interval, wilson


@dataclass(frozen=True)
class Context:
    """What the metrics of one pass share: real images and prompts to compare with, and the evidence they keep.

    Attributes:
        references: the real images as each judge sees them, by the judge's name.
        prompts: the opened prompt set, or None.
        choice: the choice that led to it, or None.
        count: images that are scored, those that cannot be read among them; 0 where that is not known.
    """

    references: Mapping[str, JudgedReference] = field(default_factory=dict)
    prompts: PromptList | None = None
    choice: PromptChoice | None = None
    count: int = 0
    _kept: dict[tuple[str, str], SharedRows] = field(default_factory=dict)
    _real: dict[str, np.ndarray] = field(default_factory=dict)

    def kept(self, judge: str, output: str) -> SharedRows:
        """Return the rows of one array of a judge that the metrics of this pass keep together."""
        return self._kept.setdefault((judge, output), SharedRows())

    def real_features(self, judge: str) -> np.ndarray:
        """Return the reference's features [n, d] in a judge's eyes: read once, one array for all metrics.

        Raises:
            RequestError: if they are no matrix, or a value is not finite.
        """
        if judge not in self._real:
            reference = self.references[judge]
            self._real[judge] = as_matrix(reference.features(), f"features of reference '{reference.name}'")
        return self._real[judge]


class Metric(ABC):
    """One evaluation of one metric: given evidence batch by batch, asked for its value once.

    Written for the common case, one output of one judge, whose rows all metrics of a pass keep together.

    Attributes:
        output: which array of the judge it reads.
        seen: samples that were scored, and those that could not be.
        reference: the real images as its first judge sees them, or None.
        real_features: their features [n, d] where it needs them.
    """

    output: ClassVar[str] = "features"

    def __init__(self, spec: MetricSpec, context: Context) -> None:
        self.spec = spec
        self.context = context
        self.seen = SampleAccumulator(spec.key, spec.min_samples)
        self.reference = context.references.get(spec.judges[0])
        self.real_features = np.empty((0, 0))
        if self.reference is not None and spec.reference.get(spec.judges[0]) == "features":
            self.real_features = context.real_features(spec.judges[0])

    def update(self, evidence: Mapping[str, Evidence], samples: Sequence[Sample]) -> None:
        """Take one batch. A row that is not finite or is `Unjudged` is counted and named, never part of the value.

        Args:
            evidence: what each judge returned for these images, by its name. A metric may keep the arrays, so nobody
                writes to them again.
            samples: the B samples that the images belong to.

        Raises:
            RequestError: if the evidence is not what the metric needs, or a sample comes a second time.
        """
        rows, kept = self.seen.add(evidence[self.spec.judges[0]], self.output, samples)
        self.take(rows, kept)

    def take(self, rows: np.ndarray, samples: Sequence[Sample]) -> None:
        """Keep the finite rows [b, width] of a batch, with their samples."""
        self.context.kept(self.spec.judges[0], self.output).add(rows, samples)

    @property
    def rows(self) -> np.ndarray:
        """Kept rows [n, width] of the scored samples by rising id; read-only, the same array for all metrics."""
        return self.context.kept(self.spec.judges[0], self.output).by_id(self.seen.scored)

    @abstractmethod
    def compute(self) -> Estimate:
        """Return the value over everything seen, with its uncertainty.

        Raises:
            RequestError: if fewer images were scored than the metric is defined for.
        """


class SampleAccumulator:
    """Book-keeping of one metric: which samples were scored and which could not be.

    Attributes:
        scored: samples of the scored rows, in the order seen.
        unjudged: why each of the others has no row, by sample id.
    """

    def __init__(self, key: str, min_samples: int) -> None:
        """Take the metric's key, and the smallest number of images it is defined for."""
        self.key = key
        self.min_samples = min_samples
        self.scored: list[Sample] = []
        self.unjudged: dict[int, str] = {}
        self._seen: set[int] = set()

    def add(self, evidence: Any, output: str, samples: Sequence[Sample]) -> tuple[np.ndarray, list[Sample]]:
        """Return the finite rows [b, width] of an array of evidence, with their samples.

        Raises:
            RequestError: as `rows_of`, or if a sample comes a second time.
        """
        rows = self.rows_of(evidence, output, len(samples))
        finite = np.isfinite(rows).all(axis=1)
        reason = f"what its judge returned for '{self.key}' is not finite"
        kept = self._keep(samples, [None if good else reason for good in finite])
        return (rows if finite.all() else rows[finite]), kept

    def rows_of(self, evidence: Any, output: str, count: int) -> np.ndarray:
        """Return an array of evidence, one row for each of `count` samples.

        Raises:
            RequestError: if it is missing or of the wrong shape.
        """
        if not isinstance(evidence, Mapping) or output not in evidence:
            found = (", ".join(sorted(evidence)) or "nothing") if isinstance(evidence, Mapping) else "rows, no arrays"
            raise RequestError(
                f"metric '{self.key}' needs '{output}' from its judge, which returned {found}. Choose a judge that has "
                "it."
            )
        rows: np.ndarray = evidence[output]
        if rows.ndim != 2 or len(rows) != count:
            raise RequestError(
                f"metric '{self.key}' needs one row of '{output}' for each of {count} samples, "
                f"got shape {tuple(rows.shape)}. Correct the judge."
            )
        return rows

    def add_rows(
        self, evidence: Sequence[Mapping[str, Any] | Unjudged], samples: Sequence[Sample]
    ) -> list[tuple[Mapping[str, Any], Sample]]:
        """Return the rows of evidence that were judged, with their samples.

        Raises:
            RequestError: if there is another number of rows, or a sample comes a second time.
        """
        if isinstance(evidence, Mapping) or len(evidence) != len(samples):
            found = "arrays by name" if isinstance(evidence, Mapping) else len(evidence)
            raise RequestError(
                f"metric '{self.key}' needs one row for each of {len(samples)} samples, got {found}. Correct the judge."
            )
        kept = self._keep(samples, [row.reason if isinstance(row, Unjudged) else None for row in evidence])
        return list(zip([row for row in evidence if not isinstance(row, Unjudged)], kept, strict=True))

    def drop(self, sample: Sample, reason: str) -> None:
        """Count a scored sample as one that cannot be scored."""
        self.scored.remove(sample)
        self.unjudged[sample.id] = reason

    def _keep(self, samples: Sequence[Sample], reasons: Sequence[str | None]) -> list[Sample]:
        kept = []
        for sample, reason in zip(samples, reasons, strict=True):
            if sample.id in self._seen:
                raise RequestError(
                    f"metric '{self.key}' got sample {sample.id} a second time. Every image counts once: "
                    f"give each its own id."
                )
            self._seen.add(sample.id)
            if reason is None:
                kept.append(sample)
            else:
                self.unjudged[sample.id] = reason
        self.scored += kept
        return kept

    def check(self) -> None:
        """Refuse to compute from too few images.

        Raises:
            RequestError: if fewer than `min_samples` images were scored.
        """
        if len(self.scored) < self.min_samples:
            reason = next(iter(self.unjudged.values()), "")
            unscored = f" and {len(self.unjudged)} could not be (the first: {reason})" if self.unjudged else ""
            raise RequestError(
                f"metric '{self.key}' needs at least {self.min_samples} images; {len(self.scored)} were "
                f"scored{unscored}. Ask for more images or leave the metric out."
            )

    @property
    def groups(self) -> np.ndarray:
        """Groups [n] of the scored samples by rising id: no value depends on arrival."""
        return np.array(list(groups_of(self.scored).values()))

    def groups_filled(self) -> bool:
        """Return whether every group has an image."""
        return len(set(self.groups.tolist())) == GROUPS

    def jackknifed(self, value: float, replicates: Sequence[float], extra: dict[str, float] | None = None) -> Estimate:
        """Return the estimate whose uncertainty is the jackknife over groups of images.

        None where it is not defined: no replicates, one that is not finite, or a group without images, whose replicate
        would be the value itself and the error too small.
        """
        stderr = jackknife(replicates) if self.groups_filled() else None
        return Estimate(
            value=value,
            stderr=stderr,
            interval=None if stderr is None else jackknife_interval(value, stderr),
            method="none" if stderr is None else "jackknife",
            scored=len(self.scored),
            unscored=len(self.unjudged),
            unjudged=self.unjudged,
            extra=extra or {},
        )

    def share(self, per_sample: list[float]) -> Estimate:
        """Return the estimate of a share of images, each 0 or 1, by rising id.

        Its interval is Wilson's where images are independent; several images of one prompt are not, and then the
        uncertainty is the jackknife over groups of prompts.
        """
        successes = int(sum(per_sample))
        value = successes / len(per_sample)
        by_id = dict(zip(sorted(sample.id for sample in self.scored), per_sample, strict=True))
        prompts = [sample.prompt for sample in self.scored if sample.label is None and sample.prompt is not None]
        if len(set(prompts)) < len(prompts):
            hits, groups = np.array(per_sample), self.groups
            left = [hits[groups != group] for group in range(GROUPS)] if self.groups_filled() else []
            return replace(self.jackknifed(value, [float(part.mean()) for part in left]), per_sample=by_id)
        interval = wilson(successes, len(per_sample))
        return replace(self.jackknifed(value, []), interval=interval, method="wilson", per_sample=by_id)
