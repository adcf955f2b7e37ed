"""The loop: what a run depends on and what it does not, and what happens when it is stopped, killed or fed nonsense."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import command, environment, execute, losses, tiny, words

from diffusionbench.errors import CheckpointError, ConfigError, RunError
from diffusionbench.judges.digits import DigitsJudge
from nanogen import checkpoint, log
from nanogen.ema import decay_at
from nanogen.objectives.flow import Flow
from nanogen.optim import NonFiniteLoss, Schedule
from nanogen.rng import PositionalNoise
from nanogen.train import build, flow_updates, open_data, train


def weights(run: Path) -> dict[str, torch.Tensor]:
    newest, _ = checkpoint.newest(run / "checkpoints")
    assert newest is not None
    return load_file(newest.weights)


def run_tiny(path: Path, steps: int, *more: str) -> dict[str, torch.Tensor]:
    train(tiny(steps, *more), path, "cpu", ["test"])
    return weights(path)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_run_learns_and_leaves_what_it_promises(tmp_path):
    run = tmp_path / "run"
    run_tiny(run, 40, "optim.lr=5e-3", "train.checkpoint_every=10 steps", "train.keep=2")
    curve = losses(run)
    assert len(curve) == 40
    assert sum(curve[-5:]) < 0.8 * sum(curve[:5])
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000030", "step-00000040"]
    assert (run / "samples" / "step-00000040.png").exists()
    facts = json.loads((run / "run.json").read_text())
    assert facts["precision"] == "float32"
    assert {"commit", "packages", "hardware", "config_hash", "data_digest"} <= facts.keys()


def test_evaluating_and_sampling_change_nothing(tmp_path):
    plain = run_tiny(tmp_path / "plain", 6)
    busy = run_tiny(
        tmp_path / "busy",
        6,
        "eval.metrics=[accuracy_digits]",
        "eval.every=2 steps",
        "eval.num_samples=12",
        "eval.batch_size=5",
        "sample.every=1 steps",
    )
    assert same(plain, busy)
    assert len(list((tmp_path / "busy" / "evals").glob("*.json"))) == 3


def test_a_judge_that_fails_its_self_test_stops_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(DigitsJudge, "self_test", lambda self: math.nan)
    with pytest.raises(RunError, match="judge 'digits' fails its self-test"):
        run_tiny(tmp_path / "run", 1, "eval.metrics=[accuracy_digits]", "eval.num_samples=4")
    assert not (tmp_path / "run").exists()


def test_the_seed_decides(tmp_path):
    first = run_tiny(tmp_path / "a", 3)
    assert same(first, run_tiny(tmp_path / "b", 3))
    assert not same(first, run_tiny(tmp_path / "c", 3, "seed=1"))


def test_accumulation_gives_the_same_losses(tmp_path):
    run_tiny(tmp_path / "whole", 5)
    run_tiny(tmp_path / "parts", 5, "train.accumulation=4")
    assert losses(tmp_path / "parts") == pytest.approx(losses(tmp_path / "whole"), rel=1e-5)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_give_the_losses_of_one(tmp_path, accumulation):
    overrides = words(5, f"train.accumulation={accumulation}", "train.precision=float32")
    train(tiny(5, "train.precision=float32"), tmp_path / "one", "cpu", ["test"])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]
    port = str(20_000 + os.getpid() % 20_000 + accumulation)
    counts = tmp_path / "reductions.json"
    counted = str(Path(__file__).with_name("counted.py"))
    execute([*torchrun, port, counted, str(counts), *command(tmp_path / "two", *overrides)[3:]])
    # The gradients of a step are reduced once, after its last micro-batch.
    assert json.loads(counts.read_text()) == 5 * [*[0] * (accumulation - 1), 1]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("wanted_kills", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_killed_at_any_moment_the_run_ends_with_the_same_weights(tmp_path, wanted_kills):
    """Kill -9 while a checkpoint is being written; more often, at random moments too."""
    more = ["train.checkpoint_every=3 steps", "sample.num=1"]
    overrides = words(40, *more)
    uninterrupted = tmp_path / "whole"
    run_tiny(uninterrupted, 40, *more)
    run, chance = tmp_path / "killed", random.Random(7)
    kills = in_checkpoint = 0
    while kills < wanted_kills:
        process = subprocess.Popen(command(run, *overrides), env=environment(), stderr=subprocess.DEVNULL)
        folder = run / "checkpoints"
        before = len(list(folder.glob("step-*"))) if folder.exists() else 0
        wanted = kills == wanted_kills // 2
        deadline = time.monotonic() + 200
        while process.poll() is None and time.monotonic() < deadline:
            writing = folder.exists() and any(folder.glob(".step-*.tmp"))
            newest = max((int(path.name[5:]) for path in folder.glob("step-*")), default=0) if folder.exists() else 0
            if (wanted and writing) or (not wanted and newest >= 10 * kills + chance.randrange(3, 9)):
                break
            time.sleep(0.0005)
        if process.poll() is None:
            in_checkpoint += any(folder.glob(".step-*.tmp"))
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
        assert kills or before == 0
    run_tiny(run, 40, *more)
    assert in_checkpoint >= 1
    assert same(weights(uninterrupted), weights(run))
    assert losses(run) == losses(uninterrupted)
    assert not list((run / "checkpoints").glob(".step-*"))


def test_a_truncated_newest_checkpoint_is_named_and_the_previous_one_used(tmp_path, capsys):
    run = tmp_path / "run"
    whole = run_tiny(run, 6, "train.checkpoint_every=2 steps")
    newest = run / "checkpoints" / "step-00000006"
    shard = next((newest / "state").glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:-100])
    capsys.readouterr()
    again = run_tiny(run, 6, "train.checkpoint_every=2 steps")
    said = capsys.readouterr().err
    assert "step-00000006 is damaged" in said
    assert "using step-00000004" in said
    assert same(whole, again)


def test_a_bit_flip_is_found(tmp_path):
    run = tmp_path / "run"
    run_tiny(run, 2)
    file = run / "checkpoints" / "step-00000002" / "ema.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    found, damaged = checkpoint.newest(run / "checkpoints")
    assert found is None
    assert "ema.safetensors has other content" in damaged[0]


def test_another_config_is_refused_and_the_keys_are_named(tmp_path):
    run_tiny(tmp_path / "run", 2)
    with pytest.raises(CheckpointError, match=r"optim\.lr: 0\.002 there, 0\.001 asked"):
        train(tiny(2, "optim.lr=1e-3"), tmp_path / "run", "cpu", ["test"])
    # What changes no weight may differ.
    train(tiny(2, "log.every=2 steps"), tmp_path / "run", "cpu", ["test"])


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(CheckpointError, match="exists and is not a run folder"):
        train(tiny(2), tmp_path, "cpu", ["test"])
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_a_full_disk_ends_in_a_sentence_and_keeps_older_checkpoints(tmp_path):
    """A limit on file size stands for the full disk: the second checkpoint cannot be written."""
    run = tmp_path / "run"
    overrides = words(4, "train.checkpoint_every=2 steps")
    run_tiny(run, 4, "train.checkpoint_every=2 steps")
    limited = "import resource,sys; resource.setrlimit(resource.RLIMIT_FSIZE,(40_000,40_000)); "
    limited += "from nanogen.cli import main; main()"
    other = tmp_path / "other"
    said = execute([sys.executable, "-c", limited, *command(other, *overrides)[3:]], code=2)
    assert "could not be written" in said
    assert "Traceback" not in said
    assert not list((other / "checkpoints").glob("*"))
    assert len(list((run / "checkpoints").glob("step-*"))) == 2


def prepared(*more: str):
    from nanogen.build import build_components
    from nanogen.data.order import batches

    data, config = open_data(tiny(3, *more).config)
    parts = build_components(config, "cpu", "float32")
    state = build(config, parts, len(data))
    return state, parts, config, batches(data, seed=0, batch_size=8)


@pytest.mark.parametrize("where", ["loss", "loss alone", "gradient"])
def test_non_finite_values_are_refused_before_any_update(where, monkeypatch):
    state, parts, config, loader = prepared()
    loop = flow_updates(state, parts, config, loader, 3)
    next(loop)
    before = {name: parameter.clone() for name, parameter in state.module.net.named_parameters()}
    if where == "loss":
        encode = parts.latent.encode
        parts.latent.encode = lambda images: encode(images) * float("nan")
        expected = r"^term 'flow' is nan at step 1 .*No update was made"
    elif where == "loss alone":
        # The gradient of a sum does not see the constant.
        flow = parts.objective.loss_at

        def infinite(self, *given):
            terms, made = flow(*given)
            return {"flow": terms["flow"] + math.inf}, made

        monkeypatch.setattr(type(parts.objective), "loss_at", infinite)
        expected = r"^term 'flow' is inf at step 1 "
    else:
        state.module.net.final.linear.weight.register_hook(lambda gradient: gradient * float("inf"))
        expected = r"^the norm of the gradient is not finite at step 1 "
    with pytest.raises(NonFiniteLoss, match=expected):
        next(loop)
    assert all(torch.equal(before[name], parameter) for name, parameter in state.module.net.named_parameters())
    state = state.updater.optimizers[0].state[state.module.net.final.linear.weight]
    assert state["step"].item() == 1


def test_skipping_non_finite_updates_counts_them():
    state, parts, config, loader = prepared("train.nonfinite=skip")
    handle = state.module.net.final.linear.weight.register_hook(lambda gradient: gradient * float("nan"))
    before = {name: parameter.clone() for name, parameter in state.module.net.named_parameters()}
    loop = flow_updates(state, parts, config, loader, 3)
    next(loop)
    assert all(torch.equal(before[name], parameter) for name, parameter in state.module.net.named_parameters())
    handle.remove()
    next(loop)
    assert state.updater.skipped.item() == 1
    assert not torch.equal(before["final.linear.weight"], state.module.net.final.linear.weight)


def test_the_count_of_skipped_updates_survives_a_restart(tmp_path, monkeypatch):
    asked = ["train.nonfinite=skip", "train.checkpoint_every=1 steps", "train.precision=float32"]
    flow, calls = Flow.loss_at, itertools.count()
    lost = {1, 2}

    def sometimes_lost(*given):
        terms, made = flow(*given)
        return {"flow": terms["flow"] * (math.nan if next(calls) in lost else 1.0)}, made

    with monkeypatch.context() as patch:
        patch.setattr(Flow, "loss_at", sometimes_lost)
        run_tiny(tmp_path / "run", 4, *asked)
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step-00000004")
    run_tiny(tmp_path / "run", 4, *asked)
    assert [line["skipped"] for line in log.read(tmp_path / "run" / "metrics.jsonl")] == [0, 1, 2, 2]


def test_every_parameter_gets_a_gradient():
    state, parts, config, loader = prepared()
    # At the start the output map is zero and hides the rest: move away from it first.
    for _ in flow_updates(state, parts, config, loader, 2):
        pass
    state.updater.optimizers[0].zero_grad()
    batch = next(loader)
    noise = PositionalNoise(0, batch.positions, step=9)
    condition = parts.conditioner(batch.label, None)
    x = parts.latent.encode(batch.image.float() / 255)
    parts.objective.loss(state.net, x, condition, noise)[0]["flow"].mean().backward()
    assert [name for name, parameter in state.module.net.named_parameters() if parameter.grad is None] == []


def test_schedule_of_the_published_recipe():
    schedule = Schedule(2e-4, 0, 50_000, 1_000_000, 0.1)
    assert schedule(0) == schedule(49_999) == 2e-4
    assert schedule(100_000) == pytest.approx(1.905e-4, rel=1e-3)
    assert schedule(1_000_000) == schedule(2_000_000) == pytest.approx(2e-5)
    rising = Schedule(1.0, 4, 10, 20, 0.0)
    assert [rising(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rising(15) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "warmup, start, end, rates",
    [
        (0, 2, 6, [1, 1, 1, 0.8, 0.6, 0.4, 0.2, 0.2]),
        (0, 3, 3, [1, 1, 1, 0.2, 0.2]),
        (0, 3, 4, [1, 1, 1, 1, 0.2, 0.2]),
        (0, 0, 0, [0.2, 0.2]),
        (0, 0, 2, [1, 0.6, 0.2, 0.2]),
        (1, 2, 2, [1, 1, 0.2]),
        (2, 2, 4, [0.5, 1, 1, 0.6, 0.2, 0.2]),
        (2, 2, 2, [0.5, 1, 0.2, 0.2]),
        # A rise that outlasts the whole rate goes on over the rest.
        (4, 2, 2, [0.25, 0.5, 0.15, 0.2, 0.2]),
        (4, 1, 3, [0.25, 0.5, 0.45, 0.2, 0.2]),
        (0, 4, 2, [1, 1, 1, 1, 0.2]),
    ],
)
def test_every_end_of_the_schedule(warmup, start, end, rates):
    schedule = Schedule(1.0, warmup, start, end, 0.2)
    assert [schedule(step) for step in range(len(rates))] == pytest.approx(rates)
    assert schedule(10**9) == 0.2


def test_ema_follows_its_formula():
    assert [decay_at(step, 0.5, True) for step in (0, 8, 100)] == pytest.approx([0.1, 0.5, 0.5])
    assert decay_at(0, 0.9995, False) == 0.9995
    state, parts, config, loader = prepared("train.ema_ramp=false", "train.ema_decay=0.75")
    start = state.module.net.final.linear.weight.detach().clone()
    for _ in flow_updates(state, parts, config, loader, 1):
        pass
    expected = 0.75 * start + 0.25 * state.module.net.final.linear.weight
    torch.testing.assert_close(state.ema.module.net.final.linear.weight, expected)
    assert all(parameter.dtype == torch.float32 for parameter in state.ema.module.net.parameters())


def test_a_duration_of_no_step_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no step at all"):
        train(tiny(0), tmp_path / "run", "cpu", ["test"])
    assert not (tmp_path / "run").exists()
