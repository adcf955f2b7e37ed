"""The benchmark of objectives trains each kind of step, in turns, and the derivative costs more than one time."""

import importlib.util
from pathlib import Path

from tiny import MODEL


def test_each_kind_of_step_is_timed():
    path = Path(__file__).parents[2] / "benchmarks" / "objectives.py"
    spec = importlib.util.spec_from_file_location("objectives_benchmark", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    found = benchmark.measure((*MODEL, "model.encoder_depth=2"), steps=1, rounds=1, batch=2)
    assert list(found) == list(benchmark.STEPS)
    assert found["meanflow, derivative"] > found["meanflow, one time"] > 0
