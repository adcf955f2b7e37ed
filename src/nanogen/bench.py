"""Times the real training loop, part by part; on synthetic data where none is at hand."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import date
from itertools import islice
from typing import Any, Final

import torch
from torch import nn

from diffusionbench import provenance
from nanogen import calibration, costs, parallel, precision
from nanogen.build import Components, build_components
from nanogen.config import Config, compose
from nanogen.data import Batch
from nanogen.data.ahead import prepared_ahead
from nanogen.log import say
from nanogen.plan import peak
from nanogen.resolve import resolve
from nanogen.state import TrainState
from nanogen.steptimes import StepTimes
from nanogen.synthetic import synthetic_batches, synthetic_components
from nanogen.train import build, condition_ahead, flow_updates, micro_batches, open_data, training_source

# What `calibrate` runs: task, scale, images of a step on a CPU, settings. Narrow and wide, few tokens and many.
_CASES: Final[tuple[tuple[str, str, int, list[str]], ...]] = (
    ("digits", "laptop", 64, []),
    ("digits", "laptop", 8, []),
    ("shapes", "laptop", 16, []),
    ("imagenet256", "laptop", 16, []),
    ("imagenet256", "single-gpu", 2, []),
    ("imagenet256", "paper", 2, ["model.encoder_depth=2", "model.decoder_depth=1"]),
)
# A GPU is filled by more images.
_MORE_ON_CUDA: Final = 32


class Kept:
    """Counts the bytes of distinct tensors that are kept for a backward pass while it is held, weights aside."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.restart()
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._keep, lambda kept: kept)

    def restart(self) -> None:
        """Forget what was counted: memory of a backward pass that is over is used again."""
        self._sizes: dict[int, int] = {weight.untyped_storage().data_ptr(): 0 for weight in self._module.parameters()}

    def _keep(self, tensor: torch.Tensor) -> torch.Tensor:
        # Forward mode keeps zero derivatives as tensors that have a shape and no memory.
        if not tensor._is_zerotensor():
            storage = tensor.untyped_storage()
            self._sizes.setdefault(storage.data_ptr(), storage.nbytes())
        return tensor

    def __enter__(self) -> Kept:
        self._hooks.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._hooks.__exit__(*exception)

    @property
    def num_bytes(self) -> int:
        return sum(self._sizes.values())


def bench(config: Config, synthetic: bool, steps: int, warmup: int, num_text_tokens: int = 64) -> dict[str, Any]:
    """Run some steps of `nanogen.train.updates` and say how fast they are, and where time and memory go.

    Args:
        synthetic: random images of the right size; a latent space without weights gives noise of its shape.
        steps, warmup: timed steps, and steps before them (compilation, caches).
        num_text_tokens: length of synthetic captions.

    Returns:
        Plain data: images per second; milliseconds and share by part, of further steps; model operations, share of the
        peak where it is known; bytes by part, peak memory, and what was measured.

    Raises:
        UserError: if the data is missing (without `synthetic`) or the config is impossible.
    """
    with parallel.processes() as device:
        components, loader, config, num_images = _prepare(config, device, synthetic, num_text_tokens)
        state = build(config, components, num_images)
        lengths: list[int] = []
        net: Any = state.module.net
        net.condition.register_forward_hook(lambda net, given, out: lengths.append(out[0].shape[1]))
        times, kept, marked = StepTimes(state.device), Kept(state.module), max(1, steps // 4)

        def mark(part: str) -> None:
            times(part)
            if part == "data":
                kept.restart()

        loader = prepared_ahead(loader, state.device, condition_ahead(components, config, mark))
        loop = flow_updates(state, components, config, loader, warmup + steps + marked + 1, mark)
        _make(loop, warmup)
        lengths.clear()
        began = _now(device)
        _make(loop, steps)
        seconds = _now(device) - began
        times.restart()
        times.read()
        _make(loop, marked)
        parts = times.read()
        with kept:
            _make(loop, 1)
        text = None if components.derived.shape.text_width is None else sum(lengths) / len(lengths)
        return {
            **_speed(config, components, seconds / steps, text),
            "parts_ms": {part: 1e3 * value for part, value in parts.items()},
            "parts_share": {part: value / sum(parts.values()) for part, value in parts.items()},
            "memory_bytes": _memory(state, kept.num_bytes),
            "peak_memory_bytes": _peak_memory(device),
            "text_tokens": text,
            "parameters": sum(weight.numel() for weight in net.parameters()),
            "steps": steps,
            **_circumstances(config, components, device),
        }


def _circumstances(config: Config, components: Components, device: str) -> dict[str, Any]:
    """Return what a speed depends on, beside the network."""
    return {
        "batch_size": config.train.batch_size,
        "accumulation": config.train.accumulation,
        "precision": components.precision,
        "compile": config.train.compile,
        "processes": parallel.world_size(),
        "threads": torch.get_num_threads(),
        "hardware": provenance.hardware(device),
        "packages": provenance.packages(),
        "config_hash": config.hash,
    }


def _make(loop: Iterator[Any], steps: int) -> None:
    for _ in islice(loop, steps):
        pass


def _now(device: str) -> float:
    """Return the time in seconds at which the device has finished what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


def _prepare(
    config: Config, device: str, synthetic: bool, num_text_tokens: int
) -> tuple[Components, Iterator[Batch], Config, int]:
    """Return what `bench` runs: components, micro-batches, the config with what the data says, images in the data."""
    chosen = precision.choose(config.train.precision, device)
    if synthetic:
        components = synthetic_components(config, device, chosen, num_text_tokens)
        return components, synthetic_batches(config), config, config.train.batch_size
    data, config = open_data(config)
    components = build_components(config, device, chosen)
    return components, micro_batches(training_source(data, config, components), config), config, len(data)


def _speed(config: Config, components: Components, seconds: float, text: float | None) -> dict[str, float | None]:
    """Return the speed of steps of so many seconds, in images and in model operations."""
    flops = costs.training_flops(config, components.derived.shape, text or 0)
    achieved = flops * config.train.batch_size / seconds / parallel.world_size()
    name = torch.cuda.get_device_name(components.device) if components.device.startswith("cuda") else ""
    most = peak(name, components.precision)
    return {
        "images_per_second": config.train.batch_size / seconds,
        "seconds_per_step": seconds,
        "model_gflops_per_image": flops / 1e9,
        "model_tflops_per_second": achieved / 1e12,
        "share_of_peak": None if most is None else achieved / most,
    }


def _memory(state: TrainState, kept: int) -> dict[str, int]:
    """Return bytes of this process by part, as `nanogen.costs.Memory` names them; copies of weights are `kept` too."""

    def size(tensors: Iterable[Any]) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    moments = (value for one in state.updater.optimizers for held in one.state.values() for value in held.values())
    weights = size(state.module.parameters())
    return {
        "weights": weights,
        "gradients": size(weight for weight in state.module.parameters() if weight.requires_grad),
        "optimizer": size(value for value in moments if isinstance(value, torch.Tensor)),
        "ema": size(weight for weight in state.ema.module.parameters() if weight.dtype == torch.float32),
        "activations": kept,
    }


def _peak_memory(device: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    # Linux counts resident memory in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def calibrate(asked: Config, steps: int = 5) -> calibration.Rates:
    """Measure this machine: steps of networks of several sizes, from which `nanogen.plan` knows the speed of others.

    Args:
        asked: its precision and whether it compiles.
        steps: timed in each case.
    """
    more = _MORE_ON_CUDA if torch.cuda.is_available() else 1
    settings = [f"train.precision={asked.train.precision}", f"train.compile={json.dumps(asked.train.compile)}"]
    measured: list[tuple[float, float, float, float]] = []
    for task, scale, images, changes in _CASES:
        words = [*settings, f"train.batch_size={images * more}", *changes]
        config = compose(task, None, scale, overrides=words).config
        found = bench(config, True, steps, warmup=2)
        kind = costs.kind(found["precision"], "cuda" if more > 1 else "cpu")
        shape, text = resolve(config).shape, round(found["text_tokens"] or 0)
        flops = costs.training_flops(config, shape, text)
        kept = costs.activation_bytes(shape, kind, text)
        size, seconds = config.train.batch_size, found["seconds_per_step"]
        say(f"{task} at {scale}, batch {size}: {size / seconds:.4g} images/s")
        measured.append((size * flops, size * kept, found["parameters"], seconds))
    (per_flop, per_byte, update, step), error = calibration.fit(measured)
    cuda = torch.cuda.get_device_properties(0) if more > 1 else None
    return calibration.Rates(
        device=found["hardware"],
        kind="cpu" if cuda is None else "cuda",
        precision=found["precision"],
        compile=asked.train.compile,
        threads=found["threads"],
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if cuda is None else cuda.total_memory,
        date=date.today().isoformat(),
        commit=provenance.commit()[0],
        per_flop=per_flop,
        per_byte=per_byte,
        per_parameter=update,
        per_step=step,
        error=error,
    )
