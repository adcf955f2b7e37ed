"""The benchmark of methods trains what it names, in turns, and compares with the first."""

import importlib.util
from pathlib import Path

import torch


def test_methods_are_timed_in_turns_against_the_first(capsys, monkeypatch):
    path = Path(__file__).parents[2] / "benchmarks" / "methods.py"
    spec = importlib.util.spec_from_file_location("methods_benchmark", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    threads = torch.get_num_threads()
    turns = []
    monkeypatch.setattr(
        benchmark,
        "step_times",
        lambda name, steps, precision: (turns.append((name, precision)) or 0.1 * len(turns) for _ in range(steps)),
    )
    assert benchmark.main(["pixel-v", "jit", "--steps", "2", "--precision", "bfloat16"]) == 0
    torch.set_num_threads(threads)
    assert turns == [("pixel-v", "bfloat16"), ("jit", "bfloat16")] * 2
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "| pixel-v | 200.0 | 1.000 | 200.0 | 1.000 |",
        "| jit | 300.0 | 1.500 | 300.0 | 1.500 |",
    ]
