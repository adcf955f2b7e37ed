"""Several processes: one trains in a folder, all end where one does, and signals are obeyed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import environment, pair, tiny, words

from diffusionbench.errors import CheckpointError, ConfigError, RunError, Stopped, lacking
from nanogen import checkpoint, cli, lock, outputs, parallel
from nanogen import train as training
from nanogen.data import Dataset, Example, order
from nanogen.data.order import in_order
from nanogen.pipeline import ImagePipeline
from nanogen.train import train

SETTINGS = ("train.precision=float32", "train.batch_size=4", "sample.num=1")

HOLD = """
import os, sys, time
from pathlib import Path
from nanogen.lock import locked
with locked(Path(sys.argv[1])):
    # Loader processes live on for a while where their parent was killed.
    child = os.fork()
    if child == 0:
        os.close(1)
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """A folder, and another process that holds it with the child that it has forked."""
    (tmp_path / "run").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "run"], stdout=subprocess.PIPE, env=environment()
    )
    child = int(process.stdout.readline())
    yield tmp_path / "run", process
    process.kill()
    process.wait()
    os.kill(child, signal.SIGKILL)


def test_a_folder_in_use_is_refused_and_one_left_by_a_killed_process_is_not(holder):
    path, process = holder
    before = (path / ".lock").read_bytes()
    with pytest.raises(CheckpointError, match=rf"in use by process {process.pid} on {socket.gethostname()}\. Wait"):
        train(tiny(1, *SETTINGS), path, "cpu", ["test"])
    assert [file.name for file in path.iterdir()] == [".lock"]
    assert (path / ".lock").read_bytes() == before
    process.kill()
    process.wait()
    train(tiny(1, *SETTINGS), path, "cpu", ["test"])
    assert not (path / ".lock").exists()


def test_where_there_are_no_locks_the_file_decides(tmp_path, monkeypatch):
    def no_locks(*given):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    me = lock._holder(os.getpid())
    ended = subprocess.Popen(["true"])
    ended.wait()
    stale = [
        "",
        "{",
        "[]",
        json.dumps({"pid": "x"}),
        json.dumps({**me, "start": "0"}),
        json.dumps({**me, "pid": 2**70}),
    ]
    stale.append(json.dumps({**me, "pid": ended.pid}))
    for content in stale:
        (tmp_path / ".lock").write_text(content)
        with lock.locked(tmp_path):
            assert json.loads((tmp_path / ".lock").read_text()) == me
    for content in (json.dumps(me), json.dumps({**me, "host": "elsewhere"})):
        (tmp_path / ".lock").write_text(content)
        with pytest.raises(CheckpointError, match="in use by process"), lock.locked(tmp_path):
            pass


def test_a_lock_follows_no_link(tmp_path):
    (tmp_path / "mine").write_text("precious")
    (tmp_path / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match="symbolic links"), lock.locked(tmp_path):
        pass
    assert (tmp_path / "mine").read_text() == "precious"


@pytest.mark.parametrize(
    "found",
    [
        {"SLURM_NTASKS": "2", "SLURM_PROCID": "1"},
        {"SLURM_NTASKS": "8"},
        {"SLURM_STEP_NUM_TASKS": "2"},
        {"OMPI_COMM_WORLD_SIZE": "4"},
        {"PMI_SIZE": "2"},
    ],
)
def test_several_processes_without_a_world_are_refused(found, monkeypatch):
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="torchrun"), parallel.processes():
        pass


def test_one_task_of_a_launcher_is_a_process_as_any(monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("SLURM_PROCID", "0")
    with parallel.processes() as device:
        assert device.startswith(("cpu", "cuda"))


@pytest.mark.parametrize("found", [{"WORLD_SIZE": "two"}, {"LOCAL_RANK": "-1"}])
def test_an_odd_environment_is_refused(found, monkeypatch):
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="a whole number is needed"), parallel.processes():
        pass


def test_a_world_that_cannot_meet_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="cannot find each other"), parallel.processes():
        pass


# Two processes in a script of their own: what both do, and what only one meets.
PAIR = """
import errno, os, sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from tiny import tiny
from diffusionbench.errors import DataError, Told, UserError
from nanogen import checkpoint
from nanogen import parallel
from nanogen.train import train

folder, rank = Path(sys.argv[1]), int(os.environ["RANK"])
settings = ("train.precision=float32", "train.batch_size=4", "sample.num=1")

def attempt(what, work):
    try:
        work()
    except (UserError, Told) as error:
        print(what, rank, type(error).__name__, error.exit_code, str(error)[:60], flush=True)

def one_fails():
    with parallel.agreed():
        if rank == 1:
            raise DataError("only here")

def full(*given):
    raise OSError(errno.ENOSPC, "No space left on device")

with parallel.processes():
    attempt("part", one_fails)
    attempt("foreign", lambda: train(tiny(2, *settings), folder / "mine", "cpu", ["test"]))
    checkpoint._finish = full
    attempt("full", lambda: train(tiny(2, *settings), folder / "full", "cpu", ["test"]))
"""


def test_where_one_process_fails_all_end_and_one_says_why(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    main, other = pair(PAIR, tmp_path, Path(__file__).parent)
    assert (main.returncode, other.returncode) == (0, 0), main.stderr + other.stderr
    assert other.stdout.splitlines() == ["part 1 DataError 2 only here", "foreign 1 Told 2 ", "full 1 Told 2 "]
    part, foreign, full = main.stdout.splitlines()
    assert part == "part 0 Told 2 "
    assert foreign.startswith("foreign 0 CheckpointError 2")
    assert full.startswith("full 0 CheckpointError 2 checkpoint of step 2 could not be written")
    assert not list((tmp_path / "full" / "checkpoints").iterdir())


LOST = """
import os, sys
from torch.distributed import barrier
from diffusionbench.errors import DataError, run_program
from nanogen import parallel

def program():
    with parallel.processes():
        barrier()
        if os.environ["RANK"] == "1":
            raise DataError("image 7 cannot be read")
        barrier()

run_program(program, "interrupted")
"""


def test_a_process_that_ends_in_mid_work_takes_the_others_along_without_a_traceback():
    main, other = pair(LOST)
    assert (main.returncode, other.returncode) == (1, 2)
    assert other.stderr.splitlines()[-1] == "DataError: image 7 cannot be read"
    assert "RunError: another process of this run has ended" in main.stderr
    assert "Traceback" not in main.stderr + other.stderr


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
@pytest.mark.parametrize("owner, name", [(training, "latents_of"), (ImagePipeline, "in_batches")])
def test_a_signal_ends_a_training_with_a_checkpoint(number, owner, name, tmp_path, monkeypatch):
    """It comes in the middle of the second step, or in that of its sample grid."""
    path, calls, real = tmp_path / "run", [], getattr(owner, name)
    settings = (*SETTINGS, "sample.every=2 steps")

    def signalled(*given):
        calls.append(name)
        if len(calls) == (2 if owner is training else 1):
            os.kill(os.getpid(), number)
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, signalled)
        with pytest.raises(Stopped, match=f"received {number.name}") as caught:
            train(tiny(4, *settings), path, "cpu", ["test"])
    assert caught.value.exit_code == 128 + number
    assert checkpoint.steps(path / "checkpoints") == [2]
    train(tiny(4, *settings), path, "cpu", ["test"])
    assert sorted(file.name for file in (path / "samples").iterdir()) == ["step-00000002.png", "step-00000004.png"]
    logged = [json.loads(line)["step"] for line in (path / "metrics.jsonl").read_text().splitlines()]
    assert logged == [1, 2, 3, 4]


def test_a_second_signal_waits_for_nothing(tmp_path, monkeypatch):
    real = training.latents_of

    def signalled(*given):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        return real(*given)

    monkeypatch.setattr(training, "latents_of", signalled)
    with pytest.raises(Stopped):
        train(tiny(4, *SETTINGS), tmp_path / "run", "cpu", ["test"])
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == []


def test_a_stopped_command_ends_with_the_code_of_its_signal(tmp_path, monkeypatch, capsys):
    def save(self):
        if not self.saver.begun:
            os.kill(os.getpid(), signal.SIGTERM)
        real(self)

    real = outputs.Outputs.save
    monkeypatch.setattr(outputs.Outputs, "save", save)
    arguments = ["train", "--task", "digits", "--run", str(tmp_path / "run"), *words(9, *SETTINGS)]
    monkeypatch.setattr(sys, "argv", ["nanogen", *arguments, "train.checkpoint_every=2 steps"])
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 143
    assert capsys.readouterr().err.splitlines()[-1] == "Stopped: received SIGTERM. The same command continues."
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [2]
    assert signal.getsignal(signal.SIGTERM) is before


def test_signals_that_the_caller_ignores_stay_ignored(monkeypatch):
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with training.Stop():
            assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_loader_process_leaves_signals_to_the_training():
    with training.Stop() as stop:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(stop._number)
        assert os.waitpid(child, 0)[1] == 0


class Signalled(Dataset):
    """Images of which the second is read by a process that a signal meets."""

    num_classes = 2

    def __init__(self, number: int) -> None:
        self.number = number

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Example:
        if index == 1:
            os.kill(os.getpid(), self.number)
        return Example(np.zeros((8, 8, 3), np.uint8), index % 2)


def test_a_loader_process_outlives_what_a_scheduler_sends_to_all():
    assert sum(len(batch.positions) for batch in in_order(Signalled(signal.SIGTERM), 1, workers=1)) == 4


def test_a_killed_loader_process_is_named():
    with pytest.raises(RuntimeError, match="DataLoader worker") as caught:
        list(in_order(Signalled(signal.SIGKILL), 1, workers=1))
    assert "a loader process was killed" in lacking(caught.value)


def test_a_loader_process_that_ends_while_it_hands_a_batch_over_is_named(monkeypatch):
    def reset(*given):
        raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")

    monkeypatch.setattr(order.DataLoader, "__iter__", lambda self: iter(reset, 0))
    with pytest.raises(RuntimeError, match=r"DataLoader worker ended: .*reset by peer"):
        list(in_order(Signalled(0), 1, workers=1))
