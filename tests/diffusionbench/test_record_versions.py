"""Records of version 1 are read as version 2; ids follow the content; attachments are bound by their hashes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from diffusionbench.errors import DataError
from diffusionbench.record import (
    INLINE,
    Attachment,
    Guidance,
    Protocol,
    Provenance,
    Record,
    Value,
    attachment,
    load,
    record_id,
    stderr_of,
    upgrade,
)
from diffusionbench.schema import digest, file_digest
from diffusionbench.study.points import record_files

GOLDEN = Path(__file__).parent / "golden"
V1 = sorted((GOLDEN / "v1").glob("*.json"))


def old(**changes: object) -> dict[str, object]:
    """The golden record of digits, changed."""
    return json.loads((GOLDEN / "v1" / "pixel-v-c7fc014a1b58.json").read_text()) | changes


def made(**changes: object) -> Record:
    given = {
        "kind": "measured",
        "id": "toy-1",
        "method": "Toy (mine)",
        "title": "Toy",
        "protocol": Protocol(name="p", axis="class_conditional", count=100),
        "values": {"fid": Value(value=2.5), "kid_mean": Value(value=1.0)},
        "provenance": Provenance(source="x", images_digest="a" * 64),
    }
    return Record.model_validate(given | changes)


COST = {"training_images": 9, "training_flops": 1e15, "device_hours": 0.5, "device": "H200"}
PROGRESS = [{"images": n, "epoch": n / 4, "scores": {"fid": 9.0 - n}} for n in (4, 8)]


@pytest.mark.parametrize("path", V1, ids=lambda path: path.stem)
def test_a_record_of_version_1_is_read_as_its_golden_file_says(path):
    record = load(path)
    assert record.model_dump(mode="json") == json.loads((GOLDEN / "v2" / path.name).read_text())
    # What it holds already stays as it is, and reading the result again changes nothing.
    assert Record.model_validate_json(record.model_dump_json()) == record


def test_there_are_golden_files_of_every_kind():
    kinds = {(load(path).kind, load(path).protocol.axis) for path in V1}
    assert kinds == {("measured", "class_conditional"), ("measured", "t2i"), ("published", "class_conditional")}


def test_what_version_1_did_not_state_is_null_and_its_id_stays():
    record = Record.model_validate(old())
    assert (record.schema_version, record.id) == (2, "pixel-v-c7fc014a1b58")
    assert record.id != record_id(record)
    protocol = record.protocol
    assert (protocol.items_digest, protocol.image_format, protocol.tuning) == (None, None, None)
    (judge,) = protocol.judges.values()
    assert (judge.digest, judge.precision, judge.options) == (old()["protocol"]["extractors"]["digits"], None, {})
    assert protocol.references["digits"].model_dump() == {
        "name": "digits",
        "digest": old()["protocol"]["reference_digest"],
        "role": None,
        "made_by": None,
    }
    assert {(value.status, value.reason, value.judges) for value in record.values.values()} == {("ok", None, ())}
    assert (record.evidence, record.trained_with, record.partial) == ({}, (), False)


def test_statuses_of_version_1_follow_what_it_stated():
    partial = Record.model_validate(old(partial=True))
    assert partial.partial
    assert {value.status for value in partial.values.values()} == {"partial"}
    failed = Record.model_validate(old(provenance=old()["provenance"] | {"selftest": "failed"}))
    assert {value.status for value in failed.values.values()} == {"flagged"}
    shapes = load(GOLDEN / "v1" / "toy-ae-3b41a0dfccfb.json")
    assert {(value.status, value.reason) for value in shapes.values.values()} == {("provisional", "unverified")}


@pytest.mark.parametrize(
    "word, status", [("ranked", "ok"), ("flagged: clean, mirror", "flagged"), ("new", "provisional")]
)
def test_words_of_simpleeval_are_statuses(word, status):
    facts = {"fd_digits": {"status": word}, "other": 3}
    record = Record.model_validate(old(extra={"facts": facts}))
    assert record.values["fd_digits"].status == status
    assert record.values["accuracy_digits"].status == "ok"


@pytest.mark.parametrize("part", ["protocol", "values", "provenance", "extra", "partial", "kind"])
@pytest.mark.parametrize("content", [None, 3, "x", [], [1], {"fid": 3}, {"facts": {"fid": []}}])
def test_nonsense_of_version_1_is_refused_or_read_but_never_ends_in_a_traceback(part, content):
    try:
        Record.model_validate(old(**{part: content}))
    except ValidationError:
        return
    assert part in ("extra", "partial", "provenance") or content == {}


def test_parts_of_the_old_protocol_that_break_it_are_named():
    for change in ({"extractors": [1]}, {"extractors": {"digits": 4}}, {"reference": 7}, {"reference_digest": {}}):
        with pytest.raises(ValidationError, match="protocol"):
            Record.model_validate(old(protocol=old()["protocol"] | change))
    assert upgrade({"schema_version": 1}) == {"schema_version": 2}


def test_an_id_is_of_method_protocol_images_and_metrics_alone():
    first = record_id(made())
    rules = {"name": "p", "axis": "class_conditional", "count": 100, "judges": {}, "references": {}}
    assert first == f"toy-mine-{digest([rules, 'a' * 64, ['fid', 'kid_mean']])[:12]}"
    protocol = made().protocol
    same = {
        "id": "other",
        "title": "Other",
        "family": "vae",
        "values": {"kid_mean": Value(value=7.0, scored=3), "fid": Value(value=1.0, status="flagged")},
        "protocol": protocol.model_copy(update={"notes": ("a remark",)}),
        "provenance": Provenance(source="y", images_digest="a" * 64, command="c", step=3),
        "extra": {"a": 1},
        "trained_with": ("digits",),
        "cost": COST,
        "progress": PROGRESS,
    }
    for field, content in same.items():
        assert record_id(made(**{field: content})) == first, field
    other = {
        "method": "other",
        "values": {"fid": Value(value=2.5)},
        "protocol": protocol.model_copy(update={"guidance": Guidance(scale=1.0)}),
        "provenance": Provenance(source="x", images_digest="b" * 64),
    }
    for field, content in other.items():
        assert record_id(made(**{field: content})) != first, field


# Cost and progress


def test_cost_and_progress_survive_the_record():
    record = made(cost=COST | {"price_per_hour": 3.0, "money": 1.5}, progress=PROGRESS)
    assert Record.model_validate_json(record.model_dump_json()) == record
    assert record.cost is not None
    assert (record.cost.money, record.progress[1].scores) == (1.5, {"fid": 1.0})
    assert (made().cost, made().progress) == (None, ())


@pytest.mark.parametrize(
    "change",
    [
        *({name: -1} for name in ("training_images", "training_flops", "device_hours", "price_per_hour", "money")),
        *({name: float("inf")} for name in ("training_flops", "device_hours", "price_per_hour", "money")),
        {"training_images": 1.5},
        {"training_images": 2**63},
        {"device": ""},
        {"money": 1.0},
        {"price_per_hour": 1.0},
        {"price_per_hour": 3.0, "money": 1.6},
    ],
)
def test_a_cost_out_of_range_or_at_odds_with_its_price_is_refused(change):
    with pytest.raises(ValidationError, match="cost"):
        made(cost=COST | change)


@pytest.mark.parametrize(
    "change", [{"images": 4}, {"images": -8}, {"epoch": 0.5}, {"scores": {}}, {"scores": {"fid": float("nan")}}]
)
def test_progress_out_of_range_or_order_is_refused(change):
    with pytest.raises(ValidationError, match="progress"):
        made(progress=[PROGRESS[0], PROGRESS[1] | change])


# Attachments


def attached(text: str) -> Record:
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return made(evidence={"per_sample.json": Attachment(sha256=sha256, text=text)})


@pytest.mark.parametrize("size", [10, INLINE + 1])
def test_an_attachment_is_read_where_the_record_lies(size, tmp_path):
    text = "x" * size
    attached(text).save(tmp_path / "toy-1.json")
    read = load(tmp_path / "toy-1.json")
    beside = tmp_path / "toy-1.evidence" / "per_sample.json"
    assert beside.exists() == (read.evidence["per_sample.json"].text is None) == (size > INLINE)
    assert attachment(read, tmp_path / "toy-1.json", "per_sample.json") == text.encode()
    assert attachment(read, tmp_path / "toy-1.json", "other.json") is None
    # It is no record, and nothing looks for one there.
    assert record_files(tmp_path) == [tmp_path / "toy-1.json"]


def test_an_attachment_that_was_changed_is_refused_and_one_that_is_gone_is_none(tmp_path):
    attached("x" * (INLINE + 1)).save(tmp_path / "toy-1.json")
    record, place = load(tmp_path / "toy-1.json"), tmp_path / "toy-1.evidence" / "per_sample.json"
    assert record.evidence["per_sample.json"].sha256 == file_digest(place)
    place.write_text("y")
    with pytest.raises(DataError, match=r"'per_sample.json' of record .* does not have the SHA-256"):
        attachment(record, tmp_path / "toy-1.json", "per_sample.json")
    place.unlink()
    assert attachment(record, tmp_path / "toy-1.json", "per_sample.json") is None
    place.mkdir()
    with pytest.raises(DataError, match=r"per_sample\.json: "):
        attachment(record, tmp_path / "toy-1.json", "per_sample.json")
    inline = attached("short")
    forged = inline.evidence["per_sample.json"].model_copy(update={"text": "other"})
    with pytest.raises(DataError, match="SHA-256"):
        attachment(inline.model_copy(update={"evidence": {"per_sample.json": forged}}), tmp_path, "per_sample.json")


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "x" * 201, "a\\b", "a\nb"])
def test_an_attachment_is_a_file_beside_its_record_and_nowhere_else(name):
    with pytest.raises(ValidationError, match="evidence"):
        made(evidence={name: Attachment(sha256="a" * 64)})


# Errors


@pytest.mark.parametrize(
    "value, stderr",
    [
        (Value(value=1.0), None),
        (Value(value=1.0, stderr=0.25, interval=(0.0, 9.0)), 0.25),
        (Value(value=1.0, interval=(0.5, 1.5), method="wilson"), 0.5 / 1.959963984540054),
        # Nine degrees of freedom.
        (Value(value=1.0, interval=(0.5, 1.5), method="jackknife"), 0.5 / 2.262157162854099),
        (Value(value=1.0, interval=(0.5, 1.5)), 0.5 / 1.959963984540054),
    ],
)
def test_the_error_of_a_value_goes_by_the_method_of_its_interval(value, stderr):
    assert stderr_of(value) == (None if stderr is None else pytest.approx(stderr, rel=1e-12))
