"""Checkpoints that are written while training goes on: of which step they are, what they hold, what goes wrong."""

from __future__ import annotations

import os
import pickle
import signal
import threading
from pathlib import Path

import pytest
import torch
from tiny import pair, tiny
from torch import Tensor

from diffusionbench.errors import CheckpointError, Stopped
from diffusionbench.limits import read_small
from diffusionbench.schema import file_digest
from nanogen import checkpoint, parallel
from nanogen.build import build_components
from nanogen.pipeline import open_weights
from nanogen.state import TrainState
from nanogen.train import build, open_data, train

SETTINGS = ("train.precision=float32", "sample.num=1", "train.keep=9")


def begun(*more: str) -> TrainState:
    data, config = open_data(tiny(1, *more).config)
    return build(config, build_components(config, "cpu", "float32"), len(data))


def moved(state: TrainState, by: float) -> None:
    with torch.no_grad():
        for tensor in (*state.module.parameters(), *state.ema.module.parameters()):
            tensor += by
    state.step += 1


def everything(state: TrainState) -> dict[str, Tensor]:
    found = {f"weights {name}": tensor.clone() for name, tensor in state.module.tensors().items()}
    return found | {f"average {name}": tensor.clone() for name, tensor in state.averaged().items()}


def test_a_checkpoint_is_of_its_step_whatever_is_trained_while_it_is_written(tmp_path, monkeypatch):
    state, may_write, real = begun(), threading.Event(), parallel.save
    monkeypatch.setattr(parallel, "save", lambda *given: (may_write.wait(60), real(*given))[1])
    saver = checkpoint.Saver(tmp_path, {}, keep=2)
    moved(state, 0.5)
    wanted = everything(state)
    saver.save(state)
    moved(state, 0.25)
    assert checkpoint.steps(tmp_path) == []
    may_write.set()
    saver.wait()
    found, damaged = checkpoint.newest(tmp_path)
    assert (found.step, damaged) == (1, [])
    again = begun()
    checkpoint.restore(found, again)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in everything(again).items())


def test_each_checkpoint_is_copied_to_the_memory_of_the_one_before(tmp_path):
    state, saver, wanted, places = begun(), checkpoint.Saver(tmp_path, {}, keep=9), {}, []
    for _ in range(3):
        moved(state, 0.5)
        wanted[state.step] = everything(state)
        saver.save(state)
        moved(state, 0.25)
        saver.wait()
        kept = (*saver._staging(checkpoint._tree(state))["model"].values(), *saver._average.values())
        places.append([tensor.data_ptr() for tensor in kept])
    assert places[0] == places[1] == places[2]
    again = begun()
    for step, tensors in wanted.items():
        checkpoint.restore(checkpoint.at(tmp_path, step), again)
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in everything(again).items())


def test_a_state_that_has_grown_is_copied_whole():
    staging = parallel.Staging()
    staging({"model": {"a": torch.ones(2)}, "rate": 1.0})
    found = staging({"model": {"a": torch.zeros(2), "b": torch.full((3,), 2.0)}, "rate": 2.0})
    assert found["rate"] == 2.0
    assert {name: tensor.tolist() for name, tensor in found["model"].items()} == {"a": [0, 0], "b": [2, 2, 2]}


def test_files_are_hashed_while_they_are_written_and_the_average_is_stored_once(tmp_path):
    run = train(tiny(1, *SETTINGS), tmp_path / "run", "cpu", ["test"])
    folder = run.checkpoints / "step-00000001"
    manifest = checkpoint.Manifest.model_validate_json(read_small(folder / "manifest.json"))
    files = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert manifest.files.keys() == files - {"manifest.json"}
    for name, entry in manifest.files.items():
        assert (entry.bytes, entry.sha256) == ((folder / name).stat().st_size, file_digest(folder / name))
    stored = pickle.loads((folder / "state" / ".metadata").read_bytes()).state_dict_metadata
    assert {name.split(".")[0] for name in stored} == {"model", "optimizer"}


def test_a_checkpoint_with_the_average_in_its_state_too_is_read(tmp_path, monkeypatch):
    """Earlier versions stored it twice."""
    tree = checkpoint._tree
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_tree", lambda state: {**tree(state), "ema": state.averaged()})
        run = train(tiny(2, *SETTINGS), tmp_path / "run", "cpu", ["test"])
    again = begun()
    checkpoint.restore(checkpoint.newest(run.checkpoints)[0], again)
    assert again.step == 2


def test_what_fails_in_the_background_ends_the_training_at_its_next_line(tmp_path, monkeypatch):
    def full(*given):
        raise OSError(28, "No space left on device")

    finish, run = checkpoint._finish, tmp_path / "run"
    monkeypatch.setattr(
        checkpoint, "_finish", lambda path, step, files: (finish if step < 4 else full)(path, step, files)
    )
    with pytest.raises(CheckpointError, match=r"step 4 could not be written to .*No space left.*Older checkpoints are"):
        train(tiny(40, *SETTINGS, "train.checkpoint_every=2 steps"), run, "cpu", ["test"])
    assert checkpoint.steps(run / "checkpoints") == [2]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000002"]


def test_a_signal_while_a_checkpoint_is_written_costs_nothing(tmp_path, monkeypatch):
    finish, run = checkpoint._finish, tmp_path / "run"

    def signalled(path: Path, step: int, files: dict) -> None:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        finish(path, step, files)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_finish", signalled)
        with pytest.raises(Stopped) as caught:
            train(tiny(400, *SETTINGS, "train.checkpoint_every=2 steps"), run, "cpu", ["test"])
    assert caught.value.exit_code == 128 + signal.SIGTERM
    kept = checkpoint.steps(run / "checkpoints")
    assert kept[0] == 2
    assert checkpoint.newest(run / "checkpoints") == (checkpoint.at(run / "checkpoints", kept[-1]), [])


def test_sampling_needs_the_weights_file_alone(tmp_path):
    run = train(tiny(2, *SETTINGS), tmp_path / "run", "cpu", ["test"])
    shard = next((run.checkpoints / "step-00000002" / "state").glob("*.distcp"))
    shard.write_bytes(b"")
    assert open_weights(run.path, "cpu").step == 2
    assert checkpoint.newest(run.checkpoints)[0] is None
    (run.checkpoints / "step-00000002" / "ema.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no intact checkpoint"):
        open_weights(run.path, "cpu")


# One of two processes comes late: where they may work alone, and in a step.
LATE = """
import os, time
from datetime import timedelta
from diffusionbench.errors import RunError, run_program
from nanogen import parallel

parallel.STEP_TIMEOUT = timedelta(seconds=2)

def program():
    with parallel.processes():
        for patient in (True, False):
            with parallel.patience(patient):
                if os.environ["RANK"] == "1":
                    time.sleep(6)
                with parallel.agreed():
                    print("together", patient, flush=True)

run_program(program, "interrupted")
"""


def test_processes_wait_long_for_each_other_where_one_may_work_alone(tmp_path):
    main, _ = pair(LATE)
    assert main.stdout.splitlines() == ["together True", "together False"]
    assert main.returncode == 1
    assert "RunError: another process of this run has ended" in main.stderr


def test_a_folder_that_is_gone_does_not_come_back(tmp_path):
    with pytest.raises(OSError, match="gone"):
        parallel.save({"weight": torch.zeros(2)}, tmp_path / "gone" / "state")
    assert not list(tmp_path.iterdir())
