"""Trainings started by a scheduler: the files that ask for it, and processes that find each other by its variables."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest
from ruamel.yaml import YAML
from tiny import environment, losses, tiny, words
from typer.testing import CliRunner

from diffusionbench.errors import ConfigError
from nanogen import parallel
from nanogen.cli import app
from nanogen.run import read
from nanogen.train import train

TINY = ("train.precision=float32", "sample.num=1")


def launch(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["launch", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output if code == 0 else str(done.exception)


@pytest.mark.parametrize("kind", ["slurm", "sky"])
def test_a_file_asks_for_the_machines_and_trains_in_the_folder(kind):
    asked = ("--task", "digits", "--nodes", 3, "--gpus", 4, "--hours", 7, "optim.lr=1e-3", "data.template='a {class}'")
    text = launch("--print", kind, "outputs/mine", *asked)
    assert "@" not in text.replace("USR1@120", "")
    assert len(text.splitlines()) <= 24
    command = "nanogen train --task digits optim.lr=1e-3 'data.template='\"'\"'a {class}'\"'\"'' --run-dir outputs/mine"
    if kind == "sky":
        asked = YAML(typ="safe").load(text)
        assert (asked["name"], asked["num_nodes"], asked["resources"]["accelerators"]) == ("mine", 3, "H200:4")
        assert f"-m {command}\n" in asked["run"]
        script = asked["run"]
    else:
        lines = text.splitlines()
        assert {"#SBATCH --nodes=3", "#SBATCH --ntasks-per-node=4", "#SBATCH --time=7:00:00"} <= set(lines)
        assert f"srun --kill-on-bad-exit=1 python -m {command}" in lines
        script = text
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_the_file_of_a_run_that_exists_continues_it(tmp_path):
    run = tmp_path / "run"
    train(tiny(2, *TINY), run, "cpu", ["test"])
    (line,) = [line for line in launch("--print", "slurm", run).splitlines() if line.startswith("srun")]
    arguments = shlex.split(line)[shlex.split(line).index("train") :]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert read(run).facts["command"] == "test"


def test_what_cannot_be_launched_is_refused(tmp_path):
    assert "holds no run. Name one, or say what to train" in launch("--print", "slurm", tmp_path / "none", code=1)
    assert "cannot be the name of a job" in launch("--print", "slurm", "a b", "--task", "digits", code=1)
    assert "optim.rate" in launch("--print", "slurm", "mine", "--task", "digits", "optim.rate=1", code=1)


# What srun sets in each of two tasks, on machines that are this one.
STEP = {"SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": "4711"}


def test_tasks_of_a_scheduler_train_one_run(tmp_path):
    train(tiny(3, *TINY), tmp_path / "one", "cpu", ["test"])
    command = [sys.executable, "-m", "nanogen", "train", "--task", "digits", "--run-dir", str(tmp_path / "two")]
    started = [
        subprocess.Popen(
            [*command, *words(3, *TINY)],
            env=environment() | STEP | {"SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for task in range(2)
    ]
    for one in started:
        said = one.communicate(timeout=280)[1]
        assert one.returncode == 0, said
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)


@pytest.mark.parametrize(
    "nodes, first",
    [("node7", "node7"), ("gpu[03-05,9]", "gpu03"), ("a-1,b[1-2]", "a-1"), ("rack[2,4]-gpu", "rack2-gpu")],
)
def test_the_first_machine_of_a_list_is_where_tasks_meet(nodes, first):
    assert parallel.first_host(nodes) == first


@pytest.mark.parametrize("lost", ["SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST"])
def test_several_tasks_without_a_world_are_refused(lost, monkeypatch):
    for name, value in (STEP | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}).items():
        if name != lost:
            monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="each of these processes would do all the work"), parallel.processes():
        pass
