"""Our metrics against torch-fidelity's on the same features, in the same run: seconds of each, best of some.

    .venv-oracle/bin/python benchmarks/against_torch_fidelity.py [--count 5000] [--dim 2048] [--rounds 3]

Both take float32 features or logits in memory, with the same subsets and neighbours; uncertainty is left out.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from diffusionbench.metrics.frechet import frechet_distance
from diffusionbench.metrics.inception_score import inception_score
from diffusionbench.metrics.kid import kid
from diffusionbench.metrics.precision_recall import precision_recall
from diffusionbench.moments import moments
from diffusionbench.provenance import hardware, packages

KID = {"kid_subsets": 100, "kid_subset_size": 1000, "rng_seed": 2020, "verbose": False}
PRC = {"prc_neighborhood": 3, "prc_batch_size": 10_000, "verbose": False}


def cases(a: torch.Tensor, b: torch.Tensor, logits: torch.Tensor) -> dict[str, tuple[Callable[[], Any], ...]]:
    """Return by metric what we compute and what torch-fidelity does."""
    return {
        "Frechet distance": (
            lambda: frechet_distance(*moments(a), *moments(b)),
            lambda: fid_statistics_to_metric(fid_features_to_statistics(a), fid_features_to_statistics(b), False),
        ),
        "kernel distance": (lambda: kid(a, b), lambda: kid_features_to_metric(a, b, **KID)),
        "Inception Score": (
            lambda: inception_score(logits, "torch_fidelity"),
            lambda: isc_features_to_metric(logits, splits=10, shuffle=True, rng_seed=2020),
        ),
        "precision and recall": (lambda: precision_recall(a, b), lambda: prc_features_to_metric(a, b, **PRC)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(options.count, options.dim, generator=generator) * scale for scale in (1.0, 1.1))
    logits = torch.randn(options.count, 1008, generator=generator)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{hardware('cpu')}, {torch.get_num_threads()} threads, load average {load}, {packages()}")
    print("| metric | ours, s | torch-fidelity, s | ratio |\n|---|---|---|---|")
    for name, both in cases(a, b, logits).items():
        seconds = [float("inf")] * 2
        for _ in range(options.rounds):
            for place, compute in enumerate(both):
                # Processor time: the machine may be shared.
                start = time.process_time()
                compute()
                seconds[place] = min(seconds[place], time.process_time() - start)
        print(f"| {name} | {seconds[0]:.2f} | {seconds[1]:.2f} | {seconds[1] / seconds[0]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
