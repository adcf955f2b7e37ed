"""What every metric does with a batch before its own maths: admit, refuse or set aside; and read feature arrays."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from diffusionbench.axes import Sample
from diffusionbench.errors import RequestError
from diffusionbench.stats import GROUPS, Estimate, groups_of, jackknife, jackknife_interval, wilson


class Intake:
    """Book-keeping of one metric: which samples were scored and which could not be.

    Attributes:
        scored: samples of the scored rows, in the order seen.
        unscored: sample ids whose row was not finite.
    """

    def __init__(self, key: str, output: str, min_samples: int) -> None:
        """Args: the metric's key, the extractor output it reads, and the images it is defined for."""
        self.key = key
        self.output = output
        self.min_samples = min_samples
        self.scored: list[Sample] = []
        self.unscored: list[int] = []
        self._seen: set[int] = set()

    def admit(self, outputs: Mapping[str, np.ndarray], samples: Sequence[Sample]) -> tuple[np.ndarray, list[Sample]]:
        """Return the finite rows of one batch [b, width] with their samples.

        Raises:
            RequestError: if the output is missing or of the wrong shape, or a sample comes a second time.
        """
        if self.output not in outputs:
            raise RequestError(
                f"metric '{self.key}' needs '{self.output}' from its extractor, which returned "
                f"{', '.join(sorted(outputs)) or 'nothing'}. Choose an extractor that has it."
            )
        rows = outputs[self.output]
        if rows.ndim != 2 or len(rows) != len(samples):
            raise RequestError(
                f"metric '{self.key}' needs one row of '{self.output}' for each of {len(samples)} samples, "
                f"got shape {tuple(rows.shape)}. Mend the extractor."
            )
        for sample in samples:
            if sample.id in self._seen:
                raise RequestError(
                    f"metric '{self.key}' got sample {sample.id} a second time. Every image counts once: "
                    f"give each its own id."
                )
            self._seen.add(sample.id)
        finite = np.isfinite(rows).all(axis=1)
        self.unscored += [sample.id for sample, good in zip(samples, finite, strict=True) if not good]
        kept = [sample for sample, good in zip(samples, finite, strict=True) if good]
        self.scored += kept
        return (rows if finite.all() else rows[finite]), kept

    def check(self) -> None:
        """Refuse to compute from too few images.

        Raises:
            RequestError: if fewer than `min_samples` images were scored.
        """
        if len(self.scored) < self.min_samples:
            unscored = f" and {len(self.unscored)} could not be" if self.unscored else ""
            raise RequestError(
                f"metric '{self.key}' needs at least {self.min_samples} images; {len(self.scored)} were "
                f"scored{unscored}. Ask for more images or leave the metric out."
            )

    def by_id(self, batches: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return the admitted rows [n, ...] and their groups [n] by rising id: no value depends on arrival."""
        order = np.argsort([sample.id for sample in self.scored])
        return np.concatenate(batches)[order], np.array(list(groups_of(self.scored).values()))

    def groups_filled(self) -> bool:
        """Return whether every group has an image."""
        return len(set(groups_of(self.scored).values())) == GROUPS

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
            unscored=len(self.unscored),
            unscored_ids=tuple(self.unscored),
            extra=extra or {},
        )

    def share(self, per_sample: list[float]) -> Estimate:
        """Return the estimate of a share of images, each 0 or 1 in the order seen.

        Its interval is Wilson's where images are independent; several images of one prompt are not, and then the
        uncertainty is the jackknife over groups of prompts.
        """
        successes = int(sum(per_sample))
        value = successes / len(per_sample)
        prompts = [sample.prompt for sample in self.scored if sample.label is None and sample.prompt is not None]
        if len(set(prompts)) < len(prompts):
            hits, groups = self.by_id([np.array(per_sample)])
            left = [hits[groups != group] for group in range(GROUPS)] if self.groups_filled() else []
            return replace(self.jackknifed(value, [float(part.mean()) for part in left]), per_sample=per_sample)
        return Estimate(
            value=value,
            stderr=None,
            interval=wilson(successes, len(per_sample)),
            method="wilson",
            scored=len(per_sample),
            unscored=len(self.unscored),
            unscored_ids=tuple(self.unscored),
            per_sample=per_sample,
        )


def as_matrix(values: Any, what: str, min_rows: int = 1) -> np.ndarray:
    """Return a NumPy array or torch tensor [n, d] as an array of the same type; half precisions become float32.

    Args:
        values: what a caller gave.
        what: what it is, in words, for messages ("generated features").
        min_rows: the fewest rows allowed.

    Raises:
        RequestError: if it is not two-dimensional, has fewer rows, or holds a value that is not finite.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values if values.dtype == torch.float64 else values.float()).numpy()
    array = np.asarray(values)
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32 if array.dtype == np.float16 else np.float64)
    if array.ndim != 2 or array.shape[1] == 0:
        raise RequestError(f"{what}: need an array [n, d] with one row for each image, got shape {array.shape}.")
    if len(array) < min_rows:
        raise RequestError(f"{what}: need at least {min_rows} images, got {len(array)}. Give more images.")
    bad = len(array) - int(np.isfinite(array).all(axis=1).sum())
    if bad:
        raise RequestError(
            f"{what}: {bad} of {len(array)} rows hold a value that is not finite. Leave those images out."
        )
    return array


def check_width(generated: np.ndarray, reference: np.ndarray) -> None:
    """Refuse features of different networks.

    Raises:
        RequestError: if the widths differ.
    """
    if generated.shape[1] != reference.shape[1]:
        raise RequestError(
            f"generated features have width {generated.shape[1]}, reference features {reference.shape[1]}. "
            f"Take both from the same extractor."
        )
