"""Weights that processes share: the same losses however they are cut, and checkpoints that any number of them reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from encoders import save_encoder
from safetensors.torch import load_file
from tiny import group, losses, tiny

from diffusionbench.errors import ConfigError
from nanogen import checkpoint, parallel
from nanogen.train import train

# Seconds on an idle machine; imports alone take minutes on one that is busy.
pytestmark = pytest.mark.timeout(1200)
MEANFLOW = "objective={name: meanflow, predict: v}; guidance.scale=1; sampler.num_steps=1"
FEW = ("train.precision=float32", "model.encoder_depth=2", "train.batch_size=8", "train.accumulation=2")

# Trains by each of some ways to share; "killed" ends one process after a step.
TRAIN = """
import os, signal, sys
from pathlib import Path
folder, here, steps, killed, sharing, *more = sys.argv[1:]
sys.path.insert(0, here)
from tiny import tiny
from diffusionbench.errors import run_program
from nanogen import outputs, parallel
from nanogen.train import train

after = outputs.RunOutputs.after_step

def dying(self, values):
    after(self, values)
    if self.state.step == int(killed) and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)

def program():
    outputs.RunOutputs.after_step = dying
    with parallel.processes():
        for name in sharing.split(","):
            place = Path(folder) / name if "," in sharing else Path(folder)
            train(tiny(int(steps), f"train.shard={name}", *more), place, "cpu", ["test"])

run_program(program, "interrupted")
"""


def shared(number: int, folder: Path, steps: int, sharing: str, *more: str, killed: int = 0, machines: int = 1) -> list:
    here = Path(__file__).parent
    return group(number, TRAIN, folder, here, steps, killed, sharing, *FEW, *more, machines=machines)


def averages(run: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:08d}" / "ema.safetensors")


def same_training(found: Path, wanted: Path, step: int) -> None:
    assert len(losses(found)) == step
    assert losses(found) == pytest.approx(losses(wanted), rel=1e-4)
    one, other = averages(found, step), averages(wanted, step)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    pytest.importorskip("transformers", reason="text encoders need the extra t2i")
    return save_encoder(tmp_path_factory.mktemp("encoder"), "bert")


def captioned(encoder: Path) -> tuple[str, ...]:
    return ("data.template='one {class} circle'", "condition.kind=text", f"condition.encoder={encoder}")


@pytest.mark.parametrize("condition", ["class", "text"])
@pytest.mark.parametrize(
    "number, machines", [(2, 1), pytest.param(4, 2, marks=pytest.mark.slow)], ids=["two", "four on two machines"]
)
def test_losses_are_equal_however_the_weights_are_shared(number, machines, condition, tmp_path, encoder):
    more = captioned(encoder) if condition == "text" else ()
    train(tiny(4, *FEW, *more), tmp_path / "one", "cpu", ["test"])
    for done in shared(number, tmp_path, 4, "none,full,hybrid", *more, machines=machines):
        assert done.returncode == 0, done.stderr
    for sharing in ("none", "full", "hybrid"):
        same_training(tmp_path / sharing, tmp_path / "one", 4)
        shards = list((tmp_path / sharing / "checkpoints" / "step-00000004" / "state").glob("*.distcp"))
        assert len(shards) == number


@pytest.mark.slow
def test_losses_in_bfloat16_are_equal_however_the_weights_are_shared(tmp_path):
    train(tiny(4, *FEW, "train.precision=bfloat16"), tmp_path / "one", "cpu", ["test"])
    for done in shared(2, tmp_path, 4, "none,full", "train.precision=bfloat16"):
        assert done.returncode == 0, done.stderr
    for sharing in ("none", "full"):
        assert losses(tmp_path / sharing) == pytest.approx(losses(tmp_path / "one"), rel=1e-2)


def test_a_killed_run_goes_on_with_other_processes_and_another_sharing(tmp_path):
    """Two processes, of which one is killed; then one; then two that share otherwise."""
    often = ("train.checkpoint_every=2 steps", "train.keep=9")
    train(tiny(6, *FEW, *often), tmp_path / "whole", "cpu", ["test"])
    first, second = shared(2, tmp_path / "run", 6, "full", *often, killed=5)
    assert (first.returncode, second.returncode) == (1, -9)
    assert "another process of this run has ended" in first.stderr
    # The one of step 4 may have been on its way.
    assert checkpoint.steps(tmp_path / "run" / "checkpoints")[0] == 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanogen.outputs.RunOutputs.after_step", stopping(5))
        with pytest.raises(KeyboardInterrupt):
            train(tiny(6, *FEW, *often), tmp_path / "run", "cpu", ["test"])
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [2, 4]
    for done in shared(2, tmp_path / "run", 6, "hybrid", *often):
        assert done.returncode == 0, done.stderr
    same_training(tmp_path / "run", tmp_path / "whole", 6)


def stopping(step: int):
    from nanogen.outputs import RunOutputs

    after = RunOutputs.after_step

    def stopped(self, values):
        after(self, values)
        if self.state.step == step:
            raise KeyboardInterrupt

    return stopped


@pytest.mark.parametrize("wrong", ["optim.name=muon", MEANFLOW])
def test_what_sharded_weights_cannot_do_is_refused(wrong, tmp_path):
    with pytest.raises(ConfigError, match=r"train\.shard is full, and .*Set train\.shard=none"):
        train(tiny(2, "train.shard=full", *wrong.split("; ")), tmp_path / "run", "cpu", ["test"])
    assert not (tmp_path / "run").exists()


def test_machines_of_unequal_size_are_refused(monkeypatch):
    monkeypatch.setattr(parallel, "world_size", lambda: 6)
    monkeypatch.setitem(os.environ, "LOCAL_WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match=r"6 in all, 4 on this one\. Start as many on each, or set train\.shard=full"):
        parallel._mesh("hybrid", "cpu")
