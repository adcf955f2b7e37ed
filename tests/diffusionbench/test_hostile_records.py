"""Files of strangers beside records: nothing stops the others, acts on the terminal, or runs in a spreadsheet."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from declaring import declare
from PIL import Image
from site_records import measured

from diffusionbench.record import (
    MAX_ID,
    Attachment,
    Guidance,
    JudgeUsed,
    Protocol,
    Record,
    ReferenceUsed,
    Tuning,
    load,
    slug,
)
from diffusionbench.schema import digest
from diffusionbench.shown import LONGEST, cell, few, message, printable
from diffusionbench.study.board import build
from diffusionbench.study.points import gather, load_folder
from diffusionbench.views.site.samples import find_stores, sheet_of

CODES = "\x1b[2J\x1b]0;title\x07\x9b31m\u202e\r\b\x00[red]bold[/red]:smile:"


def strange(folder: Path) -> Path:
    """A good record, and what can be no record under the names of some."""
    measured("good", "class_conditional", {"fid": 2.0}).save(folder / "good.json")
    (folder / "folder.json").mkdir()
    (folder / "dangling.json").symlink_to(folder / "nothing")
    (folder / "loop.json").symlink_to(folder / "loop.json")
    os.mkfifo(folder / "pipe.json")
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "deeper.json").write_text('{"kind": "measured", "id": "a", "values": ' + '{"a":' * 100_000)
    with (folder / "huge.json").open("wb") as file:
        file.truncate(2**33)
    return folder


STRANGE = 7


def test_what_can_be_no_record_is_counted_and_named_and_the_others_stand(tmp_path, capsys):
    assert [record.method for record in load_folder(strange(tmp_path))] == ["good"]
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert f"dangling.json (No such file or directory); and {STRANGE - 1} more" in err


@pytest.mark.parametrize(
    "verb",
    [
        "board --set measured --draws 0",
        "board --set measured --draws 0 --csv",
        "correlate --draws 0",
        "site --out {out}",
        "submit {good} --dry-run",
    ],
)
def test_every_reader_of_a_folder_reads_the_others(verb, bench, tmp_path):
    (tmp_path / "records").mkdir()
    folder = strange(tmp_path / "records")
    words = verb.format(out=tmp_path / "site", good=folder / "good.json").split()
    code, out, err = bench(*words, "--records", folder)
    # The made-up record lacks what a submission needs, which is said of it and of no other file.
    assert code == (2 if verb.startswith("submit") else 0), err
    assert "Traceback" not in err
    assert ("good" in out) == verb.startswith("board")
    if not verb.startswith("submit"):
        assert f"and {STRANGE - 1} more" in err


def test_validate_names_every_file(bench, tmp_path):
    code, _, err = bench("validate", strange(tmp_path))
    assert code == 2
    for name in ("folder", "dangling", "loop", "pipe", "deep", "deeper", "huge"):
        assert f"{name}.json: " in err


@pytest.mark.parametrize("name", ["folder", "dangling", "loop", "pipe", "deep", "deeper", "huge"])
@pytest.mark.parametrize(
    "verb", ["inspect {}", "compare {} {}", "submit {}", "validate {}", "simpleeval verify --record {}"]
)
def test_a_strange_file_by_name_is_one_sentence(verb, name, bench, tmp_path):
    if (verb, name) == ("validate {}", "folder"):
        pytest.skip("a folder is what validate takes")
    code, _, err = bench(*verb.replace("{}", str(strange(tmp_path) / f"{name}.json")).split())
    assert code == 2
    assert "Traceback" not in err
    assert f"{name}.json" in err
    assert len(err) < LONGEST


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        '{"kind": "measured", "values": {}}',
        '"\\ud800"',
        '{"kind": "measured", "values": {"fid": NaN}}',
        "9" * 5_000,
        '{"id": "' + "x" * 100_000 + '", "kind": 1}',
        json.dumps({f"k{n}": 1 for n in range(5_000)} | {"kind": 1, "values": 2}),
        "\ufeff{}",
        "\xe9",
    ],
    ids=range(12),
)
def test_a_damaged_record_is_one_short_sentence(text, bench, tmp_path):
    (tmp_path / "x.json").write_bytes(text.encode("latin-1" if text == "\xe9" else "utf-8"))
    code, _, err = bench("inspect", tmp_path / "x.json")
    assert code == 2
    assert "Traceback" not in err
    assert len(err) < 4 * LONGEST


def coded() -> Record:
    """A record whose every free text holds codes for the terminal, and guidance of a strength not stated."""
    evil = measured(CODES, "class_conditional", {"fid": 2.0, f"=x{CODES}": 1.0}, family=CODES, unscored=(CODES,))
    protocol = evil.protocol.model_copy(
        update={
            "guidance": Guidance(scale=None),
            "references": {CODES: ReferenceUsed(name=CODES)},
            "notes": (CODES,),
            "sampler": CODES,
            "judges": {CODES: JudgeUsed(digest=CODES, precision=CODES, options={CODES: CODES})},
            "image_format": CODES,
            "tuning": Tuning(split=CODES, records=(CODES,)),
        }
    )
    facts = {"fid": {"text": f"one\n{CODES}"}, CODES: 3, "other": {"text": 4}}
    marked = {"status": "flagged", "reason": CODES, "judges": (CODES,)}
    values = {key: value.model_copy(update=marked) for key, value in evil.values.items()}
    return evil.model_copy(
        update={
            "id": "evil",
            "protocol": protocol,
            "values": values,
            "anchors": {CODES: values},
            "trained_with": (CODES,),
            "evidence": {"x.json": Attachment(sha256="a" * 64, text=CODES)},
            "extra": {"facts": facts},
        }
    )


@pytest.mark.parametrize(
    "verb",
    [
        "inspect {0}",
        "inspect {0} --json",
        "compare {0} {1}",
        "compare {1} {0}",
        "submit {0}",
        "validate {2}",
        "board --set measured --records {2} --draws 0 --trace --columns all",
        "board --set measured --records {2} --draws 0 --csv --columns all",
        "board --set measured --records {2} --draws 0 --markdown --columns all",
        "board --set measured --records {2} --draws 0 --json",
        "correlate --set measured --records {2} --draws 0 --x fid --guidance cfg --y =x" + CODES.split("\x00")[0],
        "correlate --select " + CODES.replace("\x00", ""),
        "board --sort " + CODES.replace("\x00", ""),
        "run " + CODES.replace("\x00", "") + " --metrics fd_digits",
        "inspect " + CODES.replace("\x00", ""),
    ],
)
def test_nothing_a_stranger_wrote_acts_on_the_terminal(verb, bench, tmp_path):
    coded().save(tmp_path / "evil.json")
    measured("good", "class_conditional", {"fid": 2.0}).save(tmp_path / "good.json")
    words = [word.format(tmp_path / "evil.json", tmp_path / "good.json", tmp_path) for word in verb.split(" ")]
    code, out, err = bench(*words)
    assert "Traceback" not in err
    for text in (out, err):
        assert [line for line in text.split("\n") if not line.isprintable()] == []
    if "\x1b" not in verb and code == 0:
        assert "\\x1b" in out or "\\u001b" in out
        assert "[red]" in out.replace("\\[", "[").replace("\\]", "]")


@pytest.mark.parametrize(
    "extra",
    [
        {"facts": 3},
        {"facts": {"simpleeval_v1": 3}},
        {"facts": {"simpleeval_v1": {}}},
        {
            "facts": {"simpleeval_v1": {"seed": "public-0", "layout": 3}},
            "request": {"prompts": {"name": "simpleeval_v1"}},
        },
        {"facts": {"simpleeval_v1": {"seed": []}}, "request": {"prompts": {"name": "simpleeval_v1"}}},
        {"facts": {"simpleeval_v1": {}}, "request": {"prompts": {"name": "x", "unknown": 1}}},
    ],
    ids=range(6),
)
def test_facts_that_no_metric_wrote_are_one_sentence(extra, bench, tmp_path):
    made = measured("a", "t2i", {"simpleeval_v1": 0.5})
    made.model_copy(update={"extra": extra}).save(tmp_path / "a.json")
    for words in (("simpleeval", "verify", "--record"), ("validate",), ("submit",)):
        code, _, err = bench(*words, tmp_path / "a.json")
        assert code == 2
        assert "Traceback" not in err
        assert "a.json" in err


def test_an_unstated_strength_of_guidance_is_shown(bench, tmp_path):
    coded().save(tmp_path / "evil.json")
    code, out, _ = bench("inspect", tmp_path / "evil.json")
    assert code == 0
    assert "guidance of a strength not stated" in out


def test_no_cell_and_no_head_of_a_csv_is_a_formula(bench, tmp_path):
    for place, start in enumerate("=+-@＝＋－＠\t"):
        name = f"{start}cmd|' /C calc'!A0"
        record = measured(name, "class_conditional", {name: 1.0}, id=f"r{place}", family=name)
        record.save(tmp_path / f"{place}.json")
    names = ", ".join(json.dumps(f"{start}cmd|' /C calc'!A0") for start in "=+-@＝＋－＠\t")
    board_ = "{name: a, version: 1, title: A, records: measured, columns: [{axis: class_conditional, metrics: [%s]}]}"
    (tmp_path / "boards.yaml").write_text(f"boards: [{board_ % names}]")
    for words, least in ((("--set", "measured"), 9 * 2), (("--boards", tmp_path / "boards.yaml"), 9 * 6)):
        code, out, err = bench("board", *words, "--records", tmp_path, "--draws", 0, "--csv", "--columns", "all")
        assert code == 0, err
        cells = [text for row in csv.reader(io.StringIO(out)) for text in row]
        assert sum("cmd|" in text for text in cells) >= least
        assert not [text for text in cells if text.startswith(tuple("=+-@＝＋－＠\t"))]
    assert [cell(text) for text in ("-1", "a=1", "")] == ["'-1", "a=1", ""]


def test_a_list_in_a_message_has_an_end(bench):
    code, _, err = bench("correlate", "--select", "nope")
    assert code == 2
    assert "more" in err
    assert len(err) < 1_000
    assert few(range(10)) == "0, 1, 2, 3, 4, 5, 6, 7, and 2 more"
    assert few(range(9)) == "0, 1, 2, 3, 4, 5, 6, 7, 8"
    assert len(message("x" * 10**6 + "\ny")) < LONGEST + 50
    assert printable("\x1b[2J\u202e\u2028\n") == "\\x1b[2J\\u202e\\u2028\\n"


def test_bytes_of_a_name_are_shown_and_what_words_are_written_with_stays():
    name = os.fsdecode(bytes(range(0x80, 0x100)))
    assert printable(name) == "".join(f"\\x{code:02x}" for code in range(0x80, 0x100))
    halves = "".join(map(chr, [*range(0xD800, 0xDC80), *range(0xDD00, 0xE000)]))
    assert printable(halves) == "".join(f"\\u{ord(half):04x}" for half in halves).lower()
    for word in ("mot\u00a0cl\u00e9", "\u72ac\u3000\u732b", "\u0645\u06cc\u200c\u062e", "\U0001f468\u200d\U0001f469"):
        assert printable(word) == word


def test_a_name_longer_than_a_file_name_is_refused_before_anything_is_scored(bench, tmp_path, noise, write):
    folder = write(tmp_path / "images", noise(20, 8))
    words = ("run", folder, "--metrics", "fd_digits", "--reference", "digits")
    for option in ("--method", "--title"):
        code, _, err = bench(*words, option, "x" * 400)
        assert code == 2
        assert "400 characters" in err
    assert len(slug("x" * 300)) + 13 <= MAX_ID


GREY = np.full((2, 8, 8, 3), 128, np.uint8)
BYTES = GREY[0].tobytes()
SHA = hashlib.sha256(BYTES).hexdigest()


def entries(count: int, sha256: str = SHA) -> list[list[object]]:
    return [[number, number % 10, None, sha256, "class/0", 0, None] for number in range(count)]


def png(*size: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, (128, 128, 128)).save(stream, "PNG")
    return stream.getvalue()


def chunk(folder: Path, listed: object, content: bytes = BYTES * 2, given: object = None, **facts: object) -> None:
    """A store of one chunk: raw images of 8x8 unless said otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "store.json").write_text(json.dumps({"given": given}))
    (folder / "0000000.images").write_bytes(content)
    raw = {"shape": [8, 8], "sizes": [192, 192]}
    (folder / "0000000.json").write_text(json.dumps({"entries": listed} | raw | facts))


HUGE = png(5_000, 1)
STORES = {
    "images of other pixels": (entries(2, "0" * 64), {}),
    "no pixels": (entries(2), {"shape": [0, 0]}),
    "five thousand pixels a side": (entries(2), {"shape": [5_000, 5_000]}),
    "a picture larger than its list says": (entries(1), {"content": HUGE, "sizes": [len(HUGE)]}),
    "a start far behind the end": (entries(1), {"sizes": [60 * 2**20, 192]}),
    "a trillion bytes": (entries(1), {"sizes": [10**12]}),
    "a negative size": (entries(1), {"sizes": [-5]}),
    "rows that are not there": (entries(24), {}),
    "not a picture": (entries(1), {"content": b"x" * 50, "sizes": [50]}),
    "infinity as an id": ([[float("inf"), 0, None, ""], [1, 0, None, ""]], {}),
    "an id of 400 digits": ([[10**400, 0, None, ""]], {}),
    "words as entries": (["ab", "cd"], {}),
    "no list": ({"a": 1}, {}),
    "a prompt that is a list": ([[0, 0, [1], "x"]], {}),
    "deep entries": (json.loads("[" * 900 + "]" * 900), {}),
    "a place without a root": (entries(1), {"sizes": [], "places": [["/etc/hostname", None]]}),
    "a root that is gone": (entries(1), {"sizes": [], "places": [["a", None]], "given": {"root": "/nowhere"}}),
    "a device": (entries(1), {"sizes": [], "places": [["zero", None]], "given": {"root": "/dev"}}),
    "a file that is no image": (entries(1), {"sizes": [], "places": [["hostname", None]], "given": {"root": "/etc"}}),
}


def of_store(record: Record, held: list[list[object]], count: int) -> Record:
    """The record of the first images of a store."""
    found = digest([one[:4] for one in held[:count]])
    provenance = record.provenance.model_copy(update={"images_digest": found})
    return record.model_copy(
        update={"provenance": provenance, "protocol": record.protocol.model_copy(update={"count": count})}
    )


@pytest.mark.parametrize("what", STORES)
def test_a_hostile_store_beside_a_record_costs_its_samples_alone(what, tmp_path):
    listed, facts = STORES[what]
    chunk(tmp_path / "store", listed, **facts)
    record = measured("a", "class_conditional", {"fid": 1.0})
    for count in (1, 2, 24):
        held = [entry for entry in listed if isinstance(entry, list) and entry and isinstance(entry[0], int)]
        assert sheet_of(of_store(record, held, count), find_stores([tmp_path])) is None


def test_a_picture_that_unfolds_without_end_stops_no_site(bench, tmp_path):
    bomb = png(20_000, 8_000)
    assert len(bomb) < 500_000
    chunk(tmp_path / "store", entries(1), bomb, sizes=[len(bomb)])
    record = measured("a", "class_conditional", {"fid": 1.0})
    of_store(record, entries(1), 1).save(tmp_path / "a.json")
    code, _, err = bench("site", "--out", tmp_path / "site", "--records", tmp_path)
    assert code == 0, err
    assert not list((tmp_path / "site").rglob("*.png"))


@pytest.mark.parametrize("form", ["raw", "png", "file"])
def test_a_good_store_is_shown(tmp_path, form):
    picture = png(8, 8)
    if form == "raw":
        chunk(tmp_path / "store", entries(2))
    elif form == "png":
        chunk(tmp_path / "store", entries(2), picture * 2, sizes=[len(picture)] * 2)
    else:
        (tmp_path / "a.png").write_bytes(picture)
        given = {"root": str(tmp_path)}
        chunk(tmp_path / "store", entries(2), b"", given, sizes=[], places=[["a.png", None]] * 2)
    sheet = sheet_of(of_store(measured("a", "class_conditional", {"fid": 1.0}), entries(2), 2), find_stores([tmp_path]))
    assert sheet is not None
    assert sheet.count == 2


def test_a_metric_called_like_a_column_is_a_column_of_its_own():
    records = [
        measured("a", "class_conditional", {"fid@cfg": 9.0, "@": 1.0}),
        measured(
            "b",
            "class_conditional",
            {"fid": 2.0},
            protocol=Protocol(name="c", axis="class_conditional", guidance=Guidance(scale=2.0)),
        ),
    ]
    spec = declare(
        {"metrics": ["fid@cfg", "@"], "axis": "class_conditional"}, {"metrics": ["fid"], "guidance": ["cfg"]}
    )
    board = build(records, spec)
    assert {column.id: column.key for column in board.columns} == {"fid_cfg": "fid@cfg", "_": "@", "fid@cfg": "fid"}
    assert {row.name: len(row.cells) for row in board.rows} == {"a": 2, "b": 1}


def test_an_id_in_two_files_is_one_sentence(tmp_path):
    from diffusionbench.errors import RequestError

    for name in ("a\nb", "c"):
        measured("good", "class_conditional", {"fid": 2.0}).save(tmp_path / f"{name}.json")
    with pytest.raises(RequestError, match=r"stands in both .*c\.json") as refused:
        gather([tmp_path])
    (tmp_path / "a\nb.json").write_text("{}")
    with pytest.raises(RequestError, match="does not fit") as unfit:
        load(tmp_path / "a\nb.json")
    assert "\n" not in f"{refused.value}{unfit.value}"


def test_a_record_with_a_byte_order_mark_is_read(tmp_path):
    measured("good", "class_conditional", {"fid": 2.0}).save(tmp_path / "r.json")
    plain = load(tmp_path / "r.json")
    (tmp_path / "r.json").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "r.json").read_bytes())
    assert load(tmp_path / "r.json") == plain
    assert len(load_folder(tmp_path)) == 1
