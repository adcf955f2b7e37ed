"""Studies: the file and its cells, the runner that ends with the same records however often it is killed, bad input."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny import MODEL, environment

from diffusionbench.errors import CheckpointError, ConfigError, RunError, Stopped, UserError
from diffusionbench.record import Guidance, Protocol, Provenance, Record, Tuning, Value, load
from diffusionbench.study import published
from nanogen import run as runs
from nanogen.config import compose, method_names, to_yaml
from nanogen.curves import read_curve
from nanogen.resolve import resolve
from nanogen.study import planning, runner
from nanogen.study.command import StudyRequest, run_study
from nanogen.study.file import StudyCell, cells_of, chosen, read_study
from nanogen.study.records import cost_of, family_of, progress_of
from nanogen.study.runner import StudyFolder

SMALL = {
    **{key: int(value) for key, value in (word.split("=") for word in MODEL)},
    "train.batch_size": 8,
    "train.duration": "20 steps",
    "train.checkpoint_every": "4 steps",
    "optim.warmup": "0 steps",
    "sampler.num_steps": 2,
    "sample.every": "never",
    "train.precision": "float32",
    "log.every": "2 steps",
    "eval.every": "10 steps",
}
DIGITS = {**SMALL, "eval.metrics": ["fd_digits", "accuracy_digits"], "eval.num_samples": 40, "guidance.scale": 1.0}
QUICK = {
    "name": "quick",
    "title": "Quick",
    "scale": "laptop",
    "tasks": {"digits": DIGITS, "shapes": {**SMALL, "guidance.scale": 3.0}},
    "methods": {"pixel-v": None, "pixel-x": {"sampler.num_steps": 3}},
    "protocol": {"evaluations": 3},
}


@pytest.fixture
def study_file(tmp_path):
    """A function: writes a study file that differs from the quick one, and gives its path."""

    def write(**changes: object) -> str:
        path = tmp_path / "quick.yaml"
        path.write_text(json.dumps({**QUICK, **changes}))
        return str(path)

    return write


def cells(*given: object, **named: object) -> list[StudyCell]:
    return cells_of(read_study(*given, **named))[0]


# --- The file --------------------------------------------------------------------------------------------------------


def test_the_laptop_study_has_eight_methods_of_three_families_on_both_tasks():
    found = cells("laptop")
    assert len(found) == 16 == len({cell.name for cell in found})
    families = {cell.method: family_of(cell.method, cell.composed.config) for cell in found}
    assert len(families) >= 8
    assert len({*families.values()}) >= 3
    assert {cell.task for cell in found} == {"digits", "shapes"}
    assert {cell.seed for cell in cells("laptop-seeds")} == {42, 43, 44}
    assert len(cells("laptop-seeds")) == 48
    assert cells("laptop-seeds")[:16] == found, "the seeds repeat the same study"
    assert read_study(None).name == "laptop"


def test_the_published_study_has_all_rows(tmp_path):
    (tmp_path / "real.npz").touch()
    words = [f"{task}.data.path={tmp_path}" for task in ("imagenet256", "t2i256")]
    found = cells("paper-2026-06", [*words, f"imagenet256.eval.reference={tmp_path / 'real.npz'}"])
    assert {cell.method for cell in found} == {*published.METHODS}
    assert len(found) == 50
    with pytest.raises(ConfigError, match=r"Set imagenet256\.data\.path=PATH.*Set t2i256\.data\.path=PATH"):
        cells("paper-2026-06")


def test_a_method_or_a_task_is_one_line(study_file, tmp_path):
    path = tmp_path / "mine.yaml"
    text = "name: mine\ntitle: Mine\nscale: laptop\ntasks:\n  digits:\n  shapes:\nmethods:\n  pixel-v:\n  toy-ae:\n"
    path.write_text(text)
    assert len(cells(str(path))) == 4
    path.write_text(text + "  toy-vae:\n")
    assert [cell.name for cell in cells(str(path))][-2:] == ["digits-toy-vae-42", "shapes-toy-vae-42"]
    path.write_text(text.replace("  shapes:\n", "  shapes:\n  cifar10: {data.path: mine.parquet}\n"))
    assert len(cells(str(path))) == 6


def test_every_problem_of_a_file_is_named_at_once(study_file):
    path = study_file(tasks=["digit", "shapes"], methods=["pixel-v", "toy-a"], judges=["digit"])
    with pytest.raises(ConfigError) as refused:
        cells(path)
    for words in ("task 'digit'. Did you mean 'digits'", "method 'toy-a'. Did you mean 'toy-ae'", "judge 'digit'"):
        assert words in str(refused.value)
    with pytest.raises(ConfigError, match=r"seeds\.0.*; tasks.*; colour: Extra inputs"):
        read_study(study_file(seeds=[-1], tasks={}, colour="red"))
    with pytest.raises(ConfigError, match=r"'laptp': it is no name and no YAML file\. Did you mean 'laptop'"):
        read_study("laptp")


def test_cells_that_make_no_sense_are_refused_with_the_reason_and_left_out_where_asked(study_file):
    path = study_file(methods={"pixel-v": {}, "toy-meanflow": {"guidance.scale": 2.0}})
    with pytest.raises(ConfigError) as refused:
        cells(path)
    assert "guidance in sampling is not defined for objective 'meanflow'" in str(refused.value)
    assert "digits-toy-meanflow-42, shapes-toy-meanflow-42" in str(refused.value)
    assert "--possible runs the other 2 cell(s)" in str(refused.value)
    found, refused_cells = cells_of(read_study(path), possible=True)
    assert [cell.method for cell in found] == ["pixel-v", "pixel-v"]
    assert len(refused_cells) == 1


def test_what_a_study_sets_arrives_in_the_config_by_its_precedence(study_file):
    digits = {**DIGITS, "optim.lr": 1e-4, "scales": {"laptop": {"train.ema_decay": 0.5}, "paper": {"optim.lr": 9.0}}}
    path = study_file(tasks={"digits": digits}, methods={"pixel-v": {"optim.lr": 2e-4}, "pixel-x": {}}, seeds=[7])
    first, second = (cell.composed.config for cell in cells(path, ["digits.train.duration=9 steps"]))
    assert (first.optim.lr, second.optim.lr) == (2e-4, 1e-4), "a method's settings follow its task's"
    assert (first.train.ema_decay, first.train.duration, first.seed) == (0.5, "9 steps", 7)
    found = cells(path)[0]
    assert compose(*([found.task, found.method, found.scale, None]), found.overrides).config == found.composed.config
    assert read_study(path, [], "paper").name == "quick-paper", "another scale is another study"
    scored = cells(study_file(tasks={"digits": DIGITS}, judges=["digits"]))[0].composed.config.eval.metrics
    assert {"fd_digits", "kd_digits", "is_digits"} <= {*scored}


def test_real_images_are_divided_on_the_way_as_in_the_end_and_statistics_are_not(study_file, tmp_path):
    def references(**settings: object) -> list[tuple[str, ...]]:
        path = study_file(tasks={"digits": {**DIGITS, **settings}, "shapes": SMALL}, methods=["pixel-v"])
        return [cell.composed.config.eval.references for cell in cells(path)]

    assert references() == [("digits:odd",), ()]
    assert references(**{"eval.reference": ["digits:odd"]})[0] == ("digits:odd",)
    np.savez(tmp_path / "real.npz", mu=np.zeros(2), sigma=np.eye(2))
    given = {"eval.reference": str(tmp_path / "real.npz"), "eval.reference_extractors": ["digits"]}
    assert references(**given)[0] == (str(tmp_path / "real.npz"),)
    (tmp_path / "real").mkdir()
    named = {"eval.reference": f"digits={tmp_path / 'real'}"}
    assert references(**named)[0] == (f"digits={tmp_path / 'real'}:odd",)


def test_cells_are_chosen_by_pattern_and_by_part(study_file):
    found = cells(study_file())
    assert [cell.name for cell in chosen(found, ["digits-*"], (1, 1))] == ["digits-pixel-v-42", "digits-pixel-x-42"]
    parts = [chosen(found, [], (part, 3)) for part in (1, 2, 3)]
    assert sorted(cell.name for part in parts for cell in part) == sorted(cell.name for cell in found)
    with pytest.raises(ConfigError, match=r"no cell matches 'digit-pixel-v-42'\. Did you mean 'digits-pixel-v-42'"):
        chosen(found, ["digit-pixel-v-42"], (1, 1))


# --- Planning --------------------------------------------------------------------------------------------------------


def test_the_plan_follows_from_the_timed_steps(study_file):
    study = read_study(study_file())
    digits, shapes = cells_of(study)[0][:2]
    timed = {"seconds_per_step": 2.4, "batch_size": 8, "parameters": 1000}
    plan = planning.plan_of(study, digits, timed)
    assert (plan.steps, plan.train_seconds) == (20, 48.0)
    # 0.1 s for a forward pass; 2 steps of the sampler; 40 images: 3 evaluations in and after training without guidance,
    # 2 scales tried with guidance, and the chosen one, and twice without.
    assert plan.score_seconds == pytest.approx(0.1 * 2 * 40 * (3 + 2 * 2 + 2 + 2))
    assert plan.num_bytes >= 3 * 16 * 1000
    plan = planning.plan_of(study, shapes, timed)
    assert plan.score_seconds == pytest.approx(0.1 * 2 * 576 * 3 * 2), "captions are scored with guidance, not tuned"
    plan = planning.plan_of(study, digits, {"error": "no memory"})
    assert (plan.train_seconds, plan.problem) == (None, "no memory")


# --- The runner, with programs that do nothing -----------------------------------------------------------------------


def ends(cell: StudyCell, folder: StudyFolder, words, tell) -> str:
    """Stand in for a program of a cell: leave what the real one leaves."""
    path, config = folder.run(cell), cell.composed.config
    if "train" in words:
        (path / runs.EVALS).mkdir(parents=True, exist_ok=True)
        (path / runs.CONFIG).write_text(to_yaml(config))
        facts = {"precision": "float32", "method": cell.method, "num_images": 80, "processes": 2, "hardware": "a box"}
        facts |= {"task": cell.task, "scale": cell.scale}
        (path / runs.FACTS).write_text(json.dumps({**facts, "classes": [str(n) for n in range(10)]}))
        lines = [
            {"step": 10, "images_per_second": 20.0, "loss/flow": 1.0 + cell.seed, "grad_norm": 2.0},
            {"step": 10, "eval/fd_digits": 9.0},
            {"step": 20, "images_per_second": 20.0, "loss/flow": 3.0 + cell.seed, "grad_norm": 2.0},
        ]
        (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return ""
    made = {}
    for scale in (1.0, 2.5):
        tuning = Tuning(split="even", seeds=(1,)) if scale > 1 and cell.tunes else None
        made[scale] = Record(
            kind="measured",
            id=f"{cell.name}-{scale:g}",
            method=cell.method,
            title=cell.method,
            protocol=Protocol(name="p", axis=config.eval.axis, guidance=Guidance(scale=scale), tuning=tuning),
            values={config.eval.metrics[0]: Value(value=3.0 * scale, stderr=0.5)},
            provenance=Provenance(source="a run", step=20),
        )
    numbers = {"value": 3.0, "stderr": 0.5}
    facts = {
        "metric": config.eval.metrics[0],
        "scale": 2.5,
        "tried": [{"scale": scale, **numbers} for scale in (1.0, 2.5)],
        "unguided": {**numbers, "record": made[1.0].id},
        "optimism": {"value": 0.25, "stderr": 0.5},
    }
    if cell.tunes:
        made[2.5] = made[2.5].model_copy(update={"extra": {"sweep": facts}})
    for record in made.values():
        record.save(path / runs.EVALS / f"{record.id}.json")
    return json.dumps({"id": made[2.5].id})


@pytest.fixture
def programs(monkeypatch, tmp_path):
    """Replaces the programs of cells; gives the words of those that were started, and lets some of them fail."""
    monkeypatch.chdir(tmp_path)
    started: list[list[str]] = []
    failing: dict[str, Exception] = {}

    def child(cell, folder, words, tell):
        started.append(list(words))
        tell("")
        if cell.name in failing:
            raise failing[cell.name]
        return ends(cell, folder, words, tell)

    monkeypatch.setattr(runner, "_child", child)
    timed = {"seconds_per_step": 0.1, "batch_size": 8, "parameters": 1000}
    monkeypatch.setattr(planning, "_timed", lambda cell, launch: dict(timed))
    return namedtuple("Programs", "started failing")(started, failing)


def study(path: str, **request: object) -> Path:
    run_study(StudyRequest([path], **request))
    return Path("outputs/study-quick")


def test_every_cell_trains_is_tuned_or_evaluated_and_leaves_its_records(study_file, programs, capsys):
    folder = study(study_file(price_per_hour=3.0))
    assert capsys.readouterr().out.splitlines()[-1] == "outputs/study-quick/report.md"
    asked = cells(study_file())
    trainings = [words for words in programs.started if "train" in words]
    for cell, words in zip(asked, trainings, strict=True):
        start = words.index("train")
        given = [word for word in words[start:] if "=" in word]
        assert compose(cell.task, cell.method, "laptop", None, given).config == cell.composed.config
        assert words[-2:] == ["--run-dir", f"outputs/study-quick/runs/{cell.name}"]
    scorings = [words for words in programs.started if "train" not in words]
    tail = ["outputs/study-quick/runs/digits-pixel-v-42", "--evaluations", "3", "--high", "10", "--json"]
    assert scorings[0][-7:] == ["sweep", *tail]
    assert scorings[1][-3:] == ["eval", "outputs/study-quick/runs/shapes-pixel-v-42", "--json"]
    records = {path.stem: load(path) for path in (folder / "records").glob("*.json")}
    assert {*records} == {f"{cell.name}-2.5" for cell in asked} | {
        f"{cell.name}-1" for cell in asked if cell.task == "digits"
    }
    record = records["digits-pixel-x-42-2.5"]
    assert record.family == "pixel"
    assert record.extra["study"] == {
        "name": "quick",
        "scale": "laptop",
        "task": "digits",
        "seed": 42,
        "cell": "digits-pixel-x-42",
    }
    assert record.cost.training_images == 160
    assert record.cost.device_hours == pytest.approx(160 / 20 / 3600 * 2), "of both processes"
    assert record.cost.money == pytest.approx(record.cost.device_hours * 3)
    assert [(one.images, one.epoch, one.scores) for one in record.progress] == [(80, 1.0, {"fd_digits": 9.0})]
    report = (folder / "report.md").read_text()
    assert "4 of 4 cells done" in report
    row = next(line for line in report.splitlines() if line.startswith("| digits-pixel-v-42 | 2.5 |"))
    assert row == "| digits-pixel-v-42 | 2.5 | 7.5 ± 0.5 | 3 | +0.25 ± 0.5 | 2 |"
    assert (folder / "site" / "index.html").exists()
    assert "too few for a correlation" in (folder / "findings.md").read_text()


def test_three_seeds_of_a_cell_leave_a_reference_curve(study_file, programs):
    folder = study(study_file(seeds=[1, 2, 3], methods=["pixel-v"]))
    curve = read_curve(folder / "curves" / "digits-pixel-v.json")
    assert (curve["seeds"], curve["steps"]) == ([1, 2, 3], [10, 20])
    assert curve["loss"]["mean"] == [3.0, 5.0]
    assert curve["loss"]["sd"] == pytest.approx([1.0, 1.0])
    assert len([*(folder / "curves").iterdir()]) == 2


def test_a_finished_cell_is_never_repeated_and_a_fresh_one_is(study_file, programs):
    study(study_file())
    before = len(programs.started)
    study(study_file())
    assert len(programs.started) == before
    study(study_file(), fresh=("shapes-pixel-v-42",))
    assert next(words for words in programs.started[before:] if "train" in words)[-1].endswith("shapes-pixel-v-42")
    assert len(programs.started) == before + 2
    # A record that was lost, and a state that is cut off.
    (lost,) = Path("outputs/study-quick/records").glob("shapes-pixel-x*")
    lost.unlink()
    Path("outputs/study-quick/cells/digits-pixel-v-42/state.json").write_text("{")
    study(study_file())
    assert len(programs.started) == before + 6
    assert lost.exists()
    study(study_file(methods={**QUICK["methods"], "jit": None}))
    assert len(programs.started) == before + 10, "a new method adds its cells"
    with pytest.raises(ConfigError, match=r"unknown cell 'shapes-pixl-v-42'\. Did you mean"):
        study(study_file(), fresh=("shapes-pixl-v-42",))


def test_a_cell_that_fails_is_named_and_the_rest_goes_on(study_file, programs, capsys):
    programs.failing["digits-pixel-v-42"] = RunError("non-finite loss at step 3")
    with pytest.raises(RunError, match=r"1 of 4 cell\(s\) failed.*non-finite loss at step 3"):
        study(study_file())
    folder = Path("outputs/study-quick")
    assert "3 of 4 cells done" in (folder / "report.md").read_text()
    assert "non-finite loss at step 3" in (folder / "report.md").read_text()
    assert "digits-pixel-v-42: failed" in capsys.readouterr().err
    programs.failing.clear()
    study(study_file())
    assert "4 of 4 cells done" in (folder / "report.md").read_text(), "the same command tries it again"


def test_a_signal_ends_the_study_and_is_no_failure_of_a_cell(study_file, programs):
    programs.failing["shapes-pixel-v-42"] = Stopped("stopped by SIGTERM.", signal.SIGTERM)
    with pytest.raises(Stopped):
        study(study_file())
    assert not Path("outputs/study-quick/cells/shapes-pixel-v-42/state.json").exists()
    assert Path("outputs/study-quick/cells/digits-pixel-v-42/state.json").exists()


def test_a_cell_that_another_process_has_is_left_to_it(study_file, programs):
    holder = (
        "import sys, time\nfrom pathlib import Path\nfrom nanogen.lock import locked\n"
        "Path(sys.argv[1]).mkdir(parents=True)\n"
        "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    place = "outputs/study-quick/cells/digits-pixel-v-42"
    run_study(StudyRequest([study_file()]), dry_run=True)
    other = subprocess.Popen([sys.executable, "-c", holder, place], stdout=subprocess.PIPE, env=environment())
    try:
        assert other.stdout.readline() == b"held\n"
        folder = study(study_file())
    finally:
        other.kill()
        other.wait()
    assert "3 of 4 cells done" in (folder / "report.md").read_text()
    assert "in use by another process" in (folder / "report.md").read_text()


# --- Bad input -------------------------------------------------------------------------------------------------------


def test_the_folder_of_another_study_is_refused(study_file, programs, tmp_path):
    study(study_file())
    with pytest.raises(CheckpointError, match="belongs to study 'quick' at scale laptop; asked is 'other'"):
        run_study(StudyRequest([study_file(name="other")], run="outputs/study-quick"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(CheckpointError, match="exists and is no study's folder"):
        study(study_file(), run=str(tmp_path / "mine"))


@pytest.mark.parametrize("finished", [True, False])
def test_a_cell_that_was_trained_under_another_config_is_refused(study_file, programs, finished):
    study(study_file())
    before = len(programs.started)
    if not finished:
        for file in Path("outputs/study-quick/cells").glob("*/state.json"):
            file.unlink()
    tasks = {**QUICK["tasks"], "digits": {**DIGITS, "optim.lr": 0.5}}
    with pytest.raises(CheckpointError, match=r"2 cell\(s\) were trained under another .*optim.lr: .* there, 0.5"):
        study(study_file(tasks=tasks))
    assert len(programs.started) == before


def test_a_disk_that_is_too_small_is_refused_before_anything_is_run(study_file, programs, monkeypatch):
    full = namedtuple("Usage", "total used free")(10**9, 10**9, 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    with pytest.raises(CheckpointError, match=r"0\.0 GB are free, and 4 cell\(s\) need"):
        study(study_file())
    assert not programs.started


# --- The programs themselves -----------------------------------------------------------------------------------------


@pytest.fixture
def one_cell(study_file, tmp_path):
    cell, folder = cells(study_file())[0], StudyFolder(tmp_path / "study")
    folder.place(cell).mkdir(parents=True)
    return cell, folder


def test_a_program_s_last_sentence_says_why_it_failed(one_cell):
    cell, folder = one_cell
    script = "import sys; print('noise', file=sys.stderr); sys.exit('ConfigError: the reason.')"
    with pytest.raises(RunError, match=r"^digits-pixel-v-42: ConfigError: the reason\. Its log is .*log\.txt"):
        runner._child(cell, folder, [sys.executable, "-c", script], lambda text: None)
    assert "noise" in (folder.place(cell) / "log.txt").read_text()
    assert runner._child(cell, folder, [sys.executable, "-c", "print('out')"], lambda text: None) == "out\n"
    killed = "import os; os.kill(os.getpid(), 9)"
    with pytest.raises(RunError, match="it was ended by signal 9"):
        runner._child(cell, folder, [sys.executable, "-c", killed], lambda text: None)


def test_a_run_that_an_earlier_command_still_holds_is_waited_for(one_cell, monkeypatch, tmp_path):
    cell, folder = one_cell
    monkeypatch.setattr(runner, "_LOOK", 0.01)
    script = (
        f"import sys, pathlib; seen = pathlib.Path({str(tmp_path / 'seen')!r}); there = seen.exists(); seen.touch()\n"
        "sys.exit(0 if there else 'CheckpointError: run is in use by process 7 on box.')"
    )
    assert runner._child(cell, folder, [sys.executable, "-c", script], lambda text: None) == ""


def test_cost_and_progress_follow_from_the_run_folder(one_cell):
    cell, folder = one_cell
    ends(cell, folder, ["train"], None)
    run = runs.read(folder.run(cell))
    config = run.config.model_copy(update={"condition": run.config.condition.model_copy(update={"num_classes": 10})})
    cost = cost_of(run, 20, None)
    assert cost.training_flops == 3 * resolve(config).shape.forward_flops() * 160
    run.facts["text_tokens"] = 12.0
    captions = compose("shapes", "pixel-v", "laptop").config
    of_captions = replace(run, config=captions, facts={**run.facts, "classes": None})
    images = 20 * captions.train.batch_size
    assert cost_of(of_captions, 20, None).training_flops == 3 * resolve(captions).shape.forward_flops(12) * images
    assert cost.money is None
    assert len(progress_of(run)) == 1
    run.facts.pop("num_images")
    assert progress_of(run) == (), "without the number of images no epoch is known"


def test_families_are_those_of_the_published_study_and_follow_for_ours():
    found = {
        name: family_of(name, compose("digits", name, "laptop").config) for name in method_names() if "toy" in name
    }
    assert found["toy-ae"] == found["toy-vae"] == "vae"
    assert found["toy-rae"] == found["toy-rae-repa"] == "rae"
    assert found["toy-meanflow"] == "few-step"
    config = compose("imagenet256", "jit", "paper").config
    assert family_of("jit", config) == family_of("pixel-v", config) == "pixel"


def call(*words: object, cwd: Path, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "nanogen", *map(str, words)],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=cwd,
        timeout=900,
    )
    assert done.returncode == code, done.stderr
    return done.stdout


@pytest.mark.timeout(1000)
def test_the_quick_study_ends_with_site_and_report(study_file, tmp_path):
    path = study_file(tasks={"digits": DIGITS}, methods=["pixel-v"])
    assert "digits-pixel-v-42" in call("study", path, "--cells", cwd=tmp_path)
    assert call("study", path, cwd=tmp_path).splitlines()[-1] == "outputs/study-quick/report.md"
    records = [load(file) for file in (tmp_path / "outputs/study-quick/records").glob("*.json")]
    free, tuned = sorted(records, key=lambda record: record.protocol.tuning is not None)
    assert (free.protocol.guidance.scale, tuned.protocol.tuning is None) == (1.0, False)
    for record in records:
        assert record.protocol.references["digits"].name == "digits, odd half"
        assert [one.images for one in record.progress] == [80, 160]
        assert record.progress[-1].scores["fd_digits"] == free.values["fd_digits"].value, "the same half and seed"
        assert record.cost.device_hours > 0
    assert (tmp_path / "outputs/study-quick/site/index.html").exists()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_at_ten_random_moments_it_ends_as_undisturbed(study_file, tmp_path):
    path, places = study_file(), [tmp_path / "whole", tmp_path / "killed"]
    for place in places:
        place.mkdir()
    start = time.monotonic()
    call("study", path, cwd=places[0])
    took, moment = time.monotonic() - start, random.Random(0)
    killed, fresh = 0, []
    while killed < 10:
        words = [sys.executable, "-m", "nanogen", "study", path, *fresh]
        with (tmp_path / "said").open("wb") as said:
            process = subprocess.Popen(words, cwd=places[1], env=environment(), stdout=said, stderr=said)
            try:
                # Where it ended before the moment came, a cell is measured anew, so that there is something to kill.
                assert process.wait(moment.uniform(0.05, 0.25) * took) == 0, (tmp_path / "said").read_text()
                fresh = ["--fresh", moment.choice(cells(path)).name]
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                killed, fresh = killed + 1, []
    call("study", path, cwd=places[1])
    found = []
    for place in places:
        records = map(load, sorted((place / "outputs/study-quick/records").glob("*.json")))
        found.append({record.id: (record.values, record.progress, record.protocol) for record in records})
    assert found[0] == found[1]
    assert len(found[0]) == 6


def test_user_errors_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="expected at most one study"):
        run_study(StudyRequest(["laptop", "laptop-seeds"]))
    with pytest.raises(ConfigError, match=r"expected TASK\.key=value with one of digits, shapes"):
        read_study("laptop", ["digit.optim.lr=1"])
