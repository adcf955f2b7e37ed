"""Every metric that torch-fidelity has, ours against its own on the same features or images, in the same run.

    .venv-oracle/bin/python benchmarks/against_torch_fidelity.py [--count 5000] [--dim 2048] [--rounds 3]

Both take float32 features or logits in memory, with the same subsets and neighbours; the Inception network takes
images, with equal random weights. Uncertainty is left out. The best of some rounds counts, in processor time as the
machine may be shared; rounds of the two alternate. Exit code 3 where ours is slower, or values differ.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "oracle"))
import conftest  # noqa: F401  (makes torchvision importable beside a CPU torch)

# isort: split
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from diffusionbench.judges.inception import InceptionNet
from diffusionbench.metrics.frechet import frechet_distance
from diffusionbench.metrics.inception_score import inception_score
from diffusionbench.metrics.kid import kid
from diffusionbench.metrics.precision_recall import precision_recall
from diffusionbench.moments import moments
from diffusionbench.provenance import hardware, packages

KID = {"kid_subsets": 100, "kid_subset_size": 1000, "rng_seed": 2020, "verbose": False}
PRC = {"prc_neighborhood": 3, "prc_batch_size": 10_000, "verbose": False}
# torch-fidelity averages and divides in float32.
TOLERANCE = 1e-4

Values = tuple[float, ...]
Case = tuple[str, Callable[[], Values], Callable[[], Values]]


def cases(count: int, dim: int, images: int) -> Iterator[Case]:
    """Give each metric's name, what we compute and what torch-fidelity does."""
    generator = torch.Generator().manual_seed(0)
    # Positive and correlated, with a spectrum that falls off like that of pooled activations.
    mix = torch.randn(dim, dim, generator=generator) * (torch.arange(dim) + 1.0)[:, None] ** -0.5 / dim**0.5
    a, b = ((torch.randn(count, dim, generator=generator) @ mix + shift).relu() for shift in (0.3, 0.31))
    logits = torch.randn(count, 1008, generator=generator)

    def frechet() -> Values:
        found = fid_statistics_to_metric(fid_features_to_statistics(a), fid_features_to_statistics(b), False)
        return (found["frechet_inception_distance"],)

    yield "Frechet distance", lambda: (frechet_distance(*moments(a), *moments(b)),), frechet

    def kernel() -> Values:
        found = kid_features_to_metric(a, b, **KID)
        return found["kernel_inception_distance_mean"], found["kernel_inception_distance_std"]

    yield "kernel distance", lambda: kid(a, b), kernel

    def score() -> Values:
        found = isc_features_to_metric(logits, splits=10, shuffle=True, rng_seed=2020)
        return found["inception_score_mean"], found["inception_score_std"]

    yield "Inception Score", lambda: inception_score(logits, "torch_fidelity"), score

    def shares() -> Values:
        found = prc_features_to_metric(a, b, **PRC)
        return found["precision"], found["recall"]

    yield "precision and recall", lambda: precision_recall(a, b), shares
    yield network(images)


def network(count: int) -> Case:
    """Return the case of the Inception network, from 8-bit images of 256 x 256 to pooled features."""
    torch.manual_seed(0)
    ours = InceptionNet()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.pth")
        torch.save(ours.state_dict(), path)
        theirs = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
        ).eval()
    pixels = torch.randint(0, 256, (count, 3, 256, 256), dtype=torch.uint8)

    def features(net: Callable[[torch.Tensor], torch.Tensor]) -> Values:
        with torch.no_grad():
            return tuple(net(pixels).double().mean(0)[:8].tolist())

    return (
        f"Inception network, {count} images",
        lambda: features(lambda x: ours(x)["2048"]),
        lambda: features(lambda x: theirs(x)[0]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000, help="rows of features")
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--images", type=int, default=32, help="of the Inception network")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{hardware('cpu')}, {torch.get_num_threads()} threads, load average {load}, {packages()}")
    print("| metric | ours, s | torch-fidelity, s | ratio | largest difference |\n|---|---|---|---|---|")
    behind = False
    for name, *both in cases(options.count, options.dim, options.images):
        seconds, values = [math.inf] * 2, [(), ()]
        for _ in range(options.rounds):
            for place, compute in enumerate(both):
                start = time.process_time()
                values[place] = compute()
                seconds[place] = min(seconds[place], time.process_time() - start)
        apart = max(abs(x - y) / max(1.0, abs(y)) for x, y in zip(*values, strict=True))
        ratio = seconds[1] / seconds[0]
        print(f"| {name} | {seconds[0]:.2f} | {seconds[1]:.2f} | {ratio:.2f} | {apart:.0e} |", flush=True)
        behind |= not (ratio >= 1 and apart <= TOLERANCE)
    sys.exit(3 if behind else 0)


if __name__ == "__main__":
    main()
