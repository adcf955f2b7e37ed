"""What commands leave on the disk, finished or refused: a whole result or nothing, and one sentence that says why."""

from __future__ import annotations

import errno
import json
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file
from tiny import words

from diffusionbench.errors import RequestError
from diffusionbench.record import load as load_record
from nanogen import cli, sample
from nanogen.checkpoint import newest, read_weights
from nanogen.config import method_names, task_names
from nanogen.datasets import DATASETS
from nanogen.latents import LATENTS
from nanogen.objectives import OBJECTIVES

TINY = words(3)


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@pytest.fixture
def nanogen(monkeypatch, capsys, tmp_path):
    """Run a command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["nanogen", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        captured = capsys.readouterr()
        return Done(int(caught.value.code or 0), captured.out, captured.err)

    return call


@pytest.fixture
def refused(nanogen):
    """Run a command that must be refused; gives its sentence."""

    def call(*arguments: object, error: str = "") -> str:
        done = nanogen(*arguments)
        assert done.code == 2, done
        assert done.out == ""
        assert "Traceback" not in done.err
        (sentence,) = done.err.strip().splitlines()
        assert sentence.startswith(error), sentence
        return sentence

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """The folder of a finished tiny run; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["nanogen", "train", "--task", "digits", "--run", str(folder), *TINY])
        with pytest.raises(SystemExit) as caught:
            cli.main()
    assert not caught.value.code
    return folder


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "copy"))


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def pictures(folder: Path, count: int = 4, size: int = 8) -> Path:
    """Two classes of random images."""
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{index}.png")
    return folder


# What the verbs do


def test_train_prints_the_run_folder_and_the_same_command_finds_it_finished(nanogen, tmp_path):
    done = nanogen("train", "--task", "digits", "--run", "runs/one", *TINY)
    assert (done.code, done.out) == (0, "runs/one\n")
    run = tmp_path / "runs" / "one"
    assert {"config.yaml", "run.json", "metrics.jsonl", "checkpoints", "samples"} <= {p.name for p in run.iterdir()}
    facts = json.loads((run / "run.json").read_text())
    assert shlex.split(facts["command"])[1:] == ["train", "--task", "digits", "--run", "runs/one", *TINY]
    assert (facts["task"], facts["method"], facts["scale"]) == ("digits", "pixel-v", "laptop")
    before = {name: (run / name).read_bytes() for name in listing(run) if (run / name).is_file()}
    again = nanogen("train", "--task", "digits", "--run", "runs/one", *TINY)
    assert (again.code, again.out) == (0, "runs/one\n")
    assert "continuing after step 3" in again.err
    assert before == {name: (run / name).read_bytes() for name in listing(run) if (run / name).is_file()}


def test_a_run_without_a_name_is_called_after_its_choice(nanogen, tmp_path):
    assert nanogen("train", "--task", "digits", *TINY).out == "outputs/digits-pixel-v-laptop\n"
    assert (tmp_path / "outputs" / "digits-pixel-v-laptop" / "config.yaml").is_file()


def test_a_dry_run_writes_nothing(nanogen, tmp_path):
    done = nanogen("train", "--task", "digits", "--dry-run", *TINY)
    assert done.code == 0
    assert "model.encoder_hidden_size: 16" in done.out
    assert listing(tmp_path) == []


def test_sample_writes_a_grid_a_folder_or_an_archive(nanogen, trained, tmp_path):
    done = nanogen("sample", trained, "--labels", "0-9", "--num", 12, "--guidance", 2.0, "--out", "grid.png")
    assert (done.code, done.out) == (0, "grid.png\n")
    with Image.open(tmp_path / "grid.png") as image:
        assert image.mode == "RGB"
    assert nanogen("sample", trained, "--labels", "3,7", "--num", 5, "--out", "folder").code == 0
    assert [len(list((tmp_path / "folder" / name).iterdir())) for name in "37"] == [3, 2]
    assert nanogen("sample", trained, "--labels", "3,7", "--num", 5, "--out", "all.npz", "--batch-size", 2).code == 0
    archive = np.load(tmp_path / "all.npz")
    assert archive["arr_0"].shape == (5, 8, 8, 3)
    assert archive["arr_0"].dtype == np.uint8
    assert archive["arr_1"].tolist() == [3, 7, 3, 7, 3]
    with Image.open(tmp_path / "folder" / "7" / "000003.png") as image:
        np.testing.assert_allclose(np.asarray(image).astype(int), archive["arr_0"][3].astype(int), atol=1)
    other = nanogen("sample", trained, "--labels", "3,7", "--num", 5, "--out", "other.npz", "--seed", 1)
    assert other.code == 0
    assert (np.load(tmp_path / "other.npz")["arr_0"] != archive["arr_0"]).any()


def test_eval_prints_and_stores_the_same_record(nanogen, copy):
    arguments = ["eval", copy, "--metrics", "accuracy_digits", "--num", 20]
    done = nanogen(*arguments, "--json")
    assert done.code == 0, done.err
    printed = json.loads(done.out)
    (file,) = (copy / "evals").glob("*.json")
    record = load_record(file)
    assert printed == record.model_dump(mode="json")
    assert set(record.values) == {"accuracy_digits"}
    assert 0 <= record.values["accuracy_digits"].value <= 1
    assert "accuracy_digits" in nanogen(*arguments).out
    assert nanogen(*arguments, "--out", copy / "mine.json").code == 0
    assert load_record(copy / "mine.json").values["accuracy_digits"] == record.values["accuracy_digits"]


def test_show_prints_a_config_that_loads(nanogen, tmp_path):
    shown = json.loads(nanogen("show", "--task", "digits", "optim.lr=1e-3", "--json").out)
    assert shown["config"]["optim"]["lr"] == 1e-3
    assert shown["origins"]["optim.lr"] == "command line"
    assert shown["derived"]["latent_shape"] == [3, 8, 8]
    (tmp_path / "shown.yaml").write_text(nanogen("show", "--task", "digits", "optim.lr=1e-3").out)
    again = json.loads(nanogen("show", "shown.yaml", "--task", "imagenet256", "--json").out)
    assert again["config"]["optim"] == shown["config"]["optim"]
    text = nanogen("show", "--task", "imagefolder").out
    assert "num_classes: auto" in text


def test_ls_lists_every_table(nanogen):
    tables = json.loads(nanogen("ls", "--json").out)
    assert list(tables["tasks"]) == task_names()
    assert list(tables["methods"]) == method_names()
    for name, table in {"latents": LATENTS, "objectives": OBJECTIVES, "data": DATASETS}.items():
        assert set(tables[name]) == set(table)
    assert nanogen("ls", "tasks").out.startswith("tasks\n")


# Wrong use: exit code 2, one sentence, nothing written


@pytest.mark.parametrize(
    "arguments, error, reasons",
    [
        ("--task digits optim.lrr=1", "ConfigError", ["'optim.lrr'", "'optim.lr'"]),
        ("--task digits optim.lr=fast", "ConfigError", ["optim.lr", "number", "'fast'"]),
        ("--task digit", "ConfigError", ["task 'digit'", "'digits'"]),
        ("--task digits --method pixel", "ConfigError", ["method 'pixel'", "'pixel-x'"]),
        ("--task digits --scale large", "ConfigError", ["scale 'large'", "laptop, paper, single-gpu"]),
        ("", "ConfigError", ["no task", "digits"]),
        ("absent.yaml", "ConfigError", ["absent.yaml"]),
        ("--task imagefolder data.image_size=8", "DataError", ["--data"]),
        ("--task imagefolder data.path=absent", "DataError", ["absent"]),
        ("--task digits train.batch_size=4000", "", ["1438", "4000"]),
        ("--task digits train.batch_size=10 train.accumulation=3", "ConfigError", ["10", "3"]),
        ("--task digits eval.metrics=[fdi]", "ConfigError", ["'fdi'", "'fid'"]),
        ("--task digits eval.metrics=[accuracy_digits] eval.num_samples=0", "ConfigError", ["num_samples"]),
        ("--task digits condition.num_classes=3", "ConfigError", ["3", "10 classes"]),
        ("--task digits train.duration=0 steps", "ConfigError", ["'0 steps'"]),
        ("--task digits model.encoder_num_heads=3", "ConfigError", ["model"]),
    ],
)
def test_train_refuses(refused, tmp_path, arguments, error, reasons):
    given = arguments.replace("=0 steps", "=0_steps").split()
    sentence = refused("train", *TINY, *(word.replace("_steps", " steps") for word in given), error=error)
    for reason in reasons:
        assert reason in sentence
    assert listing(tmp_path) == []


def test_train_refuses_a_folder_without_images(refused, tmp_path):
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    (tmp_path / "empty" / "cat" / "notes.txt").write_text("no image")
    before = listing(tmp_path)
    sentence = refused("train", "--task", "imagefolder", "--data", "empty", *TINY, error="DataError")
    assert "empty" in sentence
    assert listing(tmp_path) == before


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_ends_the_run_with_its_name(nanogen, tmp_path, workers):
    folder = pictures(tmp_path / "pictures")
    whole = (folder / "dog" / "2.png").read_bytes()
    (folder / "dog" / "2.png").write_bytes(whole[: len(whole) // 2])
    arguments = ["data.image_size=8", f"data.workers={workers}", *TINY]
    done = nanogen("train", "--task", "imagefolder", "--data", folder, *arguments)
    assert done.code == 2
    assert "Traceback" not in done.err
    sentence = done.err.strip().splitlines()[-1]
    assert sentence.startswith("DataError: ")
    assert str(Path("dog") / "2.png") in sentence
    assert not list(tmp_path.rglob("*.tmp"))


def test_train_refuses_a_folder_of_another_config(refused, copy):
    before = listing(copy)
    sentence = refused("train", "--task", "digits", "--run", copy, *TINY, "seed=1", error="CheckpointError")
    assert str(copy) in sentence
    assert "seed: 42 there, 1 asked" in sentence
    assert "--run NAME" in sentence
    assert listing(copy) == before


def test_train_refuses_a_folder_that_is_no_run(refused, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.txt").write_text("mine")
    sentence = refused("train", "--task", "digits", "--run", "./photos", *TINY, error="CheckpointError")
    assert "not a run folder" in sentence
    assert listing(tmp_path) == ["photos", "photos/one.txt"]


def test_train_refuses_a_run_folder_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    sentence = refused("train", "--task", "digits", "--run", "file/run", *TINY, error="CheckpointError")
    assert "file/run" in sentence
    assert "cannot be written" in sentence
    assert listing(tmp_path) == ["file"]


def test_train_refuses_a_full_disk(refused, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    sentence = refused("train", "--task", "digits", "--run", "./run", *TINY, error="CheckpointError")
    assert "0 MB are free" in sentence


def test_train_refuses_other_data_than_before(refused, nanogen, tmp_path):
    folder = pictures(tmp_path / "pictures", count=5)
    arguments = ["train", "--task", "imagefolder", "--data", folder, "--run", "mine", "data.image_size=8"]
    arguments += ["data.workers=0", *TINY, "train.duration=1 steps"]
    assert nanogen(*arguments).code == 0
    (folder / "cat" / "0.png").unlink()
    assert "data digest" in refused(*arguments, error="CheckpointError")


@pytest.mark.parametrize(
    "arguments, error, reasons",
    [
        ("--labels 10", "RequestError", ["0..9", "found 10"]),
        ("--labels 3,12,5,99", "RequestError", ["0..9", "12, 99"]),
        ("--labels 8-11", "RequestError", ["0..9", "10, 11"]),
        ("--labels 7-3", "RequestError", ["0..9"]),
        ("--labels=-1", "RequestError", ["'-1'"]),
        ("--out grid.jpg", "RequestError", ["grid.jpg", ".png", "'.jpg'"]),
        ("optim.lr=1", "ConfigError", ["optim.lr", "0.002", "sampler.*"]),
        ("sampler.num_step=1", "ConfigError", ["sampler.num_steps"]),
        ("--guidance 0.5", "ConfigError", ["guidance.scale", "0.5"]),
        ("sampler.num_steps", "ConfigError", ["key=value"]),
    ],
)
def test_sample_refuses(refused, trained, tmp_path, arguments, error, reasons):
    sentence = refused("sample", trained, "--num", 2, *arguments.split(), error=error)
    for reason in reasons:
        assert reason in sentence
    assert listing(tmp_path) == []


def test_sample_refuses_a_folder_that_holds_something(refused, trained, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").write_bytes(b"")
    assert "not empty" in refused("sample", trained, "--num", 2, "--out", "mine", error="RequestError")


def test_sample_replaces_its_own_grids_and_archives_alone(nanogen, refused, trained, tmp_path):
    for out in ("grid.png", "all.npz"):
        for num in (2, 3):
            assert nanogen("sample", trained, "--num", num, "--out", out).code == 0
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "grid.png")
    np.savez(tmp_path / "all.npz", arr_0=np.zeros((2, 8, 8, 3), np.uint8), arr_1=np.arange(2))
    for out in ("grid.png", "all.npz"):
        before = (tmp_path / out).read_bytes()
        assert "it would be lost" in refused("sample", trained, "--num", 2, "--out", out, error="RequestError")
        assert (tmp_path / out).read_bytes() == before


def test_sample_refuses_an_output_that_cannot_be_written(refused, trained, tmp_path):
    (tmp_path / "file").write_text("")
    for out in ("file/grid.png", "file/all.npz", "file/folder"):
        assert out in refused("sample", trained, "--num", 2, "--out", out, error="RequestError")


@pytest.mark.parametrize("out", ["mine.png", "mine.npz"])
def test_sample_takes_no_file_of_others_for_its_own(refused, nanogen, trained, tmp_path, out):
    if out == "mine.png":
        Image.new("RGB", (8, 8)).save(tmp_path / out)
    else:
        np.savez(tmp_path / out, arr_0=np.zeros((2, 8, 8, 3), np.uint8), arr_1=np.arange(2))
    before = (tmp_path / out).read_bytes()
    assert "would be lost" in refused("sample", trained, "--num", 2, "--out", out, error="RequestError")
    assert (tmp_path / out).read_bytes() == before
    (tmp_path / out).unlink()
    for _ in range(2):
        assert nanogen("sample", trained, "--num", 2, "--out", out).code == 0


def test_a_folder_of_samples_is_whole_or_absent(refused, nanogen, trained, tmp_path, monkeypatch):
    command, calls, real = ("sample", trained, "--labels", "3", "--num", 4, "--out", "folder"), [], sample.encode_png

    def full(*given):
        calls.append(given)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*given)

    monkeypatch.setattr(sample, "encode_png", full)
    assert "No space left" in refused(*command, error="RequestError")
    assert listing(tmp_path) == []
    assert nanogen(*command).code == 0
    assert len(list((tmp_path / "folder" / "3").iterdir())) == 4


def test_a_record_that_cannot_be_written_is_printed(nanogen, trained, monkeypatch):
    def full(record, path):
        raise RequestError(f"{path} cannot be written: No space left on device.")

    monkeypatch.setattr("diffusionbench.record.Record.save", full)
    metrics = ("--metrics", "accuracy_digits", "--num", 12, "--json")
    done = nanogen("eval", trained, *metrics, "--out", "record.json")
    assert done.code == 2
    assert "No space left" in done.err
    assert json.loads(done.out)["values"]["accuracy_digits"]["scored"] == 12


def altered(copy: Path, change) -> Path:
    """A weights file with other tensors or another header."""
    tensors, header = read_weights(newest(copy / "checkpoints")[0].weights)
    change(tensors, header)
    save_file(tensors, copy / "altered.safetensors", header)
    return copy / "altered.safetensors"


def test_sample_refuses_files_that_are_no_weights_of_ours(refused, copy, tmp_path):
    sentence = refused("sample", altered(copy, lambda tensors, header: header.clear()), error="CheckpointError")
    assert "no config in their header" in sentence
    (tmp_path / "noise.safetensors").write_bytes(b"\0" * 100)
    assert "noise.safetensors" in refused("sample", "noise.safetensors", error="CheckpointError")
    assert "absent" in refused("sample", "absent", error="CheckpointError")


def test_a_run_without_checkpoint_is_refused(refused, copy):
    shutil.rmtree(copy / "checkpoints")
    assert "no intact checkpoint" in refused("sample", copy, error="CheckpointError")
    assert "no intact checkpoint" in refused("eval", copy, error="CheckpointError")


@pytest.mark.parametrize(
    "arguments, reasons",
    [
        ("", ["names no metric", "--metrics"]),
        ("--metrics fdi", ["'fdi'", "'fid'"]),
        ("--metrics accuracy_digits eval.reference=absent", ["absent"]),
        ("--metrics accuracy_digits --tuned", ["tuned"]),
        ("--metrics accuracy_digits --num 10 train.batch_size=2", ["train.batch_size", "eval.*"]),
    ],
)
def test_eval_refuses(refused, copy, arguments, reasons):
    before = listing(copy)
    sentence = refused("eval", copy, *arguments.split())
    for reason in reasons:
        assert reason in sentence
    assert listing(copy) == before


@pytest.mark.parametrize("verb", ["sample", "eval", "report"])
def test_a_path_that_is_no_run_is_refused(refused, tmp_path, verb):
    sentence = refused(verb, tmp_path, error="CheckpointError")
    assert "is not a run folder" in sentence
    assert "nanogen train" in sentence


@pytest.mark.parametrize("arguments", ["trian", "train --tsak digits", "sample x --num 0", "sample", "train --task"])
def test_a_malformed_command_shows_its_usage(nanogen, tmp_path, arguments):
    done = nanogen(*arguments.split())
    assert done.code == 2
    assert "Error: " in done.err
    assert listing(tmp_path) == []


def test_a_run_that_diverges_fails_with_the_step_and_code_1(nanogen):
    done = nanogen("train", "--task", "digits", *TINY, "optim.lr=1e30", "train.duration=9 steps")
    assert done.code == 1
    assert "Traceback" not in done.err
    sentence = done.err.strip().splitlines()[-1]
    assert sentence.startswith("NonFiniteLoss: ")
    assert "at step" in sentence
    assert "No update was made" in sentence


def test_an_interrupt_says_how_to_continue(nanogen, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("nanogen.train.train", stop)
    done = nanogen("train", "--task", "digits")
    assert (done.code, done.err) == (130, "interrupted; the same command continues\n")
