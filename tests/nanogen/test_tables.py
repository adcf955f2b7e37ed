"""Columns and types of tables as users have them, files that do not go together, and damaged ones."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shards import picture, png

from diffusionbench.errors import DataError
from nanogen.data.opening import open_dataset

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra 'data')")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra 'data')")

FUZZ = settings(max_examples=40, deadline=None, derandomize=True, database=None)
MUCH_FUZZ = settings(max_examples=1000, deadline=None, database=None)
BOTH = pytest.mark.parametrize("kind", ["parquet", "arrow"])
STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def cells(count: int = 3, first: int = 0) -> list:
    return [{"bytes": png(first + row), "path": None} for row in range(count)]


def described(table, **features: dict):
    """The table with a Hugging Face description of its columns."""
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write(table, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        parquet.write_table(table, path, **options)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    return path


def opened(path: Path):
    kind = path.suffix[1:] if path.suffix else "parquet"
    return open_dataset(kind, str(path), image_size=4)


def check(data, labels: list[int] | None, captions: list[str] | None = None) -> None:
    for row in range(len(data)):
        item = data[row]
        np.testing.assert_array_equal(item.image, picture(row))
        assert item.label == (None if labels is None else labels[row])
        assert item.caption == (None if captions is None else captions[row])


# Names.

IMAGE, CLASSES = {"_type": "Image"}, {"_type": "ClassLabel", "names": ["a", "b", "c"]}


@BOTH
def test_the_hubs_cifar10_is_read(tmp_path, kind):
    table = described(pa.table({"img": cells(), "label": [2, 0, 1]}), img=IMAGE, label=CLASSES)
    data = opened(write(table, tmp_path / f"train-00000-of-00001.{kind}"))
    check(data, [2, 0, 1])
    check(pickle.loads(pickle.dumps(data)), [2, 0, 1])
    assert data.classes == ("a", "b", "c")


@BOTH
@pytest.mark.parametrize(
    "image, description",
    [("image", {}), ("img", {}), ("photo", {"photo": IMAGE}), ("photo", {}), ("jpg", {}), ("png", {})],
)
def test_the_column_of_images_is_found_by_name_description_or_type(tmp_path, kind, image, description):
    values = cells() if image == "photo" else [png(row) for row in range(3)]
    table = described(pa.table({"id": [b"x"] * 3, image: values, "label": [0, 1, 0]}), **description)
    check(opened(write(table, tmp_path / f"x.{kind}")), [0, 1, 0])


@BOTH
@pytest.mark.parametrize("label", ["fine_label", "labels", "species"])
def test_the_column_of_classes_is_found_by_its_description(tmp_path, kind, label):
    table = described(pa.table({"image": cells(), label: [2, 0, 1], "n": [7, 7, 7]}), image=IMAGE, **{label: CLASSES})
    data = opened(write(table, tmp_path / f"x.{kind}"))
    check(data, [2, 0, 1])
    assert data.classes == ("a", "b", "c")


def test_labels_need_no_description(tmp_path):
    check(opened(write(pa.table({"image": cells(), "labels": [2, 0, 1]}), tmp_path / "x.parquet")), [2, 0, 1])


@BOTH
def test_several_columns_that_could_be_meant_are_listed(tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    table = pa.table({"left": cells(), "right": cells(), "label": [0, 1, 2]})
    for description in ({}, {"left": IMAGE, "right": IMAGE}):
        with pytest.raises(DataError, match=r"several columns for 'image': left, right\. Rename"):
            opened(write(described(table, **description), path))
    table = pa.table({"image": cells(), "fine_label": [0, 1, 2], "coarse_label": [0, 0, 1]})
    with pytest.raises(DataError, match=r"several columns for 'label': fine_label, coarse_label"):
        opened(write(described(table, fine_label=CLASSES, coarse_label=CLASSES), path))


def test_one_image_among_other_binary_columns(tmp_path, capsys):
    table = pa.table({"sound": cells(3, 9), "raw": [b"x"] * 3, "image": cells(), "mask": cells(3, 5), "label": [0] * 3})
    path = write(described(table, sound={"_type": "Audio"}, mask=IMAGE, image=IMAGE), tmp_path / "x.parquet")
    check(opened(path), [0] * 3)
    assert capsys.readouterr().err == f"{path}: left out 1 further columns of images (first: mask).\n"
    sound = described(pa.table({"sound": cells(), "label": [0] * 3}), sound={"_type": "Audio"})
    with pytest.raises(DataError, match=r"no column 'image'\. Found: sound, label"):
        opened(write(sound, path))


def test_a_table_of_many_columns_is_named_in_one_line(tmp_path):
    table = pa.table({f"column {number}": [0] for number in range(3000)} | {"label": [0]})
    with pytest.raises(DataError, match="column 19, and 2,981 more") as error:
        opened(write(table, tmp_path / "x.parquet"))
    assert len(str(error.value)) < 600


@BOTH
@pytest.mark.parametrize("name", ["image", "label"])
def test_two_columns_of_one_name_are_refused(tmp_path, kind, name):
    columns = {"image": pa.array(cells()), "label": pa.array([0, 1, 2])}
    table = pa.Table.from_arrays([*columns.values(), columns[name]], names=[*columns, name])
    with pytest.raises(DataError, match=f"has two columns '{name}'"):
        opened(write(table, tmp_path / f"x.{kind}"))


@pytest.mark.parametrize(
    "description",
    [
        b"",
        b"[" * 100_000,
        b"[]",
        b'{"info": 3}',
        b'{"info": {"features": [1]}}',
        b'{"info": {"features": {"label": 1}}}',
        b'{"info": {"features": {"label": {"names": "abc"}}}}',
        b'{"info": {"features": {"label": {"names": [1]}}}}',
        b"\xff",
    ],
)
def test_a_description_of_another_form_is_none(tmp_path, description):
    table = pa.table({"image": cells(), "label": [2, 0, 1]}).replace_schema_metadata({"huggingface": description})
    data = opened(write(table, tmp_path / "x.arrow"))
    check(data, [2, 0, 1])
    assert data.classes is None


# Types.

IMAGES = {
    "struct": pa.array(cells()),
    "large": pa.array(cells(), pa.struct({"bytes": pa.large_binary(), "path": pa.large_string()})),
    "views": pa.array(cells(), pa.struct({"bytes": pa.binary_view(), "path": pa.string_view()})),
    "binary": pa.array([png(row) for row in range(3)]),
    "large_binary": pa.array([png(row) for row in range(3)], pa.large_binary()),
    "binary_view": pa.array([png(row) for row in range(3)], pa.binary_view()),
    "dictionary": pa.array([png(row) for row in range(3)]).dictionary_encode(),
    "more fields": pa.array([cell | {"width": 4} for cell in cells()]),
}


@BOTH
@pytest.mark.parametrize("form", IMAGES)
def test_images_in_every_form_that_writers_use(tmp_path, kind, form):
    table = pa.table({"image": IMAGES[form], "label": [0, 1, 2]})
    check(opened(write(table, tmp_path / f"x.{kind}")), [0, 1, 2])


@BOTH
@pytest.mark.parametrize("form", [pa.int8(), pa.uint8(), pa.int16(), pa.uint64(), "dictionary"])
def test_labels_of_every_integer_type(tmp_path, kind, form):
    labels = pa.array([2, 0, 1])
    labels = labels.dictionary_encode() if form == "dictionary" else labels.cast(form)
    data = opened(write(pa.table({"image": cells(), "label": labels}), tmp_path / f"x.{kind}"))
    check(data, [2, 0, 1])
    assert data.labels.dtype == np.int64


@BOTH
@pytest.mark.parametrize("form", [pa.string(), pa.large_string(), pa.string_view(), "dictionary"])
def test_captions_of_every_type_of_string(tmp_path, kind, form):
    words = ["one", "b" * 200_000, "drei"]
    captions = pa.array(words)
    captions = captions.dictionary_encode() if form == "dictionary" else captions.cast(form)
    check(opened(write(pa.table({"image": cells(), "text": captions}), tmp_path / f"x.{kind}")), None, words)


@BOTH
@pytest.mark.parametrize(
    "column, values, message",
    [
        ("image", [["x"], ["y"], ["z"]], "column 'image' is list<.*a struct of bytes and path, or bytes, is needed"),
        ("image", ["a.png", "b.png", "c.png"], "column 'image' is string"),
        ("image", [{"bytes": "x", "path": None}] * 3, "column 'image' is struct<bytes: string"),
        ("image", [{"bytes": b"x", "path": 3}] * 3, "column 'image' is struct<bytes: binary, path: int64"),
        ("image", [[cell] for cell in cells()], "Keep one image a row"),
        ("label", [0.0, 1.0, 2.0], "column 'label' is double; integers are needed"),
        ("label", [True, False, True], "column 'label' is bool"),
        ("label", [None, None, None], "column 'label' is null"),
        ("label", [0, 1, 10**12], r"row 2 has label 1000000000000; allowed is 0 to 999,999"),
        ("text", [["a"], ["b"], ["c"]], "column 'text' is list.*strings are needed. Keep one caption a row"),
        ("text", [b"a", b"b", b"c"], "column 'text' is binary; strings are needed"),
        ("text", ["a", "b\0", "c"], "row 1 holds a zero byte"),
        ("text", ["a", None, "c"], "row 1 has no caption"),
    ],
)
def test_types_that_cannot_be_read_are_named(tmp_path, kind, column, values, message):
    columns = {"image": cells(), "label": [0, 1, 2]} | {column: values}
    with pytest.raises(DataError, match=message):
        opened(write(pa.table(columns), tmp_path / f"x.{kind}"))


@BOTH
def test_rows_without_an_image_are_named(tmp_path, kind):
    plain = pa.table({"image": [png(0), None], "label": [0, 1]})
    struct = pa.table({"image": pa.array([None, {"bytes": None, "path": None}], STRUCT), "label": [0, 1]})
    for table, rows in ((plain, [1]), (struct, [0, 1])):
        data = opened(write(table, tmp_path / f"x.{kind}"))
        for row in rows:
            with pytest.raises(DataError, match=f"row {row} has no image"):
                data[row]


@pytest.mark.parametrize("path", ["a\0b.png", "x" * 5000, "", "https://there/a.png", ".", "pipe"])
def test_paths_that_lead_nowhere_are_named(tmp_path, path):
    os.mkfifo(tmp_path / "pipe")
    table = pa.table({"image": pa.array([{"bytes": None, "path": path}], STRUCT), "label": [0]})
    with pytest.raises(DataError, match="row 0 names the image"):
        opened(write(table, tmp_path / "x.arrow"))[0]


# Several files.


@BOTH
def test_files_of_unequal_row_groups_and_files_without_rows(tmp_path, kind, capsys):
    for number, count in enumerate([3, 0, 1, 4]):
        first = [0, 3, 3, 4][number]
        table = pa.table({"image": pa.array(cells(count, first), STRUCT), "label": pa.array(range(count), pa.int64())})
        write(table, tmp_path / f"{number}.{kind}", **({"row_group_size": number + 1} if kind == "parquet" else {}))
    data = open_dataset(kind, str(tmp_path), image_size=4)
    check(data, [0, 1, 2, 0, 0, 1, 2, 3])
    assert capsys.readouterr().err == f"{tmp_path}: left out 1 files without a row (first: 1.{kind}).\n"


@pytest.mark.parametrize("compression", ["zstd", "gzip", "brotli", "lz4", "none"])
def test_every_compression(tmp_path, compression):
    table = pa.table({"image": cells(), "label": [0, 1, 2]})
    check(opened(write(table, tmp_path / "x.parquet", compression=compression)), [0, 1, 2])


@BOTH
@pytest.mark.parametrize(
    "second, message",
    [
        ({"image": cells(), "label": [0, 1, 2]}, r"1\.\w+ has no column 'img'\. Found: image, label"),
        ({"img": cells(), "text": ["a", "b", "c"]}, r"1\.\w+ has no column 'label'"),
        ({"img": cells(), "label": ["a", "b", "c"]}, r"1\.\w+: column 'label' is string"),
    ],
)
def test_files_of_different_columns_are_named(tmp_path, kind, second, message):
    write(pa.table({"img": cells(), "label": [0, 1, 2]}), tmp_path / f"0.{kind}")
    write(pa.table(second), tmp_path / f"1.{kind}")
    with pytest.raises(DataError, match=message):
        open_dataset(kind, str(tmp_path), image_size=4)


# Damaged files.


@BOTH
def test_files_cut_short_anywhere_are_named(tmp_path, kind):
    path = write(pa.table({"image": cells(), "label": [0, 1, 2]}), tmp_path / f"x.{kind}")
    whole = path.read_bytes()
    for length in (0, 1, 4, 8, 100, len(whole) // 2, len(whole) - 9):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=rf"cannot read .*x\.{kind}"):
            opened(path)


def test_an_arrow_column_whose_offsets_lead_out_of_the_file_is_refused(tmp_path):
    path = write(pa.table({"image": [b"abc", b"defg", b"hi"], "label": [0, 1, 2]}), tmp_path / "x.arrow")
    offsets, wrong = (np.array(ends, np.int32).tobytes() for ends in ([0, 3, 7, 9], [0, 3, 2**30, 2**30 + 2]))
    assert path.read_bytes().count(offsets) == 1
    path.write_bytes(path.read_bytes().replace(offsets, wrong))
    with pytest.raises(DataError, match="column 'image' is damaged"):
        opened(path)


@pytest.mark.parametrize("name", [b"image", b"label", b"bytes"])
def test_names_of_columns_that_are_not_utf8_are_refused(tmp_path, name):
    path = write(pa.table({"image": cells(), "label": [0, 1, 2]}), tmp_path / "x.arrow")
    path.write_bytes(path.read_bytes().replace(name + b"\0", b"\xff" * len(name) + b"\0"))
    with pytest.raises(DataError, match=r"cannot read .*x\.arrow"):
        opened(path)


def test_encrypted_files_are_named(tmp_path):
    encryption = pytest.importorskip("pyarrow.parquet.encryption", reason="this pyarrow cannot encrypt")

    class Plain(encryption.KmsClient):
        def __init__(self, config):
            super().__init__()

        def wrap_key(self, key, name):
            return key

        def unwrap_key(self, key, name):
            return key

    factory = encryption.CryptoFactory(Plain)
    for options in ({}, {"plaintext_footer": True}):
        config = encryption.EncryptionConfiguration(
            footer_key="a", column_keys={"a": ["image.bytes", "label"]}, internal_key_material=True, **options
        )
        properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), config)
        table = pa.table({"image": pa.array(cells(), STRUCT), "label": [0, 1, 2]})
        path = write(table, tmp_path / "x.parquet", encryption_properties=properties)
        with pytest.raises(DataError, match=r"cannot read .*x\.parquet.*encrypted"):
            opened(path)[0]


# Whatever bytes there are, only the project's own errors leave.


def check_mutated(path: Path, changes: list[tuple[int, int]]) -> None:
    words = ["one", "two", "three"]
    table = described(pa.table({"image": cells(), "label": [0, 1, 2], "text": words}), image=IMAGE, label=CLASSES)
    whole = bytearray(write(table, path).read_bytes())
    for place, value in changes:
        whole[place % len(whole)] = value
    path.write_bytes(whole)
    try:
        data = opened(path)
        for row in range(min(len(data), 10)):
            data.caption(row)
            data.read(row)
    except DataError:
        pass


CHANGES = st.lists(st.tuples(st.integers(0, 2**14), st.integers(0, 255)), min_size=1, max_size=6)


@BOTH
@FUZZ
@given(changes=CHANGES)
def test_mutated_tables_end_in_our_own_errors(tmp_path_factory, kind, changes):
    check_mutated(tmp_path_factory.getbasetemp() / f"x.{kind}", changes)


@pytest.mark.slow
@BOTH
@MUCH_FUZZ
@given(changes=CHANGES)
def test_many_mutated_tables_end_in_our_own_errors(tmp_path_factory, kind, changes):
    check_mutated(tmp_path_factory.getbasetemp() / f"x.{kind}", changes)
