"""Runs small enough for a test: a network of a few thousand weights on the embedded digits."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from nanogen.config import ComposedConfig, compose
from nanogen.model.shape import Shape

MODEL = [
    "model.encoder_depth=1",
    "model.encoder_hidden_size=16",
    "model.encoder_num_heads=2",
    "model.decoder_depth=1",
    "model.decoder_hidden_size=24",
    "model.decoder_num_heads=2",
    "model.num_class_tokens=2",
]
QUIET = [
    "train.precision=float32",
    "eval.metrics=[]",
    "sample.every=never",
    "sample.num=2",
    "sampler.num_steps=2",
    "log.every=1 steps",
]


def paper_shape(latent_shape: tuple[int, int, int], patch_size: int, **numbers: Any) -> Shape:
    """The network of the paper on some latent, for 1000 classes, but for some numbers."""
    return Shape(
        **{
            "latent_shape": latent_shape,
            "patch_size": patch_size,
            "encoder_depth": 28,
            "encoder_hidden_size": 1152,
            "encoder_num_heads": 16,
            "decoder_depth": 2,
            "decoder_hidden_size": 2048,
            "decoder_num_heads": 16,
            "num_times": 1,
            "num_time_tokens": 4,
            "num_classes": 1000,
            "num_class_tokens": 8,
            "text_width": None,
            **numbers,
        }
    )


def words(steps: int, *more: str) -> list[str]:
    """Overrides of a tiny run."""
    return [*MODEL, *QUIET, "train.batch_size=8", f"train.duration={steps} steps", "optim.warmup=0 steps", *more]


def tiny(steps: int, *more: str) -> ComposedConfig:
    return compose("digits", overrides=words(steps, *more))


def command(run: Path, *overrides: str) -> list[str]:
    return [sys.executable, "-m", "nanogen", "train", "--task", "digits", "--run-dir", str(run), *overrides]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def execute(arguments: list[str], code: int = 0) -> str:
    """Run a command to its end; gives its stderr."""
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment(), timeout=240)
    assert done.returncode == code, done.stderr
    return done.stderr


def losses(run: Path) -> list[float]:
    lines = (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines())
    return [line["loss/flow"] for line in lines if "loss/flow" in line]


def pair(script: str, *arguments: object) -> list[subprocess.CompletedProcess[str]]:
    """Run a script in two processes of one group."""
    return group(2, script, *arguments)


def group(number: int, script: str, *arguments: object, machines: int = 1) -> list[subprocess.CompletedProcess[str]]:
    """Run a script in some processes of one group, on what they take for several machines."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    world = environment() | {"WORLD_SIZE": str(number), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    world["LOCAL_WORLD_SIZE"] = str(number // machines)
    started = [
        subprocess.Popen(
            [sys.executable, "-c", script, *map(str, arguments)],
            env=world | {"RANK": str(rank), "LOCAL_RANK": str(rank % (number // machines))},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(number)
    ]
    ended = [(one, *one.communicate(timeout=280)) for one in started]
    return [subprocess.CompletedProcess(one.args, one.returncode, out, err) for one, out, err in ended]
