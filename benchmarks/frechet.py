"""Frechet distance against the textbook route, `scipy.linalg.sqrtm` of the product of covariances, in one run.

    python benchmarks/frechet.py [--dim 2048] [--rounds 3] [--out FILE]

Both routes get the same moments (full rank) or the same features (fewer samples than dimensions) and take turns, so
whatever else the machine does falls on both; each counts with its median. Processor time, summed over threads, is the
steadier number on a machine that is shared. The last part is the whole metric with its uncertainty.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import scipy.linalg

from diffusionbench.metrics import METRICS
from diffusionbench.metrics.frechet import FrechetMetric, frechet_distance, frechet_from_features
from diffusionbench.metrics.metric import Context
from diffusionbench.moments import moments
from diffusionbench.provenance import hardware
from diffusionbench.references.reference import JudgedReference
from diffusionbench.sample import Sample

HEADER = (
    "| case | scipy, s | ours, s | times faster | the same in processor time | relative difference |\n"
    "|---|---|---|---|---|---|"
)


def textbook(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    """The distance by a general matrix square root; a small ridge where that is not finite."""
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    if not np.isfinite(root).all():
        ridge = np.eye(len(cov_a)) * 1e-6
        root = scipy.linalg.sqrtm((cov_a + ridge) @ (cov_b + ridge))
    shift = mean_a - mean_b
    return float(shift @ shift + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(root).real)


def textbook_from_features(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    return textbook(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))


def features(count: int, dim: int, seed: int) -> np.ndarray:
    """Positive, correlated float32 features [count, dim] whose spectrum falls off like that of pooled activations."""
    rng = np.random.default_rng(seed)
    scales = (np.arange(dim) + 1.0) ** -0.5
    rows = (rng.normal(size=(count, dim)) * scales) @ np.random.default_rng(0).normal(size=(dim, dim)) / dim**0.5
    return np.maximum(rows + 0.3 + 0.02 * seed, 0.0).astype(np.float32)


def timed(call: Callable[[], float]) -> tuple[float, float, float]:
    """Seconds, processor seconds, value."""
    start, processor = time.perf_counter(), time.process_time()
    value = call()
    return time.perf_counter() - start, time.process_time() - processor, value


def compare(case: str, scipy_route: Callable[[], float], ours: Callable[[], float], rounds: int) -> str:
    """One line of the table: medians of `rounds` turns."""
    theirs, mine = [], []
    for _ in range(rounds):
        theirs.append(timed(scipy_route))
        mine.append(timed(ours))
    slow, fast = (statistics.median(turn[0] for turn in turns) for turns in (theirs, mine))
    slow_cpu, fast_cpu = (statistics.median(turn[1] for turn in turns) for turns in (theirs, mine))
    difference = abs(mine[0][2] - theirs[0][2]) / abs(theirs[0][2])
    return f"| {case} | {slow:.2f} | {fast:.3f} | {slow / fast:.1f} | {slow_cpu / fast_cpu:.1f} | {difference:.1e} |"


class Fixed:
    """A reference of given moments."""

    name = "benchmark"

    def __init__(self, rows: np.ndarray) -> None:
        self._moments = moments(rows)

    def moments(self, judge: object) -> tuple[np.ndarray, np.ndarray]:
        return self._moments


def whole_metric(count: int, dim: int) -> str:
    """`fid` over `count` images: streaming in batches of 64, and value with jackknife."""
    rows = features(count, dim, 1)
    reference: Any = Fixed(features(2 * dim, dim, 2))
    judge: Any = None
    metric = FrechetMetric(METRICS["fid"], Context({"inception": JudgedReference(reference, judge)}))
    start = time.perf_counter()
    for first in range(0, count, 64):
        batch = rows[first : first + 64]
        metric.update({"inception": {"features": batch}}, [Sample(first + place) for place in range(len(batch))])
    streamed = time.perf_counter() - start
    seconds, _, _ = timed(lambda: metric.compute().value)
    return f"| {count} | {streamed:.1f} | {seconds:.1f} |"


def machine() -> str:
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    packages = f"Python {platform.python_version()}, NumPy {np.__version__}, SciPy {scipy.__version__}"
    return f"{hardware()}, OMP_NUM_THREADS {threads}, load average {load} at the start; {packages}"


def report(dim: int, rounds: int) -> str:
    lines = [f"Machine: {machine()}.", "", HEADER]
    a, b = moments(features(3 * dim, dim, 1)), moments(features(3 * dim, dim, 2))
    lines.append(compare(f"full rank, d = {dim}", lambda: textbook(*a, *b), lambda: frechet_distance(*a, *b), rounds))
    for count in (dim // 4, dim // 2):
        x, y = features(count, dim, 1), features(count, dim, 2)
        case = f"{count} against {count} samples, d = {dim}"
        lines.append(
            compare(
                case,
                partial(textbook_from_features, x, y),
                partial(frechet_from_features, x, y),
                rounds,
            )
        )
    lines += ["", f"Whole metric, d = {dim}:", "", "| images | stream, s | value and jackknife, s |", "|---|---|---|"]
    lines += [whole_metric(count, dim) for count in (dim // 2, 2 * dim)]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dim", type=int, default=2048, help="feature width")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each route")
    parser.add_argument("--out", type=Path, help="also write the tables to this file")
    options = parser.parse_args()
    command = f"python benchmarks/frechet.py --dim {options.dim} --rounds {options.rounds}"
    date = datetime.now(UTC).date().isoformat()
    text = f"# Frechet distance, {date}\n\nCommand: `{command}`.\n{report(options.dim, options.rounds)}\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
