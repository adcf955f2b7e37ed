"""The demo in small: what it says, that it goes on where it was stopped, and what it does not do twice."""

import os
import re
import signal
from dataclasses import replace

import pytest
from tiny import words

from diffusionbench.errors import Stopped
from nanogen import demo, progress
from nanogen.evaluate import records_of
from nanogen.progress import Overall, listening, tell
from nanogen.report import write_report

SHORT = words(4, "eval.metrics=[accuracy_digits]", "eval.num_samples=20", "train.checkpoint_every=2 steps")


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Two tiny trainings by class, in a folder of their own."""
    first = replace(demo.TRAININGS[0], overrides=tuple(SHORT))
    monkeypatch.setattr(
        demo, "TRAININGS", (first, replace(first, title="again", suffix="-two", sentence="then {:.1f}"))
    )
    return str(tmp_path / "demo")


def test_the_demo_trains_scores_reports_and_does_nothing_twice(small, capsys, tmp_path, monkeypatch):
    report = demo.demo(small)
    assert report == tmp_path / "demo" / "report.html"
    assert report.exists()
    told = capsys.readouterr().err.splitlines()
    assert told[0] == demo.PROMISE
    assert re.match(r"\d+% of the drawn digits are recognised; then [01]\.\d\. Open the report", told[-1])
    early = f"digits by class: done. Look at its report while the rest runs: {report}"
    assert told.index(early) < next(place for place, line in enumerate(told) if "again: training" in line)
    shares = [int(line.split(" %")[0]) for line in told if re.match(r"\d+ %  ", line)]
    assert shares == sorted(shares)
    assert any(line.startswith("100 %") or "again: " in line for line in told)
    for work in ("nanogen.optim.Updater.step", "nanogen.evaluate.evaluate"):
        monkeypatch.setattr(work, pytest.fail)
    assert demo.demo(small) == report


def test_the_report_of_the_first_training_is_there_while_the_second_runs(small, monkeypatch, tmp_path):
    pages, train = [], demo.train

    def looking(composed, folder, *options):
        if folder.name == "demo-two":
            pages.append((tmp_path / "demo" / "report.html").read_text())
        return train(composed, folder, *options)

    monkeypatch.setattr(demo, "train", looking)
    report = demo.demo(small)
    assert "demo-two" not in pages[0]
    assert "demo-two" in report.read_text()


def test_a_reason_for_several_scores_stands_once_in_the_report(small, monkeypatch, tmp_path):
    out = demo.demo(small)
    [record] = records_of(tmp_path / "demo")
    one = record.values["accuracy_digits"].model_copy(update={"status": "flagged", "reason": "flagged: variety"})
    doubtful = record.model_copy(update={"values": {"accuracy_digits": one, "is_digits": one}})
    monkeypatch.setattr("nanogen.report.records_of", lambda path: [doubtful])
    page = write_report([tmp_path / "demo"], out).read_text()
    assert page.count("flagged: variety") == 1
    assert "All values: flagged: variety." in page


@pytest.mark.parametrize("held_out", [True, False])
def test_the_report_names_the_baselines_that_are_there(small, monkeypatch, tmp_path, held_out):
    out = demo.demo(small)
    [record] = records_of(tmp_path / "demo")
    assert {*record.anchors} == {"held_out", "class_means"}
    kept = {name: values for name, values in record.anchors.items() if held_out or name != "held_out"}
    monkeypatch.setattr("nanogen.report.records_of", lambda path: [record.model_copy(update={"anchors": kept})])
    page = write_report([tmp_path / "demo"], out).read_text()
    assert ("real images that neither generator" in page) == held_out
    assert "mean image of each class" in page


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_checkpoint_of_the_step_and_the_demo_goes_on(small, capsys, number, monkeypatch):
    def interrupt(stage, done, total):
        if (stage, done) == ("training", 3):
            os.kill(os.getpid(), number)

    monkeypatch.setattr("nanogen.outputs.tell", interrupt)
    with pytest.raises(Stopped) as stopped:
        demo.demo(small)
    assert stopped.value.exit_code == 128 + number
    assert "a checkpoint of step 3 is written" in capsys.readouterr().err
    monkeypatch.setattr("nanogen.outputs.tell", progress.tell)
    demo.demo(small)
    assert "continuing after step 3" in capsys.readouterr().err


def test_the_time_left_follows_from_the_pace_of_the_stage(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Overall({"one": {"training": 100, "images": 20}, "two": {"training": 80}}) as overall, listening(overall):
        # A training that goes on at its middle: what was there took no time.
        tell("training", 50, 100)
        now[0] = 20.0
        tell("training", 60, 100)
    assert overall.done == 60
    # Two seconds of this machine for one of the table's.
    assert overall._left() == ", about 5 min left"  # (200 - 60) * 2 / 60
    tell("training", 100, 100)
    assert overall.done == 60
    overall.job = "two"
    overall("training", 40, 80)
    assert overall.done == 160
    assert capsys.readouterr().err.splitlines()[-1].startswith("80 %  two: training 40/80")


def test_a_listener_hears_what_is_told_while_it_listens_and_nobody_else(capsys):
    heard = []
    with listening(lambda *told: heard.append(told)):
        tell("training", 1, 2)
    tell("training", 2, 2)
    assert heard == [("training", 1, 2)]
    assert capsys.readouterr() == ("", "")
