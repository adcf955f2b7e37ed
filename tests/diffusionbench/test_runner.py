"""One evaluation from request to record: anchors, interruption, other metrics later, several processes, faults."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from diffusionbench import cli
from diffusionbench.errors import DataError, RequestError
from diffusionbench.record import Record, load
from diffusionbench.references import digits
from diffusionbench.runner import fill, open_store, rescore, run, score
from diffusionbench.source import ArraySource, ConstantSource, FolderSource

ALL = ("fd_digits", "kd_digits", "is_digits", "precision_digits", "recall_digits", "accuracy_digits")


@pytest.fixture(scope="module")
def real():
    images, labels = digits.read("held_out")
    return ArraySource(images, labels, "held-out digits")


def numbers(record: Record) -> dict[str, float]:
    return {key: value.value for key, value in record.values.items()}


def test_real_images_score_as_the_anchor_of_real_images(ask, real):
    record = run(ask(metrics=ALL, count=359), real)
    assert numbers(record) == pytest.approx({key: value.value for key, value in record.anchors["held_out"].items()})
    assert record.values["fd_digits"].value < 0.2 * record.anchors["class_means"]["fd_digits"].value
    assert record.values["accuracy_digits"].value > 0.98
    assert record.anchors["class_means"]["recall_digits"].value < 0.1
    for values in (record.values, *record.anchors.values()):
        assert {values[key].scored for key in ALL} == {359}
    for key in ALL:
        assert record.values[key].interval is not None
    assert not record.partial
    assert record.protocol.reference_digest
    assert record.protocol.extractors["digits"]
    assert record.provenance.packages["torch"]
    assert record.provenance.images_digest
    assert record.breakdown["class 3"]["accuracy_digits"].scored > 20


def test_anchors_have_the_generated_count(ask):
    record = run(ask(count=30), ConstantSource((8, 8)))
    assert {name: values["accuracy_digits"].scored for name, values in record.anchors.items()} == {
        "held_out": 30,
        "class_means": 30,
    }
    more = run(ask(count=400), ConstantSource((8, 8)))
    assert more.values["accuracy_digits"].scored == 400
    assert "anchor held_out: 359 images, the generated set has 400" in more.protocol.notes


class Interrupted(ConstantSource):
    """Makes some images, then stops as a kill would."""

    preferred_batch = 10

    def __init__(self, after: int) -> None:
        super().__init__((8, 8))
        self.left = after
        self.asked: list[int] = []

    def images(self, samples):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        self.asked += [sample.id for sample in samples]
        return super().images(samples)


def test_an_interrupted_evaluation_continues(ask, tmp_path):
    request = ask(count=300)
    first, second = Interrupted(after=20), Interrupted(after=-1)
    with pytest.raises(KeyboardInterrupt):
        run(request, first, tmp_path)
    record = run(request, second, tmp_path)
    assert numbers(record) == numbers(run(request, ConstantSource((8, 8))))
    # Whole chunks that were written are not made again.
    assert 0 < len(second.asked) < 300
    third = Interrupted(after=-1)
    run(request, third, tmp_path)
    assert third.asked == []


def test_another_metric_needs_no_new_images(ask, real, tmp_path):
    run(ask(count=359), real, tmp_path)
    (store,) = tmp_path.iterdir()
    later = rescore(store, ("fd_digits", "recall_digits"))
    assert numbers(later) == pytest.approx(numbers(run(ask(metrics=("fd_digits", "recall_digits"), count=359), real)))
    with pytest.raises(RequestError, match="needs its weights"):
        rescore(store, ("fid",))


def test_two_processes_share_one_store(ask, tmp_path):
    request, source = ask(count=300), ConstantSource((8, 8))
    for rank in range(2):
        fill(request, source, open_store(request, source, tmp_path), rank, 2)
    record = score(request, open_store(request, source, tmp_path))
    assert numbers(record) == numbers(run(request, source))


def test_a_damaged_image_is_named_and_left_out(ask, write, tmp_path):
    images, labels = digits.read("held_out")
    folder = write(tmp_path / "images", images[:30], labels[:30])
    broken = sorted(folder.rglob("*.png"))[4]
    broken.write_bytes(b"no picture")
    record = run(ask(count=30), FolderSource(folder))
    assert record.partial
    assert record.values["accuracy_digits"].scored == 29
    assert record.values["accuracy_digits"].unscored == 1
    assert broken.name in record.unscored[0]


def test_nothing_readable_is_an_error(ask, write, noise, tmp_path):
    folder = write(tmp_path / "images", noise(3), [0, 1, 2])
    for file in folder.rglob("*.png"):
        file.write_bytes(b"no picture")
    with pytest.raises(DataError, match="none of the 3 images"):
        run(ask(count=3), FolderSource(folder))


def test_records_come_back_as_they_were(ask, tmp_path):
    record = run(ask(), ConstantSource((8, 8)))
    record.save(tmp_path / "record.json")
    assert load(tmp_path / "record.json") == record
    content = json.loads((tmp_path / "record.json").read_text())
    content["values"]["accuracy_digits"]["value"] = "high"
    del content["method"]
    (tmp_path / "record.json").write_text(json.dumps(content))
    with pytest.raises(RequestError, match=r"method.*values\.accuracy_digits\.value|values.*method"):
        load(tmp_path / "record.json")


@pytest.fixture
def diffusionbench(monkeypatch, capsys):
    def execute(*arguments) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["diffusionbench", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return execute


def test_a_strangers_folder_to_a_record_and_on(diffusionbench, held_out, tmp_path):
    record = tmp_path / "record.json"
    arguments = ["--reference", "digits", "--metrics", "fd_digits,accuracy_digits", "--out", record]
    code, out, err = diffusionbench("run", held_out, *arguments, "--store", tmp_path / "store")
    assert code == 0, err
    assert "class means" in out
    (store,) = (tmp_path / "store").iterdir()
    code, out, _ = diffusionbench("score", store, "--metrics", "precision_digits", "--json")
    assert (code, json.loads(out)["values"]["precision_digits"]["scored"]) == (0, 359)
    assert diffusionbench("inspect", record)[0] == 0
    code, out, _ = diffusionbench("compare", record, record)
    assert code == 0
    other = load(record)
    worse = other.values["fd_digits"].model_copy(update={"value": 100.0})
    other.model_copy(update={"values": other.values | {"fd_digits": worse}}).save(tmp_path / "other.json")
    assert diffusionbench("compare", record, tmp_path / "other.json")[0] == 3


def test_any_folder_is_a_reference(diffusionbench, held_out, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        arguments = ["--reference", held_out, "--metrics", "fd_digits,recall_digits", "--json"]
        code, out, err = diffusionbench("run", held_out, *arguments)
        assert code == 0, err
        values = json.loads(out)["values"]
        assert values["fd_digits"]["value"] == pytest.approx(0, abs=1e-6)
        assert values["recall_digits"]["value"] == 1
    # Moments and features were kept once, keyed by content.
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 2


def test_selftest_doctor_ls(diffusionbench):
    assert diffusionbench("selftest")[0] == 0
    assert "torchvision" in diffusionbench("doctor")[1]
    code, out, _ = diffusionbench("ls", "metrics", "--json")
    assert (code, "fd_digits" in json.loads(out)["metrics"]) == (0, True)


WRONG = {
    "run {tmp}/absent --metrics accuracy_digits": "no such file or folder",
    "run {empty} --metrics accuracy_digits": "has no images",
    "run {good}": "no metric was asked for",
    "run {good} --metrics fd_digit --reference digits": "Did you mean 'fd_digits'?",
    "run {good} --metrics fd_digits": "needs a reference, and none was given",
    "run {good} --metrics fd_digits --reference digitz": "Did you mean 'digits'?",
    "run {good} --metrics kd_digits --reference digits": "needs at least 200 images",
    "run {good} --metrics fid --reference digits": "needs its weights",
    "run {large} --metrics fd_digits --reference digits": "the images are 16x16",
    "run {unlabelled} --metrics accuracy_digits --reference digits": "has no label",
    "run {label} --metrics accuracy_digits --reference digits": "has the label 12",
    "run {good} --metrics precision_digits --reference {statistics}": "offers only moments",
    "run {float} --metrics accuracy_digits": "must be uint8",
    "run {good} --metrics accuracy_digits --reference digits --labels {tmp}/absent": "absent",
    "score {empty} --metrics fd_digits": "is no image store",
    "inspect {tmp}/absent.json": "No such file",
    "inspect {broken}": "does not fit the schema",
    "ls metric": "unknown list 'metric'",
}


@pytest.mark.parametrize("line", WRONG)
def test_wrong_use_ends_in_one_sentence_and_exit_code_2(line, diffusionbench, write, noise, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("{}")
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(64), sigma=np.eye(64))
    np.savez(tmp_path / "float.npz", arr_0=noise(4).astype(np.float32))
    places = {
        "tmp": tmp_path,
        "empty": tmp_path / "empty",
        "good": write(tmp_path / "good", noise(12), [index % 10 for index in range(12)]),
        "large": write(tmp_path / "large", noise(12, 16), [0] * 12),
        "unlabelled": write(tmp_path / "unlabelled", noise(12)),
        "label": write(tmp_path / "label", noise(12), [12] * 12),
        "statistics": tmp_path / "statistics.npz",
        "float": tmp_path / "float.npz",
        "broken": tmp_path / "broken.json",
    }
    extra = ["--out", tmp_path / "record.json"] if line.startswith("run") else []
    code, out, err = diffusionbench(*line.format(**places).split(), *extra)
    assert code == 2, err
    assert "Traceback" not in err
    assert [WRONG[line] in text for text in err.splitlines() if "Error: " in text] == [True], err
    assert out == ""
    assert not (tmp_path / "record.json").exists()
