"""Folders of pictures to train on: the same files and classes as in scoring, and a word about what is left out."""

from __future__ import annotations

import os
import sys

import numpy as np
import pytest
from odd_files import encoded, pixels

from diffusionbench.errors import DataError, RequestError
from diffusionbench.source import FolderSource
from nanogen.cli import main
from nanogen.conditions import SampleSpec
from nanogen.data.detect import detect
from nanogen.data.opening import open_dataset
from nanogen.datasets.captionfolder import open_captioned
from nanogen.datasets.imagefolder import open_folder
from nanogen.sample import SampleRequest, read_prompts, sample_run, write_folder

PICTURE = encoded(pixels())


def make(root, *names):
    """Pictures below a folder, and texts where a name ends so."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PICTURE if name.endswith((".png", ".tif", ".gif", ".jfif")) else b"a text")
    return root


@pytest.mark.parametrize("names", [range(12), range(1, 11), (3, 20, 100), ("a2", "a10", "b", "train", "Zoo")])
def test_training_scoring_and_references_number_classes_alike(tmp_path, names):
    make(tmp_path, *(f"{name}/{index}.png" for name in names for index in (1, 2, 10)))
    trained, scored = open_folder(tmp_path, 8, "train"), FolderSource(tmp_path)
    assert trained.classes == scored.classes == tuple(map(str, names if "b" not in names else sorted(names, key=order)))
    assert tuple(trained.labels) == scored.labels
    assert [trained.name(index) for index in range(len(trained))] == list(map(str, scored.files))
    assert trained.name(2).endswith("/10.png")


def order(name):
    return ["Zoo", "a2", "a10", "b", "train"].index(name)


def test_pictures_below_a_class_folder_count_and_the_rest_is_said_once(tmp_path, capsys):
    make(tmp_path, "cat/0.png", "cat/more/0.png", "cat/more/1.tif", "dog/0.gif", "dog/1.jfif")
    make(tmp_path, "dog/notes.txt", "README.md", ".git/x.png", "dog/.hidden.png")
    data = open_dataset("imagefolder", str(tmp_path), image_size=8)
    assert data.labels.tolist() == [0, 0, 0, 1, 1]
    assert data[4].image.shape == (8, 8, 3)
    assert capsys.readouterr().err == (
        f"{tmp_path}: left out 2 hidden entries (first: .git); 2 files that are no images (first: README.md).\n"
    )


def test_a_class_called_train_is_a_class_beside_others(tmp_path):
    make(tmp_path, "bus/0.png", "plane/0.png", "train/0.png")
    assert detect(tmp_path) == "imagefolder"
    assert open_folder(tmp_path, 8, "train").classes == ("bus", "plane", "train")
    with pytest.raises(DataError, match="no subfolder for split 'val'"):
        open_folder(tmp_path, 8, "val")


def test_links_end_or_are_named(tmp_path):
    make(tmp_path / "pics", "cat/0.png", "dog/0.png")
    (tmp_path / "pics" / "cat" / "up").symlink_to("..")
    assert len(open_folder(tmp_path / "pics", 8, "train")) == 2
    (tmp_path / "pics" / "dog" / "gone.png").symlink_to("/nowhere")
    (tmp_path / "pics" / "dog" / "none.png").touch()
    with pytest.raises(DataError, match=r"gone\.png is a link to nothing.* Incomplete samples: 2; data.corrupt=skip"):
        open_dataset("imagefolder", str(tmp_path / "pics"), image_size=8)
    skipping = open_dataset("imagefolder", str(tmp_path / "pics"), image_size=8, corrupt="skip")
    assert "gone.png" in skipping[2].corrupt
    (tmp_path / "pics" / "ant").symlink_to("/nowhere")
    with pytest.raises(DataError, match="pics/ant is a link to nothing"):
        open_folder(tmp_path / "pics", 8, "train")


def test_captioned_folders_follow_the_same_walk(tmp_path):
    make(tmp_path, "2.png", "2.txt", "10.png", "10.txt", "deep/er/1.png", "deep/er/1.txt", ".x/1.png", "list.csv")
    (tmp_path / "again").symlink_to(".")
    assert detect(tmp_path) == "captionfolder"
    data = open_captioned(tmp_path, 8, "train")
    assert [os.path.relpath(data.name(index), tmp_path) for index in range(3)] == [
        "2.png",
        "10.png",
        "deep/er/1.png",
    ]
    assert data.left_out == (
        f"{tmp_path}: left out 1 hidden entries (first: .x); 1 links to a folder above (first: again); "
        "1 files that are no images (first: list.csv)."
    )
    (tmp_path / "3.png").symlink_to("3.png")
    (tmp_path / "3.txt").write_text("gone")
    assert open_captioned(tmp_path, 8, "train").defects == (
        f"image {tmp_path}/3.png is a link to nothing. Replace or remove it.",
    )


@pytest.mark.parametrize(
    "names, count, said",
    [
        (["train/1.png", "train/1.txt", "val/2.png", "val/2.txt"], 1, "2 files outside train (first: val/2.png)"),
        (["train/1.png", "train/1.txt", "bus/2.png", "bus/2.txt"], 2, None),
        (["train/1.png", "train/1.txt", "2.png", "2.txt"], 2, None),
        (["1.png", "1.txt", "deep/metadata.csv"], 1, "1 tables of captions in subfolders (first: deep/metadata.csv)"),
    ],
)
def test_captioned_folders_of_splits(tmp_path, names, count, said):
    data = open_captioned(make(tmp_path, *names), 8, "train")
    assert len(data) == count
    assert data.left_out == (None if said is None else f"{tmp_path}: left out {said}.")


def test_texts_beside_a_table_of_captions_are_counted(tmp_path):
    make(tmp_path, "1.png", "1.txt")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "1.png", "text": "a ball"}\n')
    data = open_captioned(tmp_path, 8, "train")
    assert data.caption(0) == "a ball"
    assert "1 files beside metadata.jsonl (first: 1.txt)" in data.left_out


def test_names_that_are_no_utf8_are_trained_on_and_can_be_told(tmp_path):
    make(tmp_path, "caf\udce9/1.png", "dog/\udce9.png", "dog/2.png")
    data = open_folder(tmp_path, 8, "train")
    assert data.classes == (r"caf\xe9", "dog")
    assert data[2].label == 1
    data.name(2).encode()


# Prompts and places.


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfa red ball\r\na green box",
        b"a red ball  \n\n\ta green box\n\xef\xbb\xbf\n",
        b"a red ball\ra green box\r",
    ],
)
def test_prompts_are_read_as_they_are_written(tmp_path, content):
    (tmp_path / "p.txt").write_bytes(content)
    assert read_prompts(tmp_path / "p.txt") == ["a red ball", "a green box"]


def test_only_line_ends_separate_prompts(tmp_path):
    (tmp_path / "p.txt").write_text("a\u2028b\nc\x0bd\x85e\n", encoding="utf-8")
    assert read_prompts(tmp_path / "p.txt") == ["a\u2028b", "c\x0bd\x85e"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_prompts_in_another_encoding_are_one_sentence(tmp_path, encoding):
    (tmp_path / "p.txt").write_bytes("caf\u00e9\n".encode(encoding))
    with pytest.raises(DataError, match=r"p\.txt: it (is|holds)"):
        read_prompts(tmp_path / "p.txt")


ASKS = [SampleSpec(label=0, folder="0"), SampleSpec(label=1, folder="1"), SampleSpec(label=0, folder="0")]


@pytest.mark.parametrize(
    "classes, folders",
    [
        (("ant", "bee"), ["ant", "bee"]),
        (("2", "10"), ["10", "2"]),
        (None, ["0", "1"]),
        (("a/b", "bee"), ["0", "1"]),
        (("..", "bee"), ["0", "1"]),
        (("bee", "Bee"), ["0", "1"]),
        (("1", "01"), ["0", "1"]),
        ((r"caf\xe9", "bee"), ["0", "1"]),
        (("x" * 300, "bee"), ["0", "1"]),
    ],
)
def test_samples_lie_in_folders_of_their_classes_names(tmp_path, classes, folders):
    images = np.stack([pixels(seed) for seed in range(3)])
    (tmp_path / "s").mkdir()
    write_folder(images, ASKS, tmp_path / "s", {}, classes)
    assert sorted(os.listdir(tmp_path / "s")) == folders
    if folders == list(classes or ()):
        assert FolderSource(tmp_path / "s", known=("bee", "ant")).labels == (1, 1, 0)


@pytest.mark.parametrize("out", ["full", "file/x.npz", "here.png", "file"])
def test_the_place_of_samples_is_checked_before_weights_are_read(tmp_path, out, monkeypatch):
    make(tmp_path, "full/1.png", "file")
    (tmp_path / "here.png").mkdir()
    monkeypatch.setattr("nanogen.sample.open_weights", lambda *given: sys.exit("weights were read"))
    with pytest.raises(RequestError, match=r"is not empty|cannot be written"):
        sample_run(tmp_path / "run", [], SampleRequest(), tmp_path / out)


def test_a_judge_of_digits_does_not_judge_other_classes(tmp_path, capsys, monkeypatch):
    make(tmp_path / "data", *(f"{name}/{index}.png" for name in ("one", "two", "zero") for index in range(4)))
    words = f"--task imagefolder --data {tmp_path}/data --run-dir {tmp_path}/run eval.reference=digits"
    settings = ("data.image_size=8", "train.batch_size=4", "eval.metrics=[accuracy_digits]", "eval.num_samples=4")
    monkeypatch.setattr("sys.argv", ["nanogen", "train", *words.split(), *settings])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "accuracy_digits' needs classes that it knows (0, 1, 2, and 7 more)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
