"""Which files of a folder or archive are scored, of which class they are, and what is said about the others."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

from diffusionbench import writing
from diffusionbench.errors import DataError, RequestError
from diffusionbench.files import open_image_folder
from diffusionbench.record import load
from diffusionbench.references import digits
from diffusionbench.references.opening import resolve
from diffusionbench.sample import Item, Sample
from diffusionbench.source import ArchiveSource, FolderSource, PromptFolderSource, read_labels
from diffusionbench.writing import check_place, write_result

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def values(bench, folder, reference, metric, *words):
    code, out, err = bench("run", folder, "--reference", reference, "--metrics", metric, "--json", *words)
    return code, json.loads(out) if out else None, err


# Folders.


def test_hidden_folders_play_no_part_and_are_counted(bench, tmp_path, noise, write):
    write(tmp_path / "s", noise(8), ["alpha", "beta"] * 4)
    write(
        tmp_path / "s",
        noise(6),
        [".ipynb_checkpoints", "__MACOSX", "$Recycle.Bin", "#recycle", "@Recycle", "System Volume Information"],
    )
    (tmp_path / "s" / "notes.md").touch()
    assert FolderSource(tmp_path / "s").labels == (0,) * 4 + (1,) * 4
    code, record, err = values(bench, "s", "digits", "fd_digits")
    said = "s: left out 6 hidden entries (first: #recycle); 1 files that are no images (first: notes.md)."
    assert (code, err.splitlines()[0]) == (0, said)
    assert record["values"]["fd_digits"]["scored"] == 8
    assert record["extra"]["left_out"] == [said]


def test_a_link_to_nothing_is_an_image_that_cannot_be_read(bench, tmp_path, noise, write):
    write(tmp_path / "s", noise(6))
    (tmp_path / "s" / "00006.png").symlink_to("/nowhere/00006.png")
    (tmp_path / "s" / "00007.png").symlink_to("00007.png")
    code, record, err = values(bench, "s", "digits", "fd_digits")
    assert (code, record["values"]["fd_digits"]["status"], record["values"]["fd_digits"]["unscored"]) == (
        2,
        "partial",
        2,
    )
    assert "the first: cannot read image s/00006.png: it is a link to nothing. The record is marked partial." in err
    # What may have been a class folder is missed as a whole.
    (tmp_path / "s" / "cat").symlink_to("/nowhere/cat")
    with pytest.raises(DataError, match="s/cat is a link to nothing"):
        FolderSource(tmp_path / "s")


def test_a_stored_link_to_nothing_stays_partial(bench, tmp_path, noise, write):
    write(tmp_path / "s", noise(6))
    (tmp_path / "s" / "00006.png").symlink_to("nowhere")
    for _ in range(2):
        assert bench("run", "s", "--reference", "digits", "--metrics", "fd_digits", "--store", "st")[0] == 2


def test_links_that_lead_upwards_end(tmp_path, noise, write):
    write(tmp_path / "s", noise(3))
    (tmp_path / "s" / "again").symlink_to(".")
    source = FolderSource(tmp_path / "s")
    assert len(source.labels) == 3
    assert "1 links to a folder above (first: again)" in source.notes[0]


def test_images_at_any_depth_below_a_class_folder_are_of_that_class(tmp_path, noise, write):
    write(tmp_path, noise(4), ["cat", "cat/more", "cat/more/still", "dog"])
    assert FolderSource(tmp_path).labels == (0, 0, 0, 1)
    Image.fromarray(noise(1)[0]).save(tmp_path / "cover.png")
    with pytest.raises(DataError, match=r"different depths \(cover\.png beside the class folder cat\)"):
        FolderSource(tmp_path)


@pytest.mark.parametrize(
    "folders, classes, root",
    [
        (["bus", "plane", "train"], ("bus", "plane", "train"), ""),
        (["bus", "data", "test", "val"], ("bus", "data", "test", "val"), ""),
        (["train/a", "train/b", "val/a", "val/b"], ("a", "b"), "train"),
        (["train/a", "train/b", "extra/a", "extra/b"], ("a", "b"), "train"),
        (["train/a", "train/b"], ("a", "b"), "train"),
        (["train", "train/more", "bus"], ("bus", "train"), ""),
    ],
)
def test_a_folder_called_train_is_a_split_or_a_class(tmp_path, noise, write, folders, classes, root):
    write(tmp_path, noise(len(folders)), folders)
    found = open_image_folder(tmp_path)
    assert (found.classes, found.root) == (classes, tmp_path / root)


@pytest.mark.parametrize(
    "folders, message",
    [
        (["train/a", "train/b", "bus"], "not clear which are splits and which are classes"),
        (["train", "val"], "train is named like a split and holds images"),
        (["test/a", "test/b", "val/a"], r"such as .*/test"),
        (["Training/a", "Testing/a"], r"such as .*/Testing"),
        (["data/a", "data/b"], r"holds one folder, data, .* Give .*/data if those are the classes"),
    ],
)
def test_folders_that_may_be_splits_or_classes_are_one_sentence(tmp_path, noise, write, folders, message):
    write(tmp_path, noise(len(folders)), folders)
    with pytest.raises(DataError, match=message):
        FolderSource(tmp_path)


def test_images_of_other_splits_and_empty_folders_are_counted(tmp_path, noise, write):
    write(tmp_path, noise(4), ["train/a", "train/b", "val/a", "val/b"])
    (tmp_path / "train" / "c").mkdir()
    (note,) = FolderSource(tmp_path).notes
    assert "2 images outside train/ (first: val/a/00002.png); 1 folders without images (first: c)" in note


def test_a_prompt_folder_counts_what_the_set_does_not_name(tmp_path, noise, write):
    write(tmp_path, noise(3), ["p0", "p1", ".p2"])
    (tmp_path / "p0" / "00000.png").rename(tmp_path / "p0" / "0.png")
    source = PromptFolderSource(tmp_path, [Sample(0, Item("p0"))])
    assert (
        "1 hidden entries (first: .p2); 1 images that the prompt set does not name (first: p1/00001.png)"
        in (source.notes[0])
    )


# Classes.


@pytest.mark.parametrize("names", [range(12), range(1, 12), (3, 20, 100)])
def test_a_reference_and_its_own_images_have_the_same_classes(tmp_path, noise, write, names):
    write(tmp_path / "real", noise(len(names)), [*names])
    write(tmp_path / "mine", noise(len(names)), [f"{name:03d}" for name in names])
    reference = resolve(str(tmp_path / "real"))
    assert reference.classes == tuple(map(str, names))
    assert FolderSource(tmp_path / "mine", known=reference.classes).labels == tuple(reference.labels(len(names)))
    assert reference.labels(len(names)) == [*range(len(names))]


def test_a_few_classes_are_numbered_as_in_the_reference(bench, tmp_path, write):
    images, labels = digits.read("held_out")
    chosen = (labels == 3) | (labels == 8)
    write(tmp_path / "s", images[chosen], labels[chosen])
    for reference in (("--reference", "digits"), ()):
        code, out, _ = bench("run", "s", *reference, "--metrics", "accuracy_digits", "--json")
        record = json.loads(out)
        assert code == 0
        assert record["values"]["accuracy_digits"]["value"] > 0.95
        assert set(record["breakdown"]) == {"class 3", "class 8"}


@pytest.mark.parametrize("reference", [("--reference", "digits"), ()])
def test_words_are_no_digits_for_a_metric_that_reads_labels(bench, tmp_path, noise, write, reference):
    write(tmp_path / "s", noise(20), WORDS * 2)
    code, out, err = bench("run", "s", *reference, "--metrics", "accuracy_digits")
    assert (code, out) == (2, "")
    assert err == (
        "RequestError: metric 'accuracy_digits' needs classes that it knows (0, 1, 2, and 7 more), and the folders "
        "are others (eight, five, four, and 7 more). Rename the folders, give a file of labels, or leave the metric "
        "out.\n"
    )


def test_words_are_scored_by_metrics_that_read_no_labels(bench, tmp_path, noise, write):
    write(tmp_path / "s", noise(22), (*WORDS, "ten") * 2)
    assert bench("run", "s", "--reference", "digits", "--metrics", "fd_digits", "--store", "st")[0] == 0
    # Nor may they be taken for digits later.
    code, _, err = bench("score", "st", "--metrics", "accuracy_digits")
    assert code == 2
    assert "the folders are others (eight, five, four, and 8 more)" in err


def test_a_judge_and_a_reference_of_other_classes_do_not_go_together(bench, tmp_path, noise, write):
    write(tmp_path / "real", noise(4), ["cat", "dog"] * 2)
    code, _, err = bench("run", "real", "--reference", "real", "--metrics", "accuracy_digits")
    assert code == 2
    assert "the classes of reference 'real' are others (cat, dog)" in err


def test_a_labelled_archive_calls_its_classes_by_number(tmp_path, noise):
    np.savez(tmp_path / "real.npz", arr_0=noise(3), arr_1=[0, 1, 2])
    assert resolve(str(tmp_path / "real.npz")).classes == ("0", "1", "2")


# Names that are no UTF-8.


def test_names_that_are_no_utf8_are_scored(bench, tmp_path, noise, write):
    for place in ("s", "real"):
        write(tmp_path / place, noise(6))
        os.rename(tmp_path / place / "00002.png", os.fsencode(tmp_path / place) + b"/z\xe9bre.png")
    code, record, err = values(bench, "s", "real", "fd_digits", "--store", "st")
    assert (code, record["values"]["fd_digits"]["scored"]) == (0, 6), err
    with open(os.fsencode(tmp_path / "s") + b"/z\xe9bre.png", "wb") as file:
        file.write(b"broken")
    code, record, err = values(bench, "s", "digits", "fd_digits", "--out", "r.json", "--store", "st")
    assert code == 2
    assert r"z\xe9bre.png" in load(tmp_path / "r.json").unscored[0]
    os.rename(tmp_path / "s", os.fsencode(tmp_path) + b"/\xe9")
    code, record, err = values(bench, os.fsdecode(b"\xe9"), "digits", "fd_digits", "--out", "r.json")
    assert (code, record["method"]) == (2, r"\xe9")
    code, _, err = bench("run", "real", "--reference", os.fsdecode(b"\xe9"), "--metrics", "fd_digits")
    assert code == 2
    assert r"a record cannot hold --reference \xe9:" in err
    for option in ("--method", "--title", "--family"):
        code, _, err = bench("run", "real", "--reference", "digits", "--metrics", "fd_digits", option, "\udce9")
        assert code == 2
        assert rf"a record cannot hold {option} \xe9:" in err


# Archives.


def archive(path, **arrays):
    np.savez(path / "a.npz", **arrays)
    return ArchiveSource(path / "a.npz")


def test_several_arrays_of_images_are_listed_and_none_is_taken(tmp_path, noise):
    arrays = {"x_train": noise(4), "y_train": np.arange(4), "x_test": noise(2), "y_test": np.arange(2)}
    with pytest.raises(DataError, match=r"holds x_train, y_train, x_test, y_test\. Images must be under the key arr_0"):
        archive(tmp_path, **arrays)


@pytest.mark.parametrize("key", ["images", "samples", "x", "folder/images"])
def test_a_single_array_is_read_under_any_name(tmp_path, noise, key):
    source = archive(tmp_path, **{key: noise(3), "labels": np.arange(3.0)})
    assert (len(source.labels), source.labels, source.notes) == (3, (0, 1, 2), ())
    reference = resolve(str(tmp_path / "a.npz"))
    assert reference.num_classes == 3


def test_arrays_that_are_not_read_are_counted(tmp_path, noise):
    source = archive(tmp_path, arr_0=noise(3), seeds=np.arange(3), mu=np.zeros(3), more=np.zeros(3))
    assert "left out 2 arrays that are neither images nor labels (first: seeds)" in source.notes[0]


def test_prompts_of_our_own_archives_are_no_labels(bench, tmp_path, noise):
    np.savez(tmp_path / "a.npz", arr_0=noise(8), arr_1=np.array(["a red ball", "two cats"] * 4))
    code, record, err = values(bench, "a.npz", "digits", "fd_digits")
    assert (code, record["values"]["fd_digits"]["scored"]) == (0, 8)
    assert err.splitlines()[0] == ("a.npz: left out 1 arrays of texts, so that images have no labels (first: arr_1).")
    assert "has no label" in bench("run", "a.npz", "--reference", "digits", "--metrics", "accuracy_digits")[2]


@pytest.mark.parametrize(
    "labels, message",
    [
        (np.array([1, 2, None, 3], dtype=object), "'arr_1' cannot be read"),
        (np.array([0.5, 1, 2, 3]), r"'arr_1' gives image 0 the label 0\.5"),
        (np.array([1, np.nan, 2, 3]), "'arr_1' gives image 1 the label nan"),
        (np.array([1, 2, 3, np.inf], np.float16), "'arr_1' gives image 3 the label inf"),
        (np.array([-1, 1, 2, 3]), "'arr_1' gives image 0 the label -1"),
        (np.array([2**40, 1, 2, 3]), f"'arr_1' gives image 0 the label {2**40}"),
        (np.array([True] * 4), "'arr_1' is bool"),
        (np.eye(4, dtype=int), r"'arr_1' is int64 \[4, 4\]"),
        (np.arange(3), "3 labels were given"),
        (np.zeros((4, 8, 8, 3), np.uint8), r"'arr_1' is uint8 \[4, 8, 8, 3\]"),
        (np.array(["2026-01-01"] * 4, dtype="datetime64[D]"), "'arr_1' is datetime64"),
    ],
)
def test_labels_that_are_none_are_one_sentence(tmp_path, noise, labels, message):
    with pytest.raises((DataError, RequestError), match=message):
        archive(tmp_path, arr_0=noise(4), arr_1=labels)


def test_labels_of_half_precision_are_read_without_a_warning(tmp_path, noise, recwarn):
    assert archive(tmp_path, arr_0=noise(3), arr_1=np.array([2, 0, 1], np.float16)).labels == (2, 0, 1)
    assert not recwarn.list


def test_labels_are_not_given_twice(tmp_path, noise):
    with pytest.raises(DataError, match="holds labels twice, as arr_1 and labels"):
        archive(tmp_path, arr_0=noise(2), arr_1=np.arange(2), labels=np.arange(2))


def test_damaged_labels_are_one_sentence(tmp_path, noise):
    np.savez(tmp_path / "a.npz", arr_0=noise(4), arr_1=np.arange(4))
    data = (tmp_path / "a.npz").read_bytes()
    place = data.rindex(b"\x93NUMPY")
    for damage in (b"\x93NUMPX", b"\x93NUMPY\x09"):
        (tmp_path / "a.npz").write_bytes(data[:place] + damage + data[place + len(damage) :])
        with pytest.raises(DataError, match="'arr_1' cannot be read"):
            ArchiveSource(tmp_path / "a.npz")


# Text files.


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbf3\r\n0 \r\n12\r\n\r\n", b"3\r0\r12", b"3\n0\n12", b"3 \n\xef\xbb\xbf0\n\t12\n"],
)
def test_files_of_labels_are_read_as_they_are_written(tmp_path, content):
    (tmp_path / "labels.txt").write_bytes(content)
    assert read_labels(tmp_path / "labels.txt") == [3, 0, 12]


@pytest.mark.parametrize(
    "content, message",
    [
        ("3\n0\n".encode("utf-16"), "it is UTF-16"),
        (b"3\n\x000\n", "holds NUL bytes"),
        (b"3\n\xe9\n", "it is not UTF-8"),
        (b"3\n1_0\n", "'1_0' is no integer"),
        (b"3\n-1\n", "'-1' is no integer"),
        ("3\n\u0661\n".encode(), "is no integer"),
        (b"3\n" + b"9" * 5000, "is no integer"),
        ("3\u20280\n".encode(), "is no integer"),
    ],
)
def test_files_of_labels_that_are_none_are_one_sentence(tmp_path, content, message):
    (tmp_path / "labels.txt").write_bytes(content)
    with pytest.raises(DataError, match=message) as refused:
        read_labels(tmp_path / "labels.txt")
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < 300


# Places of results.


def test_the_place_of_a_result_is_checked_before_an_image_is_read(bench, tmp_path, noise, write, monkeypatch):
    write(tmp_path / "s", noise(4))
    (tmp_path / "results").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr("diffusionbench.readers.decode", lambda *given, **options: pytest.fail("an image was read"))
    for place in ("results", "file/r.json", "pipe"):
        code, out, err = bench("run", "s", "--reference", "digits", "--metrics", "fd_digits", "--out", place)
        assert (code, out) == (2, "")
        assert f"{place} cannot be written: " in err
    (tmp_path / "theirs.json").write_text("{}")
    code, out, err = bench("run", "s", "--reference", "digits", "--metrics", "fd_digits", "--out", "theirs.json")
    assert (code, out) == (2, "")
    assert "theirs.json exists and is no earlier result of this kind" in err
    for words in (
        ("stress", "--out", "results"),
        ("prompts", "--set", "simpleeval_shapes_v1", "--layout", "quick", "--out", "file"),
        ("score", "nothing", "--metrics", "fd_digits", "--out", "results"),
        ("figure", "--out", "results"),
        ("site", "--out", "file"),
        ("submit", "nothing.json", "--records", "file"),
    ):
        code, out, err = bench(*words)
        assert (code, out) == (2, "")
        assert "cannot be written: " in err, words


def test_a_place_may_be_new_or_an_older_result(tmp_path):
    check_place(tmp_path / "new" / "deep" / "r.json")
    check_place(tmp_path / "new", "folder")
    (tmp_path / "old.json").touch()
    check_place(tmp_path / "old.json")
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
    with pytest.raises(RequestError, match="cannot be written: it is no folder"):
        check_place(tmp_path / "old.json", "folder")


def test_a_folder_that_is_read_only_is_said_before(tmp_path, monkeypatch):
    # The superuser may write anywhere.
    monkeypatch.setattr("diffusionbench.writing.os.access", lambda path, mode: False)
    with pytest.raises(RequestError, match="is read-only"):
        check_place(tmp_path / "r.json")


def test_a_result_that_cannot_be_written_is_printed(bench, tmp_path, noise, write, monkeypatch):
    write(tmp_path / "s", noise(4))

    def full(*given):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "write_atomic", full)
    code, out, err = bench("run", "s", "--reference", "digits", "--metrics", "fd_digits", "--out", "r.json", "--json")
    assert code == 2
    assert json.loads(out)["values"]["fd_digits"]["scored"] == 4
    assert "r.json cannot be written: No space left on device" in err
    with pytest.raises(RequestError):
        write_result(tmp_path / "r.json", "")
