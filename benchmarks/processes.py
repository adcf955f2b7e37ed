"""Several processes, micro-batches, saving and restarting, each against its plain form in the same run.

Usage (each prints one JSON object):
    python benchmarks/processes.py scaling [--seconds 60]
    python benchmarks/processes.py accumulation
    python benchmarks/processes.py saving        # of an earlier version: PYTHONPATH=ITS/src
    python benchmarks/processes.py restart
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from nanogen import checkpoint, parallel
from nanogen.build import build_components
from nanogen.config import compose
from nanogen.data.order import batches
from nanogen.log import read
from nanogen.state import TrainState
from nanogen.train import build, flow_updates, open_data

# About 7 million parameters on 64 tokens: products decide.
COMPUTE = [
    *("model.encoder_depth=8", "model.encoder_hidden_size=256", "model.encoder_num_heads=4"),
    *("data.image_size=16", "model.pixel_grid=8", "train.batch_size=32", "train.precision=float32", "eval.metrics=[]"),
    *("sample.every=never", "sample.num=1", "log.every=1 steps", "train.checkpoint_every=1M steps"),
]
# About 47 million.
LARGE = [
    *("model.encoder_depth=12", "model.encoder_hidden_size=512", "model.encoder_num_heads=8"),
    *("model.decoder_depth=1", "model.decoder_hidden_size=512", "model.decoder_num_heads=8"),
]


def state_of(*overrides: str) -> tuple[TrainState, object, object, object]:
    data, config = open_data(compose("digits", overrides=overrides).config)
    components = build_components(config, "cpu", "float32")
    return build(config, components, len(data)), components, config, data


def started(processes: int, folder: Path, *overrides: str) -> float:
    """Seconds of a training in some processes of one thread, from its start to its end."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *launcher, "-m", "nanogen", "train", "--task", "digits", "--run-dir", str(folder)]
    begun = time.perf_counter()
    subprocess.run([*command, *overrides], check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return time.perf_counter() - begun


def rate(folder: Path) -> float:
    """Images a second over all steps but the first three."""
    lines = [line for line in read(folder / "metrics.jsonl") if "images_per_second" in line]
    return 32 * (len(lines) - 3) / (lines[-1]["time"] - lines[2]["time"])


def scaling(seconds: float) -> dict[str, float]:
    """One and two processes in turn, so that both meet the same machine."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as place:
        started(1, Path(place, "trial"), *COMPUTE, "train.duration=12 steps")
        steps = max(12, round(seconds * rate(Path(place, "trial")) / 32 / 2))
        for turn in range(2):
            for number in rates:
                folder = Path(place, f"{turn}-{number}")
                started(number, folder, *COMPUTE, f"train.duration={steps} steps")
                rates[number].append(rate(folder))
    one, two = (sum(found) / len(found) for found in rates.values())
    return {"one": one, "two": two, "ratio": two / one, "steps": steps}


def accumulation() -> dict[str, float]:
    """Computing time of a step in one and in four micro-batches, in turns."""
    loops = {}
    for number in (1, 4):
        state, components, config, data = state_of(*COMPUTE, f"train.accumulation={number}")
        loader = batches(data, seed=0, batch_size=32, accumulation=number)
        loops[number] = flow_updates(state, components, config, loader, 10**6)
    seconds: dict[int, list[float]] = {1: [], 4: []}
    for turn in range(14):
        for number, loop in loops.items():
            begun = time.process_time()
            next(loop)
            if turn > 1:
                seconds[number].append(time.process_time() - begun)
    one, four = (sorted(found)[len(found) // 2] for found in seconds.values())
    return {"whole": one, "parts": four, "overhead": four / one - 1}


def saving() -> dict[str, float]:
    """Seconds for which saving holds up the training, and until the checkpoint is on the disk."""
    state, *_ = state_of(*LARGE)
    for weight in state.updater.parameters:
        weight.grad = torch.ones_like(weight)
    state.updater.step(0, 1e-4, {})
    blocked, whole = [], []
    with tempfile.TemporaryDirectory(dir=".") as place:
        saver = checkpoint.Saver(Path(place), {}, 2) if hasattr(checkpoint, "Saver") else None
        for step in range(1, 6):
            state.step, begun = step, time.perf_counter()
            if saver is None:
                checkpoint.save(Path(place), state, {}, 2)
            else:
                saver.save(state)
            blocked.append(time.perf_counter() - begun)
            if saver is not None:
                saver.wait()
            whole.append(time.perf_counter() - begun)
    count = sum(weight.numel() for weight in state.updater.parameters)
    return {"parameters": count, "blocked": sorted(blocked)[2], "whole": sorted(whole)[2]}


def restart() -> dict[str, float]:
    """Seconds to verify and to load a checkpoint, in one process."""
    state, *_ = state_of(*LARGE)
    for weight in state.updater.parameters:
        weight.grad = torch.ones_like(weight)
    state.updater.step(0, 1e-4, {})
    state.step = 1
    found = {}
    with tempfile.TemporaryDirectory(dir=".") as place:
        saver = checkpoint.Saver(Path(place), {}, 2)
        saver.save(state)
        saver.wait()
        for name, only in (("verified", False), ("weights_alone", True)):
            begun = time.perf_counter()
            newest, _ = checkpoint.newest(Path(place), weights_only=only)
            found[name] = time.perf_counter() - begun
        begun = time.perf_counter()
        checkpoint.restore(newest, state)
        found["loaded"] = time.perf_counter() - begun
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["scaling", "accumulation", "saving", "restart"])
    parser.add_argument("--seconds", type=float, default=60.0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    assert parallel.world_size() == 1
    made = scaling(arguments.seconds) if arguments.what == "scaling" else globals()[arguments.what]()
    print(json.dumps({**made, "load": os.getloadavg()[0]}))
