"""Trackers get config, numbers, scores, pictures and one id for life, and hold up no training whatever they do."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny import tiny

from nanogen import trackers
from nanogen.log import Log, read
from nanogen.train import train


class Hosted(SimpleNamespace):
    """A stand-in for wandb or trackio that writes down its calls."""

    def __init__(self) -> None:
        super().__init__(runs=[], lines=[], ended=0)
        self.Image = lambda path: Path(path)

    def init(self, **options):
        self.runs.append(options)

    def log(self, values, step):
        self.lines.append((step, values))

    def finish(self):
        self.ended += 1


@pytest.fixture
def hosted(monkeypatch):
    made = Hosted()
    monkeypatch.setattr(trackers, "require", lambda *_: made)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    return made


def run_tiny(path: Path, steps: int, *more: str) -> None:
    train(tiny(steps, *more), path, "cpu", ["test"])


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_is_told_config_numbers_scores_and_pictures(hosted, tmp_path, name):
    path = tmp_path / "mine"
    run_tiny(
        path, 3, f"log.sinks=[{name}]", "eval.metrics=[accuracy_digits]", "eval.num_samples=10", "log.every=1 steps"
    )
    (options,) = hosted.runs
    stored = json.loads((path / trackers.ID_FILE).read_text())["id"]
    assert options["config"]["log"]["sinks"] == [name]
    assert options["config"]["train"]["duration"] == "3 steps"
    assert stored in (options["id"] if name == "wandb" else options["name"])
    assert options.get("mode") == ("offline" if name == "wandb" else None)
    numbers = [(step, values) for step, values in hosted.lines if "loss/flow" in values]
    assert [step for step, _ in numbers] == [1, 2, 3]
    assert numbers[0][1]["loss/flow"] == read(path / "metrics.jsonl")[0]["loss/flow"]
    (scores,) = [values for _, values in hosted.lines if "eval/accuracy_digits" in values]
    (picture,) = [values["samples"] for _, values in hosted.lines if "samples" in values]
    assert picture.parent == path / "samples"
    assert picture.exists()
    assert 0 <= scores["eval/accuracy_digits"] <= 1
    assert hosted.ended == 1


def test_a_run_that_continues_is_the_same_run_there(hosted, tmp_path):
    sinks = "log.sinks=[wandb]"
    run_tiny(tmp_path / "run", 4, sinks, "train.checkpoint_every=2 steps")
    (tmp_path / "run" / "checkpoints" / "step-00000004").rename(tmp_path / "gone")
    run_tiny(tmp_path / "run", 4, sinks, "train.checkpoint_every=2 steps")
    run_tiny(tmp_path / "other", 1, sinks)
    first, again, other = hosted.runs
    assert first["id"] == again["id"] != other["id"]
    assert again["resume"] == "allow"


def test_a_failing_tracker_says_so_once_and_training_goes_on(hosted, tmp_path, capsys):
    def broken(values, step):
        raise ConnectionError("no network")

    hosted.log = broken
    run_tiny(tmp_path / "run", 3, "log.sinks=[wandb]")
    assert capsys.readouterr().err.count("sink 'wandb' failed and is off: no network") == 1
    assert len(read(tmp_path / "run" / "metrics.jsonl")) == 3


def test_a_tracker_that_hangs_holds_nothing_up(hosted, tmp_path, capsys, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(trackers, "PATIENCE", 0.2)
    monkeypatch.setattr(trackers, "WAITING", 2)
    hosted.init = lambda **_: release.wait(60)
    log = Log(tmp_path, ["trackio"], 0)
    begun = time.monotonic()
    for step in range(1, 6):
        log.write(step, {"loss/flow": 1.0})
    log.close()
    assert time.monotonic() - begun < 5
    release.set()
    said = capsys.readouterr().err
    assert "sink 'trackio' did not end within 0 s and is left behind" in said
    assert "sink 'trackio' was too slow: 3 lines are in metrics.jsonl alone" in said
    assert len(read(tmp_path / "metrics.jsonl")) == 5


def test_a_key_puts_wandb_online(hosted, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    Log(tmp_path, ["wandb"], 0).close()
    assert hosted.runs[0]["mode"] == "online"
    assert "secret" not in str(hosted.runs)


def test_a_damaged_id_is_made_anew(tmp_path):
    first = trackers.tracker_id(tmp_path)
    assert trackers.tracker_id(tmp_path) == first
    (tmp_path / trackers.ID_FILE).write_text("{")
    assert trackers.tracker_id(tmp_path) != first


def test_tensorboard_holds_config_curves_and_pictures(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_tiny(tmp_path / "run", 2, "log.sinks=[tensorboard]")
    found = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    found.Reload()
    assert [event.step for event in found.Scalars("loss/flow")] == [1, 2]
    assert found.Images("samples")[0].step == 2
    (tag,) = found.Tags()["tensors"]
    assert b'"duration": "2 steps"' in found.Tensors(tag)[0].tensor_proto.string_val[0]
