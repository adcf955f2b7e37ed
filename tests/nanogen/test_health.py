"""What a log line says of the pace of a run."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch
from tiny import pair, tiny

from nanogen import calibration, outputs
from nanogen.calibration import Rates
from nanogen.plan import DEVICES, peak
from nanogen.resolve import resolve
from nanogen.steptimes import StepTimes
from nanogen.train import train

PARTS = {"data", "encode", "forward", "backward", "optimizer", "ema"}


def lines(run) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_line_tells_the_parts_of_its_steps(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(outputs, "known_peak", lambda device, precision: 1e9)
    composed = tiny(4, "log.every=2 steps")
    train(composed, tmp_path / "run", "cpu", [])
    found = lines(tmp_path / "run")
    assert {key.removeprefix("time/") for key in found[0] if key.startswith("time/")} == PARTS
    for line in found:
        assert all(line[f"time/{part}"] >= 0 for part in PARTS)
        flops = 3 * resolve(composed.config).shape.forward_flops(0)
        assert line["model_flops_utilisation"] == pytest.approx(line["images_per_second"] * flops / 1e9)
    # The parts of a step are at most its time.
    assert sum(found[1][f"time/{part}"] for part in PARTS) <= 1e3 * 8 / found[1]["images_per_second"] * 1.01


def test_times_are_the_mean_over_the_steps_since_the_last_line():
    times = StepTimes(torch.device("cpu"))
    assert times.read() == {}
    times.restart()
    for _ in range(2):
        time.sleep(0.02)
        times("forward")
        times("ema")
    found = times.read()
    assert 0.02 <= found["forward"] < 0.5
    assert found["ema"] < found["forward"]
    assert times.read() == {}
    time.sleep(0.05)
    times.restart()
    times("forward")
    times("ema")
    assert times.read()["forward"] < 0.04


def test_a_peak_is_that_of_the_data_sheet_or_of_the_calibration(tmp_path, monkeypatch):
    assert peak("NVIDIA H200", "bfloat16") == DEVICES["h200"].peak
    assert peak("NVIDIA H200", "float32") is None
    assert peak("a card", "bfloat16") is None
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path))
    assert outputs.known_peak("cpu", "float32") is None
    rates = {"kind": "cpu", "precision": "float32", "compile": False, "threads": 1, "per_flop": 1e-11}
    others = {"per_byte": 0, "per_parameter": 0, "per_step": 0, "error": 0, "memory": 1}
    calibration.keep(Rates(device="x", date="2026-12-01", commit=None, **rates, **others))
    assert outputs.known_peak("cpu", "float32") == pytest.approx(torch.get_num_threads() * 1e11)
    assert outputs.known_peak("cpu", "bfloat16") is None


SLOW = """
import sys, time
from pathlib import Path
from nanogen import parallel, train as training
from tiny import tiny
real = training.latents_of
def slow(batch, components):
    time.sleep(parallel.rank() == 1)
    return real(batch, components)
training.latents_of = slow
with parallel.processes() as device:
    training.train(tiny(4, "log.every=2 steps"), Path(sys.argv[1]), device, [])
"""


def test_the_slowest_process_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}")
    for done in pair(SLOW, tmp_path / "run"):
        assert done.returncode == 0, done.stderr
    found = lines(tmp_path / "run")
    assert [line["slowest_rank"] for line in found] == [1, 1]
    assert all(1 < line["slowest_to_mean"] <= 2 for line in found)
