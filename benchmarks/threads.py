"""Time training steps by threads and by how long OpenMP's threads wait awake.

    python benchmarks/threads.py [--task shapes] [--competitors 2] [--steps 3] [--rounds 5] [--realtime]

Each setting is a process of its own, as OpenMP reads it once. They take turns, so that all meet the same machine; the
median over the rounds counts. `--competitors` busy loops run beside them. `--realtime` (root, Linux) lets all other
work wait while a step is timed, which comes close to an idle machine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack

SETTINGS = {
    "1 thread": {"OMP_NUM_THREADS": "1"},
    "all, active (default)": {},
    "all, passive": {"OMP_WAIT_POLICY": "passive"},
    "all, 2,000 spins (ours)": {"GOMP_SPINCOUNT": "2000"},
}


def serve(task: str, steps: int, realtime: bool) -> None:
    """Build the task's training; for each line of stdin make some steps and print the seconds of one."""
    import torch

    from nanogen.config import compose
    from nanogen.synthetic import synthetic_batches, synthetic_components
    from nanogen.train import build, flow_updates

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = compose(task).config
    if config.condition.num_classes == "auto":
        raise SystemExit(f"{task}: set condition.num_classes")
    components = synthetic_components(config, "cpu", "float32", 20)
    loop = flow_updates(build(config, components, 1000), components, config, synthetic_batches(config), 10**6)
    next(loop)
    if realtime:
        for thread in os.listdir("/proc/self/task"):
            os.sched_setscheduler(int(thread), os.SCHED_FIFO, os.sched_param(1))
    print("ready", flush=True)
    for _ in sys.stdin:
        begun = time.perf_counter()
        for _ in range(steps):
            next(loop)
        print((time.perf_counter() - begun) / steps, flush=True)


def measure(asked: argparse.Namespace) -> dict[str, list[float]]:
    """Return the seconds of a step by setting, one number a round."""
    words = [sys.executable, __file__, "--serve", "--task", asked.task, "--steps", str(asked.steps)]
    words += ["--realtime"] * asked.realtime
    free = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    with ExitStack() as held:
        servers = {}
        for name, change in SETTINGS.items():
            server = subprocess.Popen(
                words, env=free | change, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            held.callback(server.kill)
            servers[name] = server
        for server in servers.values():
            server.stdout.readline()
        for _ in range(asked.competitors):
            held.callback(subprocess.Popen([sys.executable, "-c", "while True: pass"]).kill)
        found: dict[str, list[float]] = {name: [] for name in servers}
        for _ in range(asked.rounds):
            for name, server in servers.items():
                server.stdin.write("\n")
                server.stdin.flush()
                found[name].append(float(server.stdout.readline()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="digits")
    parser.add_argument("--competitors", type=int, default=0)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--realtime", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve:
        serve(asked.task, asked.steps, asked.realtime)
        return
    print("| threads | ms a step | fastest | slowest |\n|---|---|---|---|")
    for name, seconds in measure(asked).items():
        low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
        print(f"| {name} | {1e3 * middle:.0f} | {1e3 * low:.0f} | {1e3 * high:.0f} |")


if __name__ == "__main__":
    main()
