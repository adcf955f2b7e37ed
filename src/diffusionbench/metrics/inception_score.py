"""Inception Score: how sure a classifier is of each image, and how evenly the images spread over its classes.

Three published variants, which differ in shuffle, chunks and arithmetic, and give three different numbers.
Source: Salimans et al. 2016 (arXiv 1606.03498).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, get_args

import numpy as np

from diffusionbench.errors import RequestError
from diffusionbench.metrics.metric import Metric
from diffusionbench.moments import as_matrix
from diffusionbench.stats import GROUPS, Estimate

Variant = Literal["upstream", "torch_fidelity", "adm"]

_CHUNKS = 10
_ADM_CHUNK = 5000
_EPSILON = np.float32(1e-10)


def inception_score(logits: Any, variant: Variant = "upstream") -> tuple[float, float]:
    """Return the Inception Score of class logits, without the bias of the last layer for the Inception network.

    Args:
        logits: [n, c] of all images in the order of the set, NumPy or torch; at least 10 rows.
        variant: "upstream" shuffles with seed 0, drops the remainder of n / 10 and works in float32 with 1e-10
            inside the logarithms; "torch_fidelity" shuffles with seed 2020 and works in float64; "adm" takes
            consecutive blocks of 5,000 in float32 and is far too low for images ordered by class.

    Returns:
        mean and population standard deviation over the chunks, in 1..c.

    Raises:
        RequestError: if there are fewer than 10 rows, a value is not finite, or the variant is unknown.
    """
    logits = as_matrix(logits, "logits", min_rows=_CHUNKS)
    scores = [_score(logits[chunk], variant) for chunk in _chunks(len(logits), variant)]
    return float(np.mean(scores)), float(np.std(scores))


def _chunks(count: int, variant: Variant) -> list[np.ndarray]:
    """Return the row indices of every chunk."""
    if variant == "upstream":
        order, size = np.random.RandomState(0).permutation(count), count // _CHUNKS
        return [order[k * size : (k + 1) * size] for k in range(_CHUNKS)]
    if variant == "torch_fidelity":
        order = np.random.RandomState(2020).permutation(count)
        return [order[k * count // _CHUNKS : (k + 1) * count // _CHUNKS] for k in range(_CHUNKS)]
    if variant == "adm":
        return [np.arange(start, min(start + _ADM_CHUNK, count)) for start in range(0, count, _ADM_CHUNK)]
    raise RequestError(f"unknown Inception Score variant '{variant}'. Known: {', '.join(get_args(Variant))}.")


def _score(logits: np.ndarray, variant: Variant) -> float:
    """Return exp of the mean Kullback-Leibler divergence of one chunk from its own mean."""
    dtype = np.float64 if variant == "torch_fidelity" else np.float32
    log_p = _log_softmax(logits.astype(dtype))
    p = np.exp(log_p)
    q = p.mean(axis=0, dtype=np.float64).astype(dtype)
    if variant == "upstream":
        divergence = p * (np.log(p + _EPSILON) - np.log(q + _EPSILON))
    else:
        # Where p is 0 in float32, so may q be: 0 log 0 counts as 0.
        positive = np.where(q > 0, q, 1)
        divergence = p * (np.where(p > 0, log_p, 0) - np.log(positive))
    # Per-image sums in the arithmetic of the variant; their mean over thousands of images in float64.
    return float(np.exp(divergence.sum(axis=1).mean(dtype=np.float64)))


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _without_groups(logits: np.ndarray, groups: np.ndarray, variant: Variant) -> list[float]:
    """Return the score without each group of images, the chunks left as they are; nan where a chunk would be empty.

    A new shuffle for each replicate would add its own noise, three times over, to the standard error.
    """
    scores = []
    for chunk in _chunks(len(logits), variant):
        log_p = _log_softmax(logits[chunk].astype(np.float64))
        p = np.exp(log_p)
        member = np.zeros((len(chunk), GROUPS))
        member[np.arange(len(chunk)), groups[chunk]] = 1.0
        left = len(chunk) - member.sum(axis=0)
        if left.min() == 0:
            return [float("nan")] * GROUPS
        q = (p.sum(axis=0) - member.T @ p) / left[:, None]
        negative_entropy = (p * log_p).sum(axis=1)
        mean = (negative_entropy.sum() - member.T @ negative_entropy) / left
        scores.append(np.exp(mean - (q * np.log(np.maximum(q, np.finfo(np.float64).tiny))).sum(axis=1)))
    return np.mean(scores, axis=0).tolist()


class InceptionScoreMetric(Metric):
    """Inception Score, upstream variant, over the images in the order of their ids."""

    output = "logits"
    variant: ClassVar[Variant] = "upstream"

    def compute(self) -> Estimate:
        """Return the mean over chunks, its jackknife, and the standard deviation over chunks under `<key>_std`."""
        self.seen.check()
        rows, groups = self.rows, self.seen.groups
        value, std = inception_score(rows, self.variant)
        replicates = _without_groups(rows, groups, self.variant)
        return self.seen.jackknifed(value, replicates, {f"{self.spec.key}_std": std})


class TorchFidelityScoreMetric(InceptionScoreMetric):
    """The variant of torch-fidelity and FD-loss."""

    variant = "torch_fidelity"


class AdmScoreMetric(InceptionScoreMetric):
    """The variant of the ADM evaluator, in which the order of the images plays a part."""

    variant = "adm"
