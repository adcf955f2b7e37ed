"""A training step of each objective against that of plain velocity prediction, on the same network and batch.

    python benchmarks/objectives.py [--steps 3] [--rounds 5] [--batch 16] [--out FILE]

All run `nanogen.train.updates` in turns. What counts is the processor time of this process, which other work on the
machine changes little; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from datetime import UTC, datetime
from pathlib import Path

import torch

from nanogen.build import build_components
from nanogen.config import compose
from nanogen.data.order import batches
from nanogen.train import build, flow_updates, open_data

# 64 tokens; small as at laptop scale, and wide enough that products of matrices decide.
SIZES = {
    "3x128 + 2x128": (),
    "6x384 + 2x512": (
        *("model.encoder_depth=6", "model.encoder_hidden_size=384", "model.encoder_num_heads=6"),
        *("model.decoder_hidden_size=512", "model.decoder_num_heads=8"),
    ),
}
MEAN = ("objective.name=meanflow", "guidance.scale=1", "sampler.num_steps=1")
STEPS = {
    "flow": (),
    "flow, early output": ("objective.early_depth=2",),
    "meanflow, one time": (*MEAN, "objective.fm_ratio=1"),
    "meanflow, one time, kappa 0.5": (*MEAN, "objective.fm_ratio=1", "objective.kappa=0.5"),
    "meanflow, derivative": (*MEAN, "objective.fm_ratio=0"),
    "meanflow, derivative, kappa 0.5": (*MEAN, "objective.fm_ratio=0", "objective.kappa=0.5"),
}


def measure(size: tuple[str, ...], steps: int, rounds: int, batch: int) -> dict[str, float]:
    """Return the median processor time of a step in seconds, by what it is."""
    loops = {}
    for name, overrides in STEPS.items():
        shape = ("data.image_size=32", "model.pixel_grid=8", "data.workers=0", f"train.batch_size={batch}")
        data, config = open_data(compose("digits", "pixel-v", overrides=[*shape, *size, *overrides]).config)
        parts = build_components(config, "cpu", "float32")
        loader = batches(data, seed=config.seed, batch_size=batch)
        loops[name] = flow_updates(build(config, parts, len(data)), parts, config, loader, 10**6)
    seconds: dict[str, list[float]] = {name: [] for name in STEPS}
    for turn in range(rounds + 1):
        for name, loop in loops.items():
            start = time.process_time()
            for _ in range(steps):
                next(loop)
            if turn:  # The first turn warms up.
                seconds[name].append((time.process_time() - start) / steps)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {size: measure(words, options.steps, options.rounds, options.batch) for size, words in SIZES.items()}
    lines = [f"| step | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    for name in STEPS:
        cells = (f"{1e3 * times[name]:.0f} ms, {times[name] / times['flow']:.2f}x" for times in found.values())
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append(
        f"\nTime by size of the network, and in flow steps. 64 tokens, batch {options.batch}, float32, 1 thread, "
        f"median of {options.rounds} turns of {options.steps} steps; {os.cpu_count()} cores, {platform.machine()}, "
        f"torch {torch.__version__}, {datetime.now(UTC):%Y-%m-%d}."
    )
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
