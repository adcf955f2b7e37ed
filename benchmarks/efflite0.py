"""Speed of judge `efflite0`: images a second and core at the size it sees.

    OMP_NUM_THREADS=1 python benchmarks/efflite0.py [--images 256] [--rounds 5]

Pictures of 256 x 256 need no resize; those of 32 x 32 are enlarged first. Batches of 50, as in an evaluation. The best
of several rounds counts, in processor time, as other work on the machine can only slow it down.
"""

from __future__ import annotations

import argparse
import os
import time

import numpy as np
import torch

from diffusionbench.judges.efflite0 import EfficientNetLite0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    judge = EfficientNetLite0()
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"{torch.get_num_threads()} threads, load average {load} at the start")
    for side in (256, 32):
        images = np.random.default_rng(0).integers(0, 256, (options.images, side, side, 3), dtype=np.uint8)
        judge(images[:50])
        walls, processors = [], []
        for _ in range(options.rounds):
            wall, processor = time.perf_counter(), time.process_time()
            for start in range(0, len(images), 50):
                judge(images[start : start + 50])
            walls.append(time.perf_counter() - wall)
            processors.append(time.process_time() - processor)
        rates = [len(images) / min(seconds) for seconds in (walls, processors)]
        print(f"| {side} x {side} | {rates[0]:.1f} | {rates[1]:.1f} |")


if __name__ == "__main__":
    main()
