"""Time and memory of the metrics of features at paper scale.

    python benchmarks/metrics.py [--count 50000] [--real 10000] [--dim 2048] [--out FILE]

Features come in batches of 50, as judges give them. Each case runs in a process of its own, whose largest resident
memory is compared with the size of both sets of features; Python with its packages is part of it. Processor time,
summed over threads, is the steadier number on a machine that is shared.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from diffusionbench.metrics import METRICS
from diffusionbench.metrics.metric import Context
from diffusionbench.moments import moments
from diffusionbench.provenance import hardware
from diffusionbench.references.reference import JudgedReference
from diffusionbench.sample import Sample, plain_item

CASES = {
    "FD, KD and IS": ("fid", "kid_mean", "inception_score"),
    "precision and recall": ("precision", "recall"),
    "MIND": ("mind_inception",),
}
CLASSES = 1008


def batches(count: int, dim: int, seed: int, size: int = 1000) -> Iterator[np.ndarray]:
    """Positive, correlated float32 features whose spectrum falls off like that of pooled activations."""
    scales = (np.arange(dim) + 1.0) ** -0.5
    mix = (np.random.default_rng(0).normal(size=(dim, dim)) * scales[:, None] / dim**0.5).astype(np.float32)
    for start in range(0, count, size):
        draws = np.random.default_rng([seed, start]).normal(size=(min(size, count - start), dim)).astype(np.float32)
        yield np.maximum(draws @ mix + np.float32(0.3 + 0.01 * seed), 0)


class Real:
    """A reference of given features."""

    name = "benchmark"

    def __init__(self, count: int, dim: int) -> None:
        self._rows = np.empty((count, dim), np.float32)
        start = 0
        for batch in batches(count, dim, 2):
            self._rows[start : start + len(batch)] = batch
            start += len(batch)
        self._moments = moments(self._rows)

    def features(self, judge: object) -> np.ndarray:
        return self._rows

    def moments(self, judge: object) -> tuple[np.ndarray, np.ndarray]:
        return self._moments


def case(name: str, count: int, real: int, dim: int) -> str:
    """One line of the table."""
    reference: Any = Real(real, dim)
    judge: Any = None
    context = Context({"inception": JudgedReference(reference, judge)})
    metrics = [METRICS.load(key)(METRICS[key], context) for key in CASES[name]]
    wall = processor = 0.0
    first = 0
    for rows in batches(count, dim, 1):
        logits = rows[:, :CLASSES] * 4
        begun, used = time.perf_counter(), time.process_time()
        for start in range(0, len(rows), 50):
            part = slice(start, start + 50)
            samples = [Sample(first + start + place, plain_item((first + start + place) % 1000)) for place in range(50)]
            for metric in metrics:
                metric.update({"inception": {"features": rows[part], "logits": logits[part]}}, samples)
        wall, processor = wall + time.perf_counter() - begun, processor + time.process_time() - used
        first += len(rows)
    print(f"{name}: fed in {wall:.1f} s", file=sys.stderr)
    begun, used = time.perf_counter(), time.process_time()
    values = []
    for metric in metrics:
        since, cpu = time.perf_counter(), time.process_time()
        found = metric.compute()
        shown = f"{found.value:.4f}" + ("" if found.stderr is None else f" ± {found.stderr:.4f}")
        values.append(f"{metric.spec.key} {shown}")
        times = f"{time.perf_counter() - since:.1f} s, {time.process_time() - cpu:.1f} s of processor"
        print(f"{values[-1]}: {times}, {_peak():.0f} MiB so far", file=sys.stderr)
    wall, processor = wall + time.perf_counter() - begun, processor + time.process_time() - used
    peak, both = _peak(), (count + real) * dim * 4 / 2**20
    sizes = f"{count:,} against {real:,} x {dim}"
    return f"| {name} | {sizes} | {wall:.0f} | {processor:.0f} | {peak:.0f} | {peak / both:.2f} | {'; '.join(values)} |"


def _peak() -> float:
    """Largest resident memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def machine() -> str:
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    packages = f"Python {platform.python_version()}, NumPy {np.__version__}"
    return f"{hardware()}, OMP_NUM_THREADS {threads}, load average {load} at the start; {packages}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=50_000, help="generated images")
    parser.add_argument("--real", type=int, default=10_000, help="real images of precision and recall")
    parser.add_argument("--dim", type=int, default=2048, help="feature width")
    parser.add_argument("--case", choices=list(CASES), help="only this case, in this process")
    parser.add_argument("--out", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    if options.case:
        real = options.real if options.case == "precision and recall" else options.count
        print(case(options.case, options.count, real, options.dim))
        return
    sizes = ["--count", str(options.count), "--real", str(options.real), "--dim", str(options.dim)]
    command, date = " ".join(["python benchmarks/metrics.py", *sizes]), datetime.now(UTC).date().isoformat()
    lines = [
        f"# Metrics of features, {date}\n",
        f"Command: `{command}`.",
        f"Machine: {machine()}.\n",
        "| metrics | features | wall, s | processor, s | largest memory, MiB | as a share of both sets | values |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in CASES:
        arguments = [sys.executable, __file__, *sizes, "--case", name]
        lines.append(subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True).stdout.strip())
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
