"""Computing time of a training step of methods against that of the first, taken in turns: one process, one thread.

    python benchmarks/methods.py pixel-v pixel-x jit pixnerd repa-efflite0
    python benchmarks/methods.py toy-ae toy-meanflow,objective.fm_ratio=0     # a method with settings

Processor time, so that other work on the machine counts little. Steps are those of `nanogen train --task digits`, their
data included; images are encoded in each step where a row's extra losses look at them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence

import torch

from nanogen.build import build_components
from nanogen.config import compose
from nanogen.data.order import batches
from nanogen.train import build, flow_updates, open_data, training_source


def step_times(method: str, steps: int, precision: str) -> Iterator[float]:
    """Give the processor seconds of each training step but the first, which warms up."""
    name, *overrides = method.split(",")
    composed = compose("digits", name, overrides=["data.workers=0", f"train.precision={precision}", *overrides])
    data, config = open_data(composed.config)
    components = build_components(config, "cpu", precision)
    state = build(config, components, len(data))
    source = training_source(data, config, components)
    loader = batches(
        source, seed=config.seed, batch_size=config.train.batch_size, first_step=0, rank=0, world=1, workers=0
    )
    updates = flow_updates(state, components, config, loader, steps + 1)
    next(updates)
    for _ in range(steps):
        start = time.process_time()
        next(updates)
        yield time.process_time() - start


def main(arguments: Sequence[str] | None = None) -> int:
    """Print milliseconds and ratio of each method; medians, and means for those whose steps differ in kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="+")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precision", default="float32")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    running = {method: step_times(method, asked.steps, asked.precision) for method in asked.methods}
    times: dict[str, list[float]] = {method: [] for method in running}
    for _ in range(asked.steps):
        for method, steps in running.items():
            times[method].append(next(steps))
    base = times[asked.methods[0]]
    print("| method | median ms | against the first | mean | against the first |\n|---|---|---|---|---|")
    for method, taken in times.items():
        cells = []
        for of in (statistics.median, statistics.fmean):
            cells += [f"{1e3 * of(taken):.1f}", f"{of(taken) / of(base):.3f}"]
        print(f"| {method} | {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
