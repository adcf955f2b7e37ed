"""Speed of judge `efflite0`: images a second and core at the size it sees, for several sizes of a pass in one run.

    OMP_NUM_THREADS=1 python benchmarks/efflite0.py [--images 256] [--rounds 5] [--at-once 3,4,5,6,8,10,16]

Pictures of 256 x 256 need no resize; those of 32 x 32 are enlarged first. Batches of 50, as in an evaluation. The best
of several rounds counts, as other work on the machine can only slow it down; rounds of the sizes alternate.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np
import torch

from diffusionbench.judges.efflite0 import EfficientNetLite0


def rate(judge: EfficientNetLite0, images: np.ndarray) -> tuple[float, float]:
    """Return images a second of the clock and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    for start in range(0, len(images), 50):
        judge(images[start : start + 50])
    return len(images) / (time.perf_counter() - wall), len(images) / (time.process_time() - processor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--at-once", default=str(EfficientNetLite0.at_once), help="images in one pass, by commas")
    options = parser.parse_args()
    sizes = [int(size) for size in options.at_once.split(",")]
    judge = EfficientNetLite0()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{torch.get_num_threads()} threads, load average {load} at the start; shipped: {judge.at_once} at once")
    print("| pictures | at once | images a second | images a processor second |\n|---|---|---|---|")
    for side in (256, 32):
        images = np.random.default_rng(0).integers(0, 256, (options.images, side, side, 3), dtype=np.uint8)
        judge(images[:50])
        best = dict.fromkeys(sizes, (0.0, 0.0))
        for _ in range(options.rounds):
            for size in sizes:
                EfficientNetLite0.at_once = size
                wall, processor = rate(judge, images)
                best[size] = max(best[size][0], wall), max(best[size][1], processor)
        for size, (wall, processor) in best.items():
            print(f"| {side} x {side} | {size} | {wall:.1f} | {processor:.1f} |", flush=True)


if __name__ == "__main__":
    main()
