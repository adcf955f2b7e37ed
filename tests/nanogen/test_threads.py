"""Threads of a training: chosen by time, kept in its run folder, and never against the user."""

import itertools
import os
import time

import pytest
import torch
from tiny import tiny

from nanogen import run as runs
from nanogen import threads
from nanogen.ema import EMA
from nanogen.evaluate import evaluate_run
from nanogen.pipeline import ImagePipeline
from nanogen.sample import SampleRequest, sample_run
from nanogen.sweep import SweepRequest, sweep_run
from nanogen.train import check, train, trial_step


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Neither torchrun nor the user has a say."""
    for name in ("OMP_NUM_THREADS", "WORLD_SIZE", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def step_of(seconds):
    """A step that takes so long by the number of threads."""
    return lambda: lambda: time.sleep(seconds[torch.get_num_threads()])


@pytest.mark.parametrize(("seconds", "best"), [({1: 0.01, 2: 0.03}, 1), ({1: 0.03, 2: 0.01}, 2)])
def test_the_faster_number_is_chosen_said_and_set(seconds, best, capsys):
    number, measured = threads.settle(None, False, "cpu", step_of(seconds))
    assert number == best
    assert 0.01 <= measured < 0.03
    assert torch.get_num_threads() == best
    assert capsys.readouterr().err.startswith(f"{best} thread(s): a step takes ")


def test_a_single_slow_step_decides_nothing():
    turn = itertools.count()

    def trial():
        return lambda: time.sleep({1: 0.02, 2: 0.2 if next(turn) == 2 else 0.0}[torch.get_num_threads()])

    assert threads.settle(None, False, "cpu", trial)[0] == 2


def test_what_a_run_keeps_holds_and_one_that_was_begun_is_not_measured():
    assert threads.settle(1, True, "cpu", pytest.fail) == (1, None)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(2)
    assert threads.settle(None, True, "cpu", pytest.fail) == (2, None)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "WORLD_SIZE"])
def test_nothing_is_chosen_against_the_user_or_torchrun(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert threads.settle(1, False, "cpu", pytest.fail) == (None, None)
    assert torch.get_num_threads() == 2
    monkeypatch.delenv(name)
    assert threads.settle(1, False, "cuda:0", pytest.fail) == (None, None)


@pytest.mark.parametrize(
    ("kept", "device", "variable", "used"),
    [
        (1, "cpu", None, 1),
        (None, "cpu", None, 2),
        # More than there are here: of another machine.
        (64, "cpu", None, 2),
        (1, "cuda:0", None, 2),
        (1, "cpu", "OMP_NUM_THREADS", 2),
        (1, "cpu", "WORLD_SIZE", 2),
    ],
)
def test_a_use_of_a_run_takes_its_threads_unless_somebody_chose(monkeypatch, kept, device, variable, used):
    if variable:
        monkeypatch.setenv(variable, "2")
    with threads.as_trained(kept, device):
        assert torch.get_num_threads() == used
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_plan_before_a_training_knows_the_step_that_was_measured(tmp_path, monkeypatch, capsys, accumulation):
    monkeypatch.setattr(threads, "_measured", lambda most, step: (1, 0.5))
    composed = tiny(1, f"train.accumulation={accumulation}")
    train(composed, tmp_path / "run", "cpu", [])
    # What is tried is a micro-batch.
    seconds = 0.5 * accumulation
    assert f"\n{composed.config.train.batch_size / seconds:.4g} images/s, " in capsys.readouterr().err


def test_the_plan_takes_a_step_of_one_kind_for_no_mean_of_two(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(threads, "_measured", lambda most, step: (1, 0.5))
    train(tiny(1, "objective.name=meanflow", "guidance.scale=1", "sampler.num_steps=1"), tmp_path / "run", "cpu", [])
    assert "by its first steps" not in capsys.readouterr().err


def test_images_of_a_run_are_made_with_its_threads(tmp_path, monkeypatch):
    """Another number rounds sums differently, and a record's command gives its images again."""
    monkeypatch.setattr(threads, "_measured", lambda most, step: (1, 0.5))
    few = "eval.metrics=[fd_digits]", "eval.num_samples=20", "data.image_size=8", "eval.every=never"
    run = train(tiny(1, *few), tmp_path / "run", "cpu", []).path
    torch.set_num_threads(2)
    used, draw = set(), ImagePipeline.__call__
    monkeypatch.setattr(
        ImagePipeline, "__call__", lambda *a, **more: used.add(torch.get_num_threads()) or draw(*a, **more)
    )
    for make in (
        lambda: sample_run(run, [], SampleRequest(num=3, batch_size=2), tmp_path / "grid.png"),
        lambda: evaluate_run(run, ["sampler.num_steps=3"], False, None),
        lambda: sweep_run(run, SweepRequest(grid=(1.0,))),
    ):
        assert make()
        assert (used, torch.get_num_threads()) == ({1}, 2)
        used.clear()


def test_waiting_is_cut_short_unless_the_user_chose(monkeypatch):
    threads.limit_waiting()
    assert os.environ.pop("GOMP_SPINCOUNT") == threads.SPINS
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    threads.limit_waiting()
    assert "GOMP_SPINCOUNT" not in os.environ


def test_a_trial_step_computes_gradients_and_leaves_nothing(monkeypatch):
    job = check(tiny(2), "cpu", [])
    before = [weight.clone() for weight in job.state.module.parameters()]
    random = torch.get_rng_state()
    seen = []
    first = next(job.state.module.parameters())
    first.register_post_accumulate_grad_hook(lambda weight: seen.append(weight.grad.shape))
    trial_step(job)()
    assert seen == [first.shape]
    assert all(weight.grad is None for weight in job.state.module.parameters())
    assert all(torch.equal(*pair) for pair in zip(before, job.state.module.parameters(), strict=True))
    assert torch.equal(random, torch.get_rng_state())
    assert job.state.step == 0


def test_a_run_keeps_its_threads_and_goes_on_with_them(tmp_path, monkeypatch):
    """Another choice on the day of its continuation would round sums differently."""
    monkeypatch.setattr(threads, "_measured", lambda most, step: (step() or 1, 0.5))
    used = []
    monkeypatch.setattr(EMA, "update", lambda self, step: used.append(torch.get_num_threads()))
    run = train(tiny(1), tmp_path / "run", "cpu", [])
    assert run.facts["threads"] == runs.read(run.path).facts["threads"] == 1
    monkeypatch.setattr(threads, "_measured", pytest.fail)
    (run.path / "checkpoints" / "step-00000001").rename(tmp_path / "away")
    assert train(tiny(1), run.path, "cpu", []).facts["threads"] == 1
    assert used == [1, 1]
    # Another training in this process chooses anew.
    assert torch.get_num_threads() == 2
