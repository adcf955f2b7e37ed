"""Which files a path means: folders, splits, patterns with stars and braces, several kinds side by side."""

import contextlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shards import pair, png, write_shards, write_tar

from diffusionbench.errors import DataError, UserError
from diffusionbench.files import LeftOut
from nanogen.data.detect import detect
from nanogen.data.opening import open_dataset
from nanogen.data.paths import MAX_NAMES, expand_braces, find_files


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def found(path: Path, ending: str = ".tar", split: str = "train") -> tuple[list[str], str | None]:
    """Names of the files, and what is said about the others."""
    left_out = LeftOut()
    files = find_files(path, split, "tars", ending, left_out)
    return [file.name for file in files], left_out.sentence("x")


# Braces.


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("{00000..00002}.tar", ["00000.tar", "00001.tar", "00002.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{08..11}", ["08", "09", "10", "11"]),
        ("{2..0}", ["0", "1", "2"]),
        ("{0..8..3}", ["0", "3", "6"]),
        ("{0..2..0}", ["0", "1", "2"]),
        ("{a,b}/{1,2}.tar", ["a/1.tar", "a/2.tar", "b/1.tar", "b/2.tar"]),
        ("x{a,b{1..2}}", ["xa", "xb1", "xb2"]),
        ("{a..c}", ["a", "b", "c"]),
        ("{a,,b}", ["", "a", "b"]),
        ("{a,a}", ["a"]),
        ("{abc}{}{1..}.tar", ["{abc}{}{1..}.tar"]),
        ("plain", ["plain"]),
    ],
)
def test_braces_stand_for_what_they_do_in_a_shell(pattern, names):
    assert expand_braces(pattern) == names


def test_braces_expand_as_in_the_package_of_webdataset():
    braceexpand = pytest.importorskip("braceexpand", reason="braceexpand is not installed (comes with webdataset)")
    for pattern in ("{0..12}", "{007..010}", "t-{a,b}-{00..03..2}.tar", "{a,b{1..3},c{x,y}}", "{10..7}", "{x..z}"):
        assert set(expand_braces(pattern)) == set(braceexpand.braceexpand(pattern))


@pytest.mark.parametrize(
    "pattern", ["{0..999999999}", "{0..999999999999999999}", "{0..999}{0..999}", "{0,1}" * 200, "{a,b{0..100000}}"]
)
def test_braces_without_end_are_refused(pattern):
    with pytest.raises(DataError, match=f"more than {MAX_NAMES:,} names"):
        expand_braces(pattern)


def test_letters_and_numbers_do_not_mix():
    with pytest.raises(DataError, match="counts from 1 to c"):
        expand_braces("{1..c}")


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.text(alphabet="{},.0123a-/*", max_size=30))
def test_any_braces_end_in_names_or_our_own_error(pattern):
    with contextlib.suppress(DataError):
        assert len(expand_braces(pattern)) <= MAX_NAMES


# Patterns.


def test_patterns_are_in_natural_order_and_every_name_must_be_there(tmp_path):
    touch(tmp_path, *(f"{number}.tar" for number in range(9, 12)), "9.tar.index", "10.json")
    assert found(tmp_path / "{9..11}.tar") == (["9.tar", "10.tar", "11.tar"], None)
    assert found(tmp_path / "*.tar")[0] == ["9.tar", "10.tar", "11.tar"]
    names, said = found(tmp_path / "*")
    assert names == ["9.tar", "10.tar", "11.tar"]
    assert said == f"x: left out 1 files of other kinds (first: {tmp_path}/10.json)."
    with pytest.raises(DataError, match=r"2 of the 4 names of .* are not there \(first: .*/12\.tar\)"):
        find_files(tmp_path / "{10..13}.tar", "train", "tars", ".tar", LeftOut())
    with pytest.raises(DataError, match=r"1 of the 2 names of .* are not there \(first: .*/b\*\.tar\)"):
        find_files(tmp_path / "{1,b}*.tar", "train", "tars", ".tar", LeftOut())


def test_files_whose_own_names_have_braces_or_stars(tmp_path):
    touch(tmp_path, "{0..1}.tar", "a*.tar", "ab.tar")
    assert found(tmp_path / "{0..1}.tar")[0] == ["{0..1}.tar"]
    assert found(tmp_path / "a*.tar")[0] == ["a*.tar"]


def test_two_stars_look_into_folders_but_not_in_circles(tmp_path):
    touch(tmp_path, "a/1.tar", "a/b/2.tar", "c/10.tar", ".hidden/3.tar", "a/notes.txt")
    for name in ("again", "once more"):
        (tmp_path / name).symlink_to(".")
    names, said = found(tmp_path / "**" / "*.tar")
    assert names == ["1.tar", "2.tar", "10.tar"]
    assert said == ("x: left out 1 hidden entries (first: .hidden); 2 links to a folder above (first: again).")
    assert found(tmp_path / "**" / "b" / "*.tar")[0] == ["2.tar"]
    with pytest.raises(DataError, match=r"one \*\* is read"):
        find_files(tmp_path / "**" / "b" / "**" / "*.tar", "train", "tars", ".tar", LeftOut())


def test_links_to_nothing_are_named_and_folders_called_tar_are_counted(tmp_path):
    write_tar(tmp_path / "0.tar", pair(0))
    (tmp_path / "1.tar").symlink_to("nowhere.tar")
    for path in (tmp_path, tmp_path / "*.tar"):
        with pytest.raises(DataError, match=r"cannot read .*1\.tar: No such file"):
            open_dataset("tars", str(path), image_size=4)
    (tmp_path / "1.tar").unlink()
    touch(tmp_path / "2.tar", "a.png")
    os.mkfifo(tmp_path / "3.tar")
    assert found(tmp_path) == (
        ["0.tar"],
        "x: left out 1 entries that are neither file nor folder (first: 3.tar); "
        "1 files in other folders (first: 2.tar/a.png).",
    )
    assert found(tmp_path / "*.tar")[1] == f"x: left out 2 entries that are no files (first: {tmp_path}/2.tar)."


@pytest.mark.parametrize(
    "path",
    [
        "https://there/{000..002}.tar",
        "s3://bucket/x.tar",
        "hf://datasets/a/b",
        "hf:a/b",
        "pipe:curl -s http://there/x.tar",
        "gs://a/*.parquet",
    ],
)
def test_addresses_are_answered_with_a_sentence(path):
    said = "is not on this machine|is no name on the hub"
    with pytest.raises(UserError, match=said):
        detect(Path(path))
    for name in ("tars", "parquet", "imagefolder"):
        with pytest.raises(UserError, match=said):
            open_dataset(name, path, image_size=4)


def test_detection_reads_braces_and_capital_endings(tmp_path):
    write_shards(tmp_path / "a", [1])
    write_shards(tmp_path / "b", [1])
    assert detect(tmp_path / "{a,b}" / "0000{0..0}.tar") == "tars"
    assert detect(tmp_path / "a" / "{00000.tar,00001.tar}") == "tars"
    with pytest.raises(DataError, match="no data set that can be read"):
        detect(tmp_path / "a" / "{00000.tar,00001.parquet}")
    (tmp_path / "a" / "00000.tar").rename(tmp_path / "a" / "X.TAR")
    assert detect(tmp_path / "a") == detect(tmp_path / "a" / "X.TAR") == "tars"
    assert len(open_dataset("tars", str(tmp_path / "a"), image_size=4)) == 1


# Folders.


def test_what_lies_in_and_beside_the_files_of_a_folder_is_counted(tmp_path):
    touch(tmp_path, "2.tar", "10.tar", "2.tar.index", "README.md", "7.tar.gz", "more/3.tar", ".git/x", "gone.index")
    assert found(tmp_path) == (
        ["2.tar", "10.tar"],
        "x: left out 1 hidden entries (first: .git); 3 files of other kinds (first: 7.tar.gz); "
        "1 files in other folders (first: more/3.tar).",
    )


def test_what_the_opener_leaves_out_is_said_once(tmp_path, capsys):
    write_shards(tmp_path, [2])
    touch(tmp_path, "notes.md")
    open_dataset("tars", str(tmp_path), image_size=4)
    assert capsys.readouterr().err == f"{tmp_path}: left out 1 files of other kinds (first: notes.md).\n"


def test_files_of_other_splits_are_counted(tmp_path):
    touch(tmp_path, "train-1.tar", "train-0.tar", "test-0.tar", "extra.tar")
    assert found(tmp_path) == (
        ["train-0.tar", "train-1.tar"],
        "x: left out 2 files without 'train' in their names (first: extra.tar).",
    )
    assert found(tmp_path, split="test")[0] == ["test-0.tar"]
    touch(tmp_path, "val/5.tar")
    assert found(tmp_path, split="val") == (["5.tar"], "x: left out 4 files in other folders (first: extra.tar).")


def test_a_folder_of_the_splits_name_without_files_is_none(tmp_path):
    touch(tmp_path, "0.tar", "train/x.png")
    assert found(tmp_path) == (["0.tar"], "x: left out 1 files in other folders (first: train/x.png).")


def test_files_further_down_are_named_where_there_are_no_others(tmp_path):
    touch(tmp_path, "a/0.tar", "a/1.tar")
    with pytest.raises(DataError, match=r"holds no \.tar file. Below it there are \(first: a/0\.tar\)") as error:
        find_files(tmp_path, "train", "tars", ".tar", LeftOut())
    pattern = str(error.value).split("--data '")[1].split("'")[0]
    assert found(Path(pattern))[0] == ["0.tar", "1.tar"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b'{"_data_files": [{}]}',
        b'{"_data_files": [{"filename": 3}]}',
        b'{"_data_files": 3}',
    ],
)
def test_a_damaged_list_of_arrow_files_is_named(tmp_path, content):
    touch(tmp_path, "0.arrow")
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(DataError, match=r"state\.json does not list the data files"):
        find_files(tmp_path, "train", "arrow", ".arrow", LeftOut())


def test_listed_arrow_files_must_be_there_and_others_are_counted(tmp_path):
    touch(tmp_path, "0.arrow", "cache-1.arrow", "dataset_info.json", "test/0.arrow")
    (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": "0.arrow"}]}))
    assert found(tmp_path, ".arrow") == (
        ["0.arrow"],
        "x: left out 1 files that state.json does not list (first: cache-1.arrow); "
        "1 files in other folders (first: test/0.arrow).",
    )
    for name in ("1.arrow", "../x.arrow", "/etc/passwd"):
        (tmp_path / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
        with pytest.raises(DataError, match="which is not there"):
            find_files(tmp_path, "train", "arrow", ".arrow", LeftOut())


# Several kinds in one folder.

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra 'data')")
parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra 'data')")


def write_facts(folder: Path, count: int) -> None:
    for number in range(count):
        facts = pa.table({"url": ["u"], "image": ["a.jpg"], "caption": ["c"], "key": ["0"]})
        parquet.write_table(facts, folder / f"{number:05d}.parquet")
        (folder / f"{number:05d}_stats.json").write_text("{}")


def test_shards_beside_parquet_files_of_facts_are_read(tmp_path, capsys):
    write_shards(tmp_path, [2, 3])
    write_facts(tmp_path, 2)
    assert detect(tmp_path) == "tars"
    assert len(open_dataset("tars", str(tmp_path), image_size=4)) == 5
    assert "left out 4 files of other kinds (first: 00000.parquet)" in capsys.readouterr().err


def test_folders_of_pictures_beside_parquet_files_of_facts_are_read(tmp_path):
    for index in range(3):
        folder = tmp_path / f"{index % 2:05d}"
        folder.mkdir(exist_ok=True)
        (folder / f"{index:09d}.png").write_bytes(png(index))
        (folder / f"{index:09d}.txt").write_text("words")
        (folder / f"{index:09d}.json").write_text("{}")
    write_facts(tmp_path, 2)
    assert detect(tmp_path) == "captionfolder"
    assert len(open_dataset("captionfolder", str(tmp_path), image_size=4)) == 3


def test_several_kinds_are_told_apart_by_what_to_type(tmp_path):
    write_shards(tmp_path, [1])
    (tmp_path / "train").mkdir()
    parquet.write_table(pa.table({"image": [png(0)], "label": [0]}), tmp_path / "train" / "0.parquet")
    with pytest.raises(DataError, match=r"several kinds \(parquet, tars\)") as error:
        detect(tmp_path)
    patterns = str(error.value).split("--data '")[1:]
    assert [detect(Path(pattern.split("'")[0])) for pattern in patterns] == ["parquet", "tars"]


def test_files_below_the_folder_are_named_with_the_pattern_that_reads_them(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    write_shards(tmp_path / "a" / "b", [1])
    with pytest.raises(DataError, match=r"holds no \.tar file\. Below it .*: give --data '.*/\*\*/\*\.tar'"):
        open_dataset(detect(tmp_path), str(tmp_path), image_size=4)


def test_a_lone_folder_of_facts_is_named_for_its_columns(tmp_path):
    write_facts(tmp_path, 1)
    assert detect(tmp_path) == "parquet"
    with pytest.raises(DataError, match="column 'image' is string"):
        open_dataset("parquet", str(tmp_path), image_size=4)
