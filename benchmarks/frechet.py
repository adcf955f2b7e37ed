"""Times the Frechet distance against SciPy's general matrix square root, both in one run.

    python benchmarks/frechet.py [--dim 2048] [--json]

Moments are formed beforehand at full rank. With fewer samples than dimensions both start from features: ours works on
the samples, the general route needs their singular covariances first.
"""

import argparse
import json
import os
import platform
import time

import numpy as np
import scipy
from scipy.linalg import sqrtm

from diffusionbench.metrics.frechet import Moments, frechet_distance, frechet_from_features, moments


def scipy_distance(mean_a, cov_a, mean_b, cov_b):
    """The textbook formula with `sqrtm`, and its usual retry where the root of a singular product is not finite."""
    root = sqrtm(cov_a @ cov_b)
    if not np.isfinite(root).all():
        ridge = 1e-6 * np.eye(len(cov_a))
        root = sqrtm((cov_a + ridge) @ (cov_b + ridge))
    shift = mean_a - mean_b
    return float(shift @ shift + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(root).real)


def timed(function, repeats):
    """Best wall time of several calls, in seconds, and the result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        start = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - start)
    return best, result


def features(rng, count, mix, shift):
    """Correlated, non-negative, float32, with a spectrum that falls as pooled activations' does."""
    return np.maximum(rng.standard_normal((count, len(mix)), dtype=np.float32) @ mix + shift, 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--few", type=int, default=1000, help="images of each set in the case of few samples")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    scale = (np.arange(1, args.dim + 1, dtype=np.float32) ** -0.5)[:, None]
    mix = rng.standard_normal((args.dim, args.dim), dtype=np.float32) * scale / 4

    many_a, many_b = (features(rng, 5 * args.dim, mix, shift) for shift in (0.3, 0.32))
    few_a, few_b = many_a[: args.few], many_b[: args.few]
    a, b = moments(many_a), moments(many_b)
    few_moments = (*moments(few_a), *moments(few_b))

    rows = []
    for case, ours, theirs in (
        ("full rank, from moments", lambda: frechet_distance(*a, *b), lambda: scipy_distance(*a, *b)),
        (
            f"{args.few} images each, from features",
            lambda: frechet_from_features(few_a, few_b),
            lambda: scipy_distance(*moments(few_a), *moments(few_b)),
        ),
        (
            f"{args.few} images each, from moments",
            lambda: frechet_distance(*few_moments),
            lambda: scipy_distance(*few_moments),
        ),
        (
            f"{args.few} images against full rank, from features",
            lambda: frechet_from_features(few_a, many_b),
            lambda: scipy_distance(*moments(few_a), *moments(many_b)),
        ),
    ):
        our_time, our_value = timed(ours, args.repeats)
        their_time, their_value = timed(theirs, 1)
        rows.append(
            {
                "case": case,
                "ours_s": round(our_time, 3),
                "scipy_s": round(their_time, 3),
                "ratio": round(their_time / our_time, 1),
                "relative_difference": abs(our_value - their_value) / abs(their_value),
            }
        )
    stream_time, _ = timed(lambda: Moments().update(many_a).compute(), 1)
    result = {
        "dim": args.dim,
        "few": args.few,
        "cases": rows,
        "streamed_images_per_s": round(len(many_a) / stream_time),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }
    if args.json:
        print(json.dumps(result, indent=2))
        return
    for row in rows:
        print(
            "{case:45s} {ours_s:8.3f} s  SciPy {scipy_s:8.3f} s  {ratio:6.1f}x  {relative_difference:.1e}".format(**row)
        )
    print(f"streaming moments: {result['streamed_images_per_s']} images/s")


if __name__ == "__main__":
    main()
