"""What lies in a run folder: complete after any interruption, mended where it is damaged, and never anybody else's."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
from safetensors.torch import save_file
from tiny import tiny

from diffusionbench import runner
from diffusionbench.errors import CheckpointError, RunError
from diffusionbench.record import load
from nanogen import checkpoint, evaluate, log, report, sample
from nanogen import run as runs
from nanogen.log import Log
from nanogen.pipeline import ImagePipeline
from nanogen.train import open_data, train

SETTINGS = ("train.precision=float32", "train.checkpoint_every=2 steps", "sample.every=2 steps", "eval.every=2 steps")
SETTINGS += ("eval.metrics=[accuracy_digits]", "eval.num_samples=4", "train.batch_size=4", "sample.num=1")


class Killed(BaseException):
    """Stands for a process that ends here."""


def run(path: Path, steps: int = 4, *more: str) -> runs.Run:
    return train(tiny(steps, *SETTINGS, *more), path, "cpu", ["test"])


def listing(path: Path) -> list[str]:
    """All files but stored images, whose names depend on the weights."""
    names = (str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    return sorted(name for name in names if not name.startswith("evals/images"))


def record_file(path: Path, step: int) -> Path:
    """The file of the one record of a step."""
    (found,) = [file for file in (path / "evals").glob("*.json") if load(file).provenance.step == step]
    return found


def lines(path: Path) -> list[dict[str, float]]:
    """The log without what depends on the clock."""
    found = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    clocked = ("time", "images_per_second", "model_flops")
    return [{key: line[key] for key in line if not key.startswith(clocked)} for line in found]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run that nothing disturbed; tests that change it take a copy."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    run(path)
    return path


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def die_at(monkeypatch, module, name: str, number: int, error: BaseException | None = None) -> None:
    """Let the call number `number` (from 1) of a function end the process, or raise an error."""
    calls, real = [], getattr(module, name)

    def call(*given, **named):
        calls.append(name)
        if len(calls) == number:
            raise error or Killed
        return real(*given, **named)

    monkeypatch.setattr(module, name, call)


# Making the folder


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("error", [Killed(), OSError(errno.ENOSPC, "No space left on device")])
def test_a_run_that_ended_while_its_folder_was_made_starts_with_the_same_command(number, error, tmp_path, monkeypatch):
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        die_at(patch, runs, "write_atomic", number, error)
        with pytest.raises((Killed, CheckpointError)):
            run(path, 1)
    run(path, 1)
    # The step, its loss by time, its scores.
    assert len(lines(path)) == 3


def test_a_disk_that_is_full_from_the_start_leaves_nothing(tmp_path, monkeypatch):
    die_at(monkeypatch, runs, "write_atomic", 1, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(CheckpointError, match="No space left"):
        run(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("left", ["checkpoints/", "run.json", ".run.json.x3_a.tmp", ".config.yaml.abc.tmp", ".lock"])
def test_what_a_kill_leaves_of_a_new_folder_is_ours(left, tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    (path / left).mkdir() if left.endswith("/") else (path / left).write_text("")
    assert runs._is_unfinished(path)


@pytest.mark.parametrize("mine", ["notes.txt", "checkpoints/step-1/x", "checkpoints/x", "run.json/x", "config.json"])
def test_a_folder_with_anything_else_is_not_ours(mine, tmp_path):
    (tmp_path / mine).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / mine).write_text("keep me")
    with pytest.raises(CheckpointError, match="not a run folder"):
        run(tmp_path)
    assert (tmp_path / mine).read_text() == "keep me"
    assert not (tmp_path / ".lock").exists()


# Killed between a checkpoint and what belongs to its step


@pytest.mark.parametrize(
    "module, name, number",
    [
        (evaluate, "sample_grid", 1),
        (evaluate, "sample_grid", 2),
        (evaluate, "evaluate", 1),
        (evaluate, "evaluate", 2),
        (Log, "write_record", 1),
        (Log, "write_record", 2),
        (checkpoint.Saver, "save", 2),
        (checkpoint, "prune", 1),
    ],
)
def test_what_the_newest_checkpoint_lacks_is_made_on_continuing(module, name, number, whole, tmp_path, monkeypatch):
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        die_at(patch, module, name, number)
        with pytest.raises(Killed):
            run(path)
    run(path)
    assert listing(path) == listing(whole)
    assert lines(path) == lines(whole)


@pytest.mark.parametrize("damage", [b"", b'{"schema_version": 1, "kind"', None])
def test_half_a_grid_or_record_is_made_again(damage, copy, whole):
    record = record_file(copy, 4)
    grid = copy / "samples" / "step-00000004.png"
    for file in (record, grid):
        file.write_bytes(file.read_bytes()[:-20] if damage is None else damage)
    run(copy)
    assert json.loads(record.read_text())["values"] == json.loads((whole / "evals" / record.name).read_text())["values"]
    assert evaluate.has_grid(copy, 4)
    assert lines(copy) == lines(whole)


def test_a_record_of_other_metrics_does_not_count_as_done(copy):
    record = record_file(copy, 4)
    content = json.loads(record.read_text())
    content["values"] = {"is_digits": content["values"]["accuracy_digits"]}
    record.write_text(json.dumps(content, indent=2))
    run(copy)
    assert "accuracy_digits" in json.loads(record.read_text())["values"]


def test_a_finished_run_is_left_as_it_is(copy):
    before = {name: (copy / name).read_bytes() for name in listing(copy)}
    run(copy)
    assert {name: (copy / name).read_bytes() for name in listing(copy)} == before


# The log


@pytest.mark.parametrize(
    "line", [b"{", b"\xff\xfe{}", b"[1]", b"null", b"7", b'{"step": "2"}', b'{"a": 1}', b'{"step": 1.5}', b"\0\0",
             b'{"step": true}', b'{"step": -1}', b"[" * 100_000, b'{"step": ' + b"9" * 5000 + b"}"],
)  # fmt: skip
def test_a_damaged_line_in_the_middle_costs_nothing_else(line, tmp_path, capsys):
    file = tmp_path / "metrics.jsonl"
    good = [b'{"step": 1, "loss/flow": 2.0}\n', b'{"step": 2}\n', b'{"step": 2, "eval/x": 1}\n']
    damaged = b"".join([*good[:2], line + b"\n", *good[2:]])
    file.write_bytes(damaged)
    assert [entry["step"] for entry in log.read(file)] == [1, 2, 2]
    capsys.readouterr()
    Log(tmp_path, [], 2).close()
    assert file.read_bytes() == b"".join(good)
    assert "1 damaged line(s) left out, the first is line 3" in capsys.readouterr().err
    assert (tmp_path / "metrics.damaged-1.jsonl").read_bytes() == damaged


def test_training_goes_on_with_a_mended_log(copy, whole, capsys):
    file = copy / "metrics.jsonl"
    file.write_bytes(b"\xff\n" + file.read_bytes() + b'{"step": 5, "ti')
    run(copy)
    assert lines(copy) == lines(whole)
    assert "1 damaged line(s) left out, the first is line 1" in capsys.readouterr().err


def test_a_line_cut_off_by_a_kill_is_no_damage(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n{"step": 2, "ti')
    Log(tmp_path, [], 4).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == b'{"step": 1}\n'
    assert capsys.readouterr().err == ""


class Full:
    """A log file on a disk that has room for `room` bytes."""

    def __init__(self, room: int | None) -> None:
        self.room = room

    def write(self, data: bytes) -> int:
        if self.room is None:
            raise OSError(errno.EFBIG, "File too large")
        return self.room

    def fileno(self) -> int:
        raise OSError(errno.EIO, "Input/output error")

    def close(self) -> None:
        pass


@pytest.mark.parametrize("room", [None, 3])
def test_a_log_that_cannot_grow_ends_in_a_sentence(room, tmp_path):
    metrics = Log(tmp_path, [], 0)
    metrics._file.close()
    metrics._file = Full(room)
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl cannot be written: (File too large|No space left)"):
        metrics.write(1, {"loss": 1.0})
    metrics.close()


def test_a_log_that_cannot_be_opened_ends_in_a_sentence(copy):
    (copy / "metrics.jsonl").unlink()
    (copy / "metrics.jsonl").mkdir()
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl cannot be written"):
        run(copy)


def test_lines_are_on_the_disk_before_the_checkpoint_that_counts_on_them(tmp_path, monkeypatch):
    done = []
    for owner, name in [(Log, "write"), (Log, "sync"), (checkpoint.Saver, "save")]:
        real = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given, real=real, name=name: (done.append(name), real(*given))[1])
    run(tmp_path / "run", 2, "eval.metrics=[]")
    assert done == ["write", "write", "sync", "save"]


# Checkpoints


def steps_of(path: Path) -> list[str]:
    return sorted(file.name for file in (path / "checkpoints").iterdir())


@pytest.mark.parametrize(
    "name", ["step-00000004.bak", "step-4", "step-000000004", "step-0000000٤", "step-", "step-best", "step-00000004 2"]
)
def test_only_exact_names_are_checkpoints(name, copy):
    other = shutil.copytree(copy / "checkpoints" / "step-00000004", copy / "checkpoints" / name)
    found, damaged = checkpoint.newest(copy / "checkpoints")
    assert (found.step, damaged) == (4, [])
    checkpoint.prune(copy / "checkpoints", 4, 1)
    assert steps_of(copy) == sorted(["step-00000004", name])
    assert len(list(other.iterdir())) == 3


FILE = {"bytes": 1, "sha256": "0"}
MANIFESTS = ["", "no json", "[]", "7", "null", "{}", "[" * 100_000, b"\xff", '{"step": 4, "files": []}']
MANIFESTS += ['{"step": 4, "files": {}}', '{"step": 4, "files": {"ema.safetensors": 1}}', '{"step": 2, "files": {}}']
MANIFESTS += ['{"step": 4, "files": {"ema.safetensors": {"bytes": "x", "sha256": 1}}}']
ODD_NAMES = ["../step-00000002/manifest.json", "/etc/passwd", "a\0b", "\x1b[31m", "x" * 5000]


@pytest.mark.parametrize("content", MANIFESTS)
def test_an_odd_manifest_falls_back_to_the_checkpoint_before(content, copy, whole, capsys):
    manifest = copy / "checkpoints" / "step-00000004" / "manifest.json"
    manifest.write_bytes(content if isinstance(content, bytes) else content.encode())
    found, (sentence,) = checkpoint.newest(copy / "checkpoints")
    assert found.step == 2
    assert "step-00000004 is damaged (manifest.json" in sentence


def test_nothing_waits_for_a_pipe_under_the_name_of_a_file(copy):
    for name in ("config.yaml", "checkpoints/step-00000004/manifest.json"):
        (copy / name).unlink()
        os.mkfifo(copy / name)
    assert checkpoint.newest(copy / "checkpoints")[0].step == 2
    with pytest.raises(CheckpointError, match=r"config\.yaml is damaged: is no regular file"):
        runs.read(copy)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_manifest_that_lists_strange_files_is_damaged(name, copy):
    manifest = copy / "checkpoints" / "step-00000004" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"][name] = FILE
    manifest.write_text(json.dumps(content))
    found, (sentence,) = checkpoint.newest(copy / "checkpoints")
    assert found.step == 2
    assert sentence.isprintable()


def test_a_damaged_newer_checkpoint_does_not_push_out_the_one_just_written(copy):
    checkpoint.prune(copy / "checkpoints", 2, 1)
    assert steps_of(copy) == ["step-00000002", "step-00000004"]
    checkpoint.prune(copy / "checkpoints", 4, 1)
    assert steps_of(copy) == ["step-00000004"]


def test_older_checkpoints_go_once_the_new_one_is_durable(tmp_path, monkeypatch):
    done = []
    for name in ("sync", "prune"):
        real = getattr(checkpoint, name)
        monkeypatch.setattr(
            checkpoint,
            name,
            lambda path, *more, real=real, name=name: (done.append((name, path.name)), real(path, *more)),
        )
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", lambda path, to: (done.append(("rename", path.name)), rename(path, to))[1])
    run(tmp_path / "run", 1, "eval.metrics=[]")
    assert [one for one in done if one != ("rename", ".metadata.tmp")] == [
        ("sync", "ema.safetensors"),
        ("sync", "state"),
        ("sync", ".step-00000001.tmp"),
        ("rename", ".step-00000001.tmp"),
        ("sync", "checkpoints"),
        ("prune", "checkpoints"),
    ]


def test_checkpoints_that_a_stopped_run_would_have_removed_go_on_continuing(copy, monkeypatch):
    synced = []
    real = checkpoint.sync
    monkeypatch.setattr(checkpoint, "sync", lambda path: synced.append((path.name, steps_of(copy))) or real(path))
    run(copy, 4, "train.keep=1")
    assert steps_of(copy) == ["step-00000004"]
    assert synced == [("checkpoints", ["step-00000002", "step-00000004"])]


def test_a_checkpoint_is_as_readable_as_any_new_file(whole, tmp_path):
    (tmp_path / "new").touch()
    files = [file for file in (whole / "checkpoints").rglob("*") if file.is_file()]
    assert {file.stat().st_mode for file in files} == {(tmp_path / "new").stat().st_mode}


def test_what_a_killed_process_left_unfinished_is_swept(copy):
    left = copy / "checkpoints" / ".step-00000003.tmp" / "state"
    left.mkdir(parents=True)
    kept = copy / "checkpoints" / ".step-mine.tmp"
    kept.mkdir()
    run(copy)
    assert steps_of(copy) == [".step-mine.tmp", "step-00000002", "step-00000004"]


# Damaged files of the run itself


def test_a_checkpoint_tells_what_the_folder_was(whole):
    found, _ = checkpoint.newest(whole / "checkpoints")
    header = checkpoint.read_header(found.weights)
    assert json.loads(header["run"]) == json.loads((whole / "run.json").read_text())
    assert runs.reload(json.loads(header["config"]), "") == runs.read(whole).config


def reopened(path: Path, *more: str) -> runs.Run:
    """What a command that continues a run finds in its folder."""
    with ExitStack() as held:
        return runs.open_run(path, open_data(tiny(4, *SETTINGS, *more).config)[1], {}, 0, held)


CUT = object()


@pytest.mark.parametrize("content", [b"", b"\0" * 300, b"\xff\xfe", b"[1, 2", b"- a\n", CUT, None])
@pytest.mark.parametrize("name", ["config.yaml", "run.json"])
def test_a_damaged_file_is_named_and_restored_from_the_newest_checkpoint(name, content, copy, whole, capsys):
    file = copy / name
    before = file.read_bytes()
    if content is None:
        file.unlink()
    else:
        file.write_bytes(before[: len(before) // 2] if content is CUT else content)
    with pytest.raises(CheckpointError, match=rf"{name} is damaged: .*`nanogen train` command"):
        runs.read(copy)
    reopened(copy)
    assert f"{file} is damaged" in capsys.readouterr().err
    assert (runs.read(copy).config, runs.read(copy).facts) == (runs.read(whole).config, runs.read(whole).facts)


def test_a_damaged_file_that_no_checkpoint_tells_is_named(copy):
    shutil.rmtree(copy / "checkpoints")
    (copy / "config.yaml").write_text("")
    with pytest.raises(CheckpointError, match=r"config\.yaml is damaged: it is empty\. No checkpoint tells"):
        reopened(copy)


def test_a_restored_config_is_still_compared(copy):
    (copy / "config.yaml").write_text("")
    with pytest.raises(CheckpointError, match="seed: 42 there, 1 asked"):
        reopened(copy, "seed=1")


# The list of classes


def test_a_run_keeps_the_list_of_its_classes(whole):
    facts = json.loads((whole / "run.json").read_text())
    assert facts["classes"] == list("0123456789")
    run = runs.read(whole)
    runs.ensure_same_data(run, facts)
    swapped = {**facts, "classes": [*"1023456789"]}
    with pytest.raises(CheckpointError, match="with class 0 called '0', found '1'"):
        runs.ensure_same_data(run, swapped)
    with pytest.raises(CheckpointError, match="with 10 classes, found 0"):
        runs.ensure_same_data(run, {**facts, "classes": None})


@pytest.mark.parametrize("key", ["data_digest", "condition_digest", "latent_digest", "losses_digest", "version"])
def test_a_run_keeps_all_that_its_weights_depend_on(key, whole):
    facts = json.loads((whole / "run.json").read_text())
    with pytest.raises(CheckpointError, match=f"was trained with {key.replace('_', ' ')} .*, found other"):
        runs.ensure_same_data(runs.read(whole), {**facts, key: "other"})


def test_a_run_without_a_list_of_classes_continues_on_the_same_data_alone(copy):
    facts = json.loads((copy / "run.json").read_text())
    earlier = {key: value for key, value in facts.items() if key != "classes"}
    (copy / "run.json").write_text(json.dumps(earlier))
    runs.ensure_same_data(runs.read(copy), facts)
    with pytest.raises(CheckpointError, match="can be sampled and scored, not continued"):
        runs.ensure_same_data(runs.read(copy), {**facts, "data_digest": "other"})


# A run of a version with other noise


def without_noise(path: Path) -> None:
    """Leave a run folder as versions before the rule `blake2b-1` wrote it; they named records by what was asked."""

    def cut(text: str) -> str:
        values = json.loads(text)
        return json.dumps({key: value for key, value in values.items() if key != "noise"})

    for file in (path / "evals").glob("*.json"):
        record = json.loads(file.read_text())
        record["protocol"]["noise"] = record["extra"]["request"]["sampling"]["noise"] = None
        file.unlink()
        step = record["provenance"]["step"]
        (path / "evals" / f"step-{step:08d}-euler2-shift1.json").write_text(json.dumps(record))
    config = path / "config.yaml"
    config.write_text(config.read_text().replace("noise: blake2b-1\n", ""))
    (path / "run.json").write_text(cut((path / "run.json").read_text()))
    for folder in (path / "checkpoints").iterdir():
        tensors, header = checkpoint.read_weights(folder / "ema.safetensors")
        save_file(tensors, folder / "ema.safetensors", header | {key: cut(header[key]) for key in ("config", "run")})
        manifest = json.loads((folder / "manifest.json").read_text())
        data = (folder / "ema.safetensors").read_bytes()
        manifest["files"]["ema.safetensors"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("damaged", [None, "config.yaml", "run.json"])
def test_a_run_with_the_noise_of_an_earlier_version_is_not_continued(damaged, copy):
    without_noise(copy)
    if damaged is not None:
        (copy / damaged).write_text("")
    for _ in range(2):
        with pytest.raises(CheckpointError, match="noise of an earlier version: it can be sampled and scored"):
            run(copy, 4)
    assert steps_of(copy) == ["step-00000002", "step-00000004"]


def test_a_run_with_the_noise_of_an_earlier_version_is_sampled_and_scored(copy, tmp_path):
    without_noise(copy)
    assert "noise" not in (copy / "config.yaml").read_text()
    before = {path.name: path.read_bytes() for path in (copy / "evals").glob("*.json")}
    record = evaluate.evaluate_run(copy, [], False, None)
    assert record.protocol.noise == "blake2b-1"
    assert sample.sample_run(copy, [], sample.SampleRequest(num=2), tmp_path / "grid.png")
    after = {path.name: path.read_bytes() for path in (copy / "evals").glob("*.json")}
    # The records that it has are of other images.
    assert before.items() < after.items()


@pytest.mark.parametrize("name", ["notes.txt", "state/notes.txt", "more/grid.png"])
def test_files_of_others_in_a_checkpoint_stay(name, copy):
    old, new = (copy / "checkpoints" / f"step-0000000{step}" for step in (2, 4))
    for path in (old, new):
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text("mine")
    run(copy, 4, "train.keep=1")
    assert (old / name).exists()
    (new / checkpoint.MANIFEST).unlink()
    with pytest.raises(CheckpointError, match=f"holds {name}, which is no file of a checkpoint; move it away"):
        run(copy, 4, "train.keep=1")
    (new / name).rename(copy / "elsewhere")
    run(copy, 4, "train.keep=1")
    assert (old / name).exists()
    assert (new / checkpoint.MANIFEST).exists()


def test_lost_lines_of_the_log_are_said(copy, capsys):
    run(copy, 4)
    assert "has no lines" not in capsys.readouterr().err
    text = (copy / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copy / "metrics.jsonl").write_text("".join(line for line in text if json.loads(line)["step"] < 2))
    run(copy, 4)
    assert "metrics.jsonl has no lines from step 2 to 4; they are not made again" in capsys.readouterr().err


def test_a_report_leaves_out_grids_that_are_none(copy, capsys):
    (copy / "samples" / "step-best.png").write_bytes(b"")
    for file in (copy / "samples").glob("step-0*.png"):
        file.unlink()
    (copy / "samples" / "step-00000002.png").mkdir()
    (copy / "samples" / "step-00000004.png").symlink_to("nowhere")
    assert report.sample_grids(copy) == []
    said = capsys.readouterr().err
    assert "2 sample grid(s) cannot be read and are left out, the first is step-00000004.png" in said


# A folder that goes away


@pytest.mark.parametrize("gone", ["deleted", "moved", "replaced"])
def test_a_run_whose_folder_is_gone_fails_and_makes_no_other(gone, tmp_path, monkeypatch):
    path, real = tmp_path / "run", evaluate.sample_grid

    def sample_grid(*given):
        real(*given)
        # A checkpoint may be written at this moment, and then its folder is filled again while it is removed.
        while gone == "deleted" and path.exists():
            shutil.rmtree(path, ignore_errors=True)
        if gone != "deleted":
            path.rename(tmp_path / "elsewhere")
        if gone == "replaced":
            shutil.copytree(tmp_path / "elsewhere", path)

    monkeypatch.setattr(evaluate, "sample_grid", sample_grid)
    with pytest.raises(RunError, match="is gone: it was moved or deleted"):
        run(path, 4, "eval.metrics=[]")
    assert path.exists() == (gone == "replaced")


@pytest.mark.parametrize("during", [(runner, "read"), (runner, "score"), (ImagePipeline, "in_batches")])
def test_a_run_whose_folder_goes_while_it_is_drawn_or_scored_makes_no_other(during, tmp_path, monkeypatch):
    path, (module, name) = tmp_path / "run", during
    real = getattr(module, name)

    def moving(*given, **named):
        made = real(*given, **named)
        if path.exists():
            path.rename(tmp_path / "elsewhere")
        return made

    monkeypatch.setattr(module, name, moving)
    with pytest.raises(RunError, match="is gone: it was moved or deleted"):
        run(path, 1, "eval.metrics=[accuracy_digits]", "eval.num_samples=4", "sample.every=1 steps")
    assert not path.exists()
