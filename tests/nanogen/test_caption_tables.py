"""Captions in metadata.csv, metadata.jsonl, text and JSON files: long, nested, half quoted, or of other letters."""

import contextlib
import csv
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shards import png

from diffusionbench.errors import DataError
from nanogen.data.caption_text import caption_from_json
from nanogen.data.opening import open_dataset

FUZZ = settings(max_examples=60, deadline=None, derandomize=True, database=None)
MUCH_FUZZ = settings(max_examples=2000, deadline=None, database=None)


def write(root: Path, table: str, content: str | bytes) -> Path:
    for name in ("a.png", "b.png"):
        (root / name).write_bytes(png(0))
    (root / table).write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def captions(path: Path) -> list[str | None]:
    data = open_dataset("captionfolder", str(path), image_size=4)
    return [data.caption(index) for index in range(len(data))]


LONG = "letters, " * 25_000


@pytest.mark.parametrize(
    "table, content",
    [
        ("metadata.csv", f'file_name,text\na.png,"{LONG}"\nb.png,two\n'),
        ("metadata.jsonl", json.dumps({"file_name": "a.png", "text": LONG}) + '\n{"file_name":"b.png","text":"two"}'),
    ],
)
def test_a_caption_of_200_000_letters_is_read(tmp_path, table, content):
    limit = csv.field_size_limit()
    assert captions(write(tmp_path, table, content)) == [LONG.strip(), "two"]
    assert csv.field_size_limit() == limit


def test_a_text_file_of_200_000_letters_is_read_and_one_without_end_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(png(0))
    (tmp_path / "a.txt").write_text(LONG)
    assert captions(tmp_path) == [LONG.strip()]
    monkeypatch.setattr("nanogen.data.caption_text.MAX_CAPTION", 1000)
    with pytest.raises(DataError, match=r"the caption of .*a\.txt has more than 1,000 bytes"):
        captions(tmp_path)


@pytest.mark.parametrize(
    "content, found",
    [
        ('file_name,text\r\na.png,one\r\n\r\nb.png,"two, or\r\nthree"\r\n', ["one", "two, or\r\nthree"]),
        ('\ufeff"file_name","text"\na.png,one\nb.png,two', ["one", "two"]),
        ("file_name,text\ra.png,one\rb.png,two\r", ["one", "two"]),
        ("file_name,text\na.png,one,,\nb.png,two,\n", ["one", "two"]),
        ("n,caption,file_name\n1,one,./a.png\n2,two,x/../b.png\n", ["one", "two"]),
        ('file_name,text\na.png,a 3" nail\nb.png,"say ""two"""\n', ['a 3" nail', 'say "two"']),
    ],
)
def test_csv_in_the_forms_that_programs_write(tmp_path, content, found):
    assert captions(write(tmp_path, "metadata.csv", content)) == found


@pytest.mark.parametrize(
    "content, message",
    [
        ('file_name,text\na.png,one\nb.png,"two\n', r"metadata\.csv: the row that begins on line 3 cannot be read"),
        ('file_name,text\na.png,"one\nb.png,two\n', r"metadata\.csv: the row that begins on line 2 cannot be read"),
        ('file_name,text\na.png,"one" red ball\nb.png,two\n', r"the row that begins on line 2 cannot be read"),
        ("file_name,text\na.png,a red, round ball\nb.png,two\n", r"line 2 has 3 cells, and the first line 2"),
        ("file_name,text,text\na.png,one,1\nb.png,two,2\n", r"has two columns 'text'"),
        ("file_name,text\na.png\nb.png,two\n", r"a\.png \(.*line 2\) has no caption"),
        ("file_name;text\na.png;one\n", r"no columns file_name .*: file_name;text\."),
        (
            "a.png,one\nb.png,two\n",
            r"no columns file_name and text or caption\. Found in its first line: a\.png, one\.",
        ),
        ("file_name, text\na.png,one\nb.png,two\n", r"no columns file_name .*: file_name,  text\."),
        ("file_name,text\na.png,o\0ne\nb.png,two\n", r"a\.png \(.*line 2\) holds a zero byte"),
        ("file_name,text\na.png,one\nb.png,two\n".encode("utf-16-le"), r"no columns file_name .*: f\\x00i\\x00l"),
        ("file_name,text\na.png,one\nb.png,two\n".encode("utf-16"), r"metadata\.csv is not UTF-8"),
        ("", r"a\.png has no line in metadata\.csv"),
    ],
)
def test_csv_that_would_be_read_wrongly_is_named(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        captions(write(tmp_path, "metadata.csv", content))


@pytest.mark.parametrize(
    "content, message",
    [
        ("[" * 200_000, r"metadata\.jsonl line 1 is not valid JSON"),
        ('{"file_name": "a.png", "text": ' + "[" * 200_000 + "}", "line 1 is not valid JSON"),
        ('{"file_name": "a.png", "text": ' + "9" * 10_000 + "}", "line 1 is not valid JSON"),
        ('{"file_name": "a.png", "text": ' + "[" * 300 + "]" * 300 + "}", r"is \[\[.*a string is needed"),
        ('{"file_name": "a.png", "text": [' + '"word", ' * 10_000 + '""]}', r"is \['word', .*a string is needed"),
        ('{"file_name": "a.png", "text": "\\ud83d"}', "holds a zero byte or half a character"),
        ('{"file_name": "a.png", "text": "a\\u0000"}', "holds a zero byte or half a character"),
        ('{"file_name": "\\ud800.png", "text": "a"}', r"line 1 names a file with half a character"),
        ('{"file_name": "c\\u0000.png", "text": "a"}', r"a\.png has no line in"),
        ('{"file_name": "./a.png", "text": "a"}\n{"file_name": "x/../a.png", "text": "b"}', "line 2 names a.png a sec"),
        ('[{"file_name": "a.png", "text": "a"}]', "line 1 has no field 'file_name'"),
    ],
)
def test_json_lines_that_cannot_be_read_are_named(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as error:
        captions(write(tmp_path, "metadata.jsonl", content))
    assert len(str(error.value)) < 1000


def test_half_characters_of_a_file_name_on_the_disk_are_its_name(tmp_path):
    name = "z\udce9bre.png"
    (tmp_path / name).write_bytes(png(0))
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": name, "text": "words"}))
    assert captions(tmp_path) == ["words"]


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"a":' * 200_000, b'{"text": ' + b"[" * 200_000])
def test_nested_json_is_a_defect(content):
    with pytest.raises(DataError, match="the caption of x is not valid JSON"):
        caption_from_json(content, "x")


# Whatever bytes there are, only the project's own errors leave.

ROWS = {
    "metadata.csv": 'file_name,text\na.png,"one, or two"\nb.png,three\n',
    "metadata.jsonl": '{"file_name": "a.png", "text": "one"}\n{"file_name": "b.png", "text": "two"}\n',
}
CHANGES = st.lists(st.tuples(st.integers(0, 100), st.binary(max_size=4)), min_size=1, max_size=6)


def check_mutated(folder: Path, table: str, changes: list[tuple[int, bytes]]) -> None:
    content = ROWS[table].encode()
    for place, word in changes:
        place %= len(content) + 1
        content = content[:place] + word + content[place + len(word) // 2 :]
    for name in ROWS:
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(DataError):
        captions(write(folder, table, content))


@pytest.mark.parametrize("table", ROWS)
@FUZZ
@given(changes=CHANGES)
def test_mutated_tables_of_captions_end_in_our_own_errors(tmp_path_factory, table, changes):
    folder = tmp_path_factory.getbasetemp() / "mutated"
    folder.mkdir(exist_ok=True)
    check_mutated(folder, table, changes)


@pytest.mark.slow
@pytest.mark.parametrize("table", ROWS)
@MUCH_FUZZ
@given(changes=CHANGES)
def test_many_mutated_tables_of_captions_end_in_our_own_errors(tmp_path_factory, table, changes):
    folder = tmp_path_factory.getbasetemp() / "mutated"
    folder.mkdir(exist_ok=True)
    check_mutated(folder, table, changes)
