"""Captions in folders and tables, template captions, and what is said about wrong ones."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from shards import picture, png, write_shards

from diffusionbench.errors import ConfigError, DataError
from nanogen.data.detect import detect
from nanogen.data.opening import open_dataset
from nanogen.data.order import batches
from nanogen.datasets.captionfolder import open_captioned


def write_pairs(root: Path, names: list[str]) -> Path:
    for index, name in enumerate(names):
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".png").write_bytes(png(index))
        file.with_suffix(".txt").write_text(f" caption of {name}\n", encoding="utf-8")
    return root


def opened(path: Path, name: str = "captionfolder", **options):
    return open_dataset(name, str(path), image_size=4, **options)


def captions(data) -> list[str]:
    return [data.caption(index) for index in range(len(data))]


# Folders.


def test_flat_and_nested_folders_pair_pictures_with_their_text(tmp_path):
    names = ["a", "b/c", "b/d.e", "z"]
    data = opened(write_pairs(tmp_path, names))
    (tmp_path / ".hidden.txt").write_text("no caption")
    assert captions(data) == [f"caption of {name}" for name in names]
    for index in range(4):
        item = data[index]
        np.testing.assert_array_equal(item.image, picture(index))
        assert (item.caption, item.label) == (f"caption of {names[index]}", None)
    assert (data.captioned, data.num_classes, data.classes) == (True, None, None)
    assert detect(tmp_path) == "captionfolder"


def test_captions_may_hold_any_language_and_a_byte_order_mark(tmp_path):
    write_pairs(tmp_path, ["a"])
    (tmp_path / "a.txt").write_bytes("\ufeffein Bär, 熊".encode())
    assert captions(opened(tmp_path)) == ["ein Bär, 熊"]


def test_a_folder_per_split(tmp_path):
    write_pairs(tmp_path / "train", ["a", "b"])
    write_pairs(tmp_path / "val", ["c"])
    assert captions(opened(tmp_path)) == ["caption of a", "caption of b"]
    assert captions(open_captioned(tmp_path, 4, "val")) == ["caption of c"]
    assert detect(tmp_path) == "captionfolder"
    with pytest.raises(DataError, match="no subfolder for split 'test'"):
        open_captioned(tmp_path, 4, "test")


def write_metadata(root: Path, kind: str, rows: list[dict]) -> Path:
    if kind == "csv":
        keys = list(dict.fromkeys(key for row in rows for key in row))
        lines = [",".join(keys), *(",".join('"' + row.get(key, "") + '"' for key in keys) for row in rows)]
        text = "\r\n".join(lines) + "\r\n"
    else:
        text = "\n".join(map(json.dumps, rows)) + "\n\n"
    (root / f"metadata.{kind}").write_text(text, encoding="utf-8", newline="")
    return root


def write_table(root: Path, kind: str, rows: list[dict]) -> Path:
    (root / "in").mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(["a.png", "in/b.png"]):
        (root / name).write_bytes(png(index))
    return write_metadata(root, kind, rows)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_table_of_captions_in_the_hub_layout(tmp_path, kind):
    rows = [
        {"file_name": "in/b.png", "text": "two\nlines, in one"},
        {"file_name": "a.png", "text": "one", "more": "x"},
    ]
    data = opened(write_table(tmp_path, kind, rows))
    assert captions(data) == ["one", "two\nlines, in one"]
    np.testing.assert_array_equal(data[1].image, picture(1))
    assert detect(tmp_path) == "captionfolder"


def test_the_digest_follows_the_words_and_not_the_place(tmp_path):
    first, second = (opened(write_pairs(tmp_path / name, ["a", "b"])).digest for name in ("one", "two"))
    assert first == second
    (tmp_path / "two" / "b.txt").write_text("caption of B")
    assert opened(tmp_path / "two").digest != first


def folder_with(change) -> None:
    write_pairs(Path(), ["a", "b"])
    change()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda: Path("b.txt").unlink(), r"image .*b\.png has no caption. Write one into b\.txt"),
        (lambda: Path("b.png").unlink(), r"caption .*b\.txt has no image beside it"),
        (lambda: Path("README.txt").write_text("x"), r"caption .*README\.txt has no image beside it"),
        (lambda: Path("b.txt").write_text(" \n"), r"the caption of .*b\.txt is empty"),
        (lambda: Path("b.txt").write_bytes(b"ab\xff"), r"the caption of .*b\.txt is not UTF-8 \(byte 2\)"),
        (lambda: Path("b.TXT").write_text("x"), r"b\.txt and b\.TXT are captions of one image"),
        (lambda: [Path(f"{name}.png").unlink() for name in "ab"], "holds no image"),
    ],
)
def test_wrong_text_files_are_named(tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    folder_with(change)
    with pytest.raises(DataError, match=message) as error:
        opened(tmp_path)
    assert "\n" not in str(error.value)


ROWS = [{"file_name": "a.png", "text": "one"}, {"file_name": "in/b.png", "text": "two"}]


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
@pytest.mark.parametrize(
    "rows, message",
    [
        (ROWS[:1], r"image .*in/b\.png has no line in metadata"),
        ([*ROWS, {"file_name": "c.png", "text": "x"}], r"names c\.png, which is not there"),
        ([*ROWS, ROWS[0]], r"line \d+ names a\.png a second time"),
        ([ROWS[0], {"file_name": "in/b.png", "text": ""}], r"the caption of in/b\.png \(.*line \d\) is empty"),
        ([{"name": "a.png", "text": "x"}], r"line \d has no field 'file_name'|no columns file_name .*: name, text\."),
        (
            [{"file_name": "a.png", "words": "x"}],
            r"a\.png \(.*line \d\) has no caption: no field 'text' or 'caption'|no columns .*: file_name, words\.",
        ),
    ],
)
def test_wrong_tables_of_captions_are_named(tmp_path, kind, rows, message):
    with pytest.raises(DataError, match=message):
        opened(write_table(tmp_path, kind, rows))


def test_tables_that_cannot_be_read(tmp_path):
    write_table(tmp_path, "jsonl", ROWS)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x"}\n{"file')
    with pytest.raises(DataError, match="line 2 is not valid JSON"):
        opened(tmp_path)
    (tmp_path / "metadata.jsonl").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"metadata\.jsonl is not UTF-8"):
        opened(tmp_path)
    write_metadata(tmp_path, "csv", ROWS)
    with pytest.raises(DataError, match=r"both metadata\.jsonl and metadata\.csv"):
        opened(tmp_path)


def test_folders_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="does not exist"):
        opened(tmp_path / "nowhere")
    write_pairs(tmp_path, ["a"])
    with pytest.raises(DataError, match="is a file"):
        opened(tmp_path / "a.png")

    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("nanogen.data.paths.os.scandir", refuse)
    with pytest.raises(DataError, match="cannot read folder"):
        opened(tmp_path)


def test_pictures_without_any_text_are_no_captioned_folder(tmp_path):
    (tmp_path / "a.png").write_bytes(png(0))
    with pytest.raises(DataError, match=r"one folder per class .*NAME\.txt beside NAME\.png"):
        opened(tmp_path, detect(tmp_path))
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "a.png").write_bytes(png(0))
    (tmp_path / "cat" / "notes.txt").write_text("no caption")
    assert detect(tmp_path) == "imagefolder"


# Tables.

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra 'data')")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra 'data')")


def write_rows(path: Path, columns: dict, row_group_size: int = 2) -> Path:
    table = pa.table({"image": [{"bytes": png(row), "path": None} for row in range(3)], **columns})
    if path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=row_group_size)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    return path


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize("column", ["text", "caption"])
def test_tables_hold_captions_labels_or_both(tmp_path, kind, column):
    words = ["one", " two ", "three"]
    data = opened(write_rows(tmp_path / f"x.{kind}", {column: words}), kind)
    assert captions(data) == ["one", "two", "three"]
    assert (data.captioned, data.num_classes, data[2].label, data[2].caption) == (True, None, None, "three")
    np.testing.assert_array_equal(data[2].image, picture(2))
    both = opened(write_rows(tmp_path / f"y.{kind}", {column: words, "label": [2, 0, 1]}), kind)
    assert (both.num_classes, both[0].label, both[0].caption) == (3, 2, "one")
    changed = opened(write_rows(tmp_path / f"x.{kind}", {column: ["one", " six ", "three"]}), kind)
    assert changed.digest != data.digest


def test_captions_over_several_files(tmp_path):
    for part in range(2):
        write_rows(tmp_path / f"train-{part}.parquet", {"text": [f"{part}{row}" for row in range(3)]})
    assert captions(opened(tmp_path, "parquet")) == ["00", "01", "02", "10", "11", "12"]


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_wrong_captions_in_tables_are_named(tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    for words, message in {
        ("one", None, "x"): rf"x\.{kind} row 1 has no caption",
        ("one", "two", " \t"): rf"the caption of .*x\.{kind} row 2 is empty",
    }.items():
        with pytest.raises(DataError, match=message):
            opened(write_rows(path, {"text": list(words)}), kind)
    with pytest.raises(DataError, match=r"column 'text' is list.*; strings are needed"):
        opened(write_rows(path, {"text": [["a"], ["b"], ["c"]]}), kind)
    with pytest.raises(DataError, match=r"no column 'label'.*captions are text or caption"):
        opened(write_rows(path, {"words": ["a", "b", "c"]}), kind)
    broken = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    with pytest.raises(DataError, match="is not UTF-8"):
        opened(write_rows(path, {"text": broken}), kind)


# Templates.


def write_classes(root: Path) -> Path:
    for index, name in enumerate(["ant", "house cat"]):
        (root / name).mkdir(parents=True)
        (root / name / "x.png").write_bytes(png(index))
    return root


def test_a_template_puts_classes_into_words(tmp_path):
    plain = opened(write_classes(tmp_path), "imagefolder")
    data = opened(tmp_path, "imagefolder", template="a photo of a {class}")
    assert not plain.captioned
    assert data.captioned
    assert captions(data) == ["a photo of a ant", "a photo of a house cat"]
    assert (data[1].label, data[1].caption, data.num_classes) == (1, "a photo of a house cat", 2)
    assert data.digest != plain.digest


def test_a_template_over_images_in_memory_reaches_the_batch():
    data = open_dataset("digits", None, image_size=8, template="the digit {class}")
    batch = next(batches(data, seed=0, batch_size=16))
    assert batch.caption == [f"the digit {label}" for label in batch.label]
    assert len(set(batch.caption)) > 4


def test_templates_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"without \{class\}"):
        open_dataset("digits", None, image_size=8, template="a photo of a digit")
    with pytest.raises(ConfigError, match="has captions already"):
        opened(write_pairs(tmp_path / "a", ["a"]), template="a {class}")
    write_rows(tmp_path / "x.parquet", {"label": [0, 1, 0]})
    with pytest.raises(ConfigError, match="needs names of classes, and data set 'parquet' has none"):
        opened(tmp_path / "x.parquet", "parquet", template="a {class}")


# Real data.


def shared(*parts: str) -> Path:
    root = os.environ.get("NANOGEN_SHARED_DATA") or Path(__file__).parents[2].parent / "shared" / "data"
    path = Path(root, "images", *parts)
    if not path.exists():
        pytest.skip(f"{'/'.join(parts)} is not at {path} (set NANOGEN_SHARED_DATA)")
    return path


def test_cifar10_becomes_text_to_image():
    data = opened(shared("cifar10"), "parquet", template="a photo of a {class}")
    names = set(captions(data))
    assert len(names) == 10
    assert "a photo of a airplane" in names
    item = data[0]
    assert item.caption == f"a photo of a {data.classes[item.label]}"


def test_real_photographs_from_a_shard_with_written_captions(tmp_path):
    import tarfile

    from shards import write_tar

    folder = shared("imagenet_sample_256")
    names = {item["key"]: item["name"] for item in json.loads((folder / "index.json").read_text())["items"]}
    members = []
    with tarfile.open(folder / "imagenet_sample_256.tar") as tar:
        for key in list(names)[:40]:
            members.append((f"{key}.jpg", tar.extractfile(f"{key}.jpg").read()))
            members.append((f"{key}.txt", f"a photo of a {names[key]}".encode()))
    data = open_dataset("tars", str(write_tar(tmp_path / "x.tar", members)), image_size=64)
    assert len(data) == 40
    assert captions(data) == [f"a photo of a {names[key]}" for key in list(names)[:40]]
    assert data[7].image.shape == (64, 64, 3)
    assert data[7].image.std() > 10


def test_detection_of_shards_beside_other_kinds(tmp_path):
    write_shards(tmp_path, [1])
    assert detect(tmp_path) == "tars"
    write_rows(tmp_path / "x.parquet", {"label": [0, 1, 0]})
    with pytest.raises(DataError, match=r"several kinds \(parquet, tars\)"):
        detect(tmp_path)
