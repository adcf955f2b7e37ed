"""Times the real training loop, part by part; on synthetic data where none is at hand."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from itertools import islice
from typing import Any

import torch
from torch import nn

from diffusionbench import provenance
from nanogen import parallel, precision
from nanogen.build import Components, build_components
from nanogen.config import Config
from nanogen.data.order import batches
from nanogen.synthetic import synthetic_batches, synthetic_components
from nanogen.train import build, flow_updates, open_data, training_source

# Dense bfloat16 peak in FLOP/s, from the makers' data sheets; no figure is made up for other devices.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}


class Clock:
    """Adds up the time between marks; waits for the device at each, which a training run never does."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")
        self.seconds: dict[str, float] = defaultdict(float)
        self.restart()

    def restart(self) -> None:
        """Forget what was measured."""
        self.seconds.clear()
        self._last = self._now()

    def __call__(self, part: str) -> None:
        now = self._now()
        self.seconds[part] += now - self._last
        self._last = now

    def _now(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


def bench(config: Config, synthetic: bool, steps: int, warmup: int, num_text_tokens: int = 64) -> dict[str, Any]:
    """Run some steps of `nanogen.train.updates` and say where their time goes.

    Args:
        synthetic: random images of the right size; a latent space without weights gives noise of its shape.
        steps, warmup: timed steps, and steps before them (compilation, caches).
        num_text_tokens: length of synthetic captions.

    Returns:
        Plain data: images per second, seconds and share by part, model FLOPs (forward and backward, 3 forward
        passes), share of the peak where it is known, peak memory, and everything that says what was measured.

    Raises:
        UserError: if the data is missing (without `synthetic`) or the config is impossible.
    """
    with parallel.processes() as device:
        chosen = precision.choose(config.train.precision, device)
        if synthetic:
            components = synthetic_components(config, device, chosen, num_text_tokens)
            num_images = config.train.batch_size
            loader = synthetic_batches(config)
        else:
            data, config = open_data(config)
            components, num_images = build_components(config, device, chosen), len(data)
            loader = batches(
                training_source(data, config, components),
                seed=config.seed,
                batch_size=config.train.batch_size,
                rank=parallel.rank(),
                world=parallel.world_size(),
                accumulation=config.train.accumulation,
                workers=config.data.workers,
            )
        state = build(config, components, num_images)
        lengths: list[int] = []
        net: Any = state.module.net
        net.condition.register_forward_hook(lambda net, given, out: lengths.append(out[0].shape[1]))
        clock = Clock(device)
        loop = flow_updates(state, components, config, loader, warmup + steps, clock)
        for _ in islice(loop, warmup):
            pass
        clock.restart()
        lengths.clear()
        for _ in loop:
            pass
        text = None if components.derived.shape.text_width is None else sum(lengths) / len(lengths)
        return _summary(config, components, net, clock, steps, text)


def _summary(
    config: Config, components: Components, net: nn.Module, clock: Clock, steps: int, text: float | None
) -> dict[str, Any]:
    device = components.device
    seconds = sum(clock.seconds.values())
    images = steps * config.train.batch_size
    flops = 3 * components.derived.shape.forward_flops(round(text or 0))
    achieved = flops * images / seconds / parallel.world_size()
    peak = None
    if device.startswith("cuda") and components.precision == "bfloat16":
        name = torch.cuda.get_device_name(device)
        peak = next((value for key, value in PEAKS.items() if key in name), None)
    # Linux counts resident memory in KiB, macOS in bytes.
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "images_per_second": images / seconds,
        "seconds_per_step": seconds / steps,
        "parts_ms": {part: 1e3 * value / steps for part, value in clock.seconds.items()},
        "parts_share": {part: value / seconds for part, value in clock.seconds.items()},
        "model_gflops_per_image": flops / 1e9,
        "model_tflops_per_second": achieved / 1e12,
        "share_of_peak": None if peak is None else achieved / peak,
        "peak_memory_bytes": torch.cuda.max_memory_allocated() if device.startswith("cuda") else resident,
        "text_tokens": text,
        "parameters": sum(weight.numel() for weight in net.parameters()),
        "batch_size": config.train.batch_size,
        "accumulation": config.train.accumulation,
        "steps": steps,
        "precision": components.precision,
        "compile": config.train.compile,
        "processes": parallel.world_size(),
        "threads": torch.get_num_threads(),
        "hardware": provenance.hardware(device),
        "packages": provenance.packages(),
        "config_hash": config.hash,
    }
