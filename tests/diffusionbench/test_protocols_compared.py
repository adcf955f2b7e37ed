"""Which fields of a protocol keep two values apart, field by field; a new field without an entry fails."""

from __future__ import annotations

import math

import pytest
from declaring import declare

from diffusionbench.errors import RequestError
from diffusionbench.protocol import COMPARED, NOT_COMPARED, protocol_difference
from diffusionbench.record import Guidance, JudgeUsed, Protocol, Provenance, Record, ReferenceUsed, Tuning, Value
from diffusionbench.study.board import build
from diffusionbench.study.comparison import compare
from diffusionbench.study.points import check_one_protocol

A, B = "a" * 64, "b" * 64
# For each field two contents that differ.
CONTENTS = {
    "name": ("class_conditional", "other"),
    "axis": ("class_conditional", "t2i"),
    "judges": ({"digits": JudgeUsed(digest=A)}, {"digits": JudgeUsed(digest=B)}),
    "references": ({"digits": ReferenceUsed(name="digits")}, {"digits": ReferenceUsed(name="other")}),
    "items_digest": (A, B),
    "count": (100, 200),
    "images_per_prompt": (1, 2),
    "prompts": ("one", "two"),
    "prompts_digest": (A, B),
    "seed": (0, 1),
    "noise": (None, "blake2b-1"),
    "sampler": ("euler", "heun"),
    "num_steps": (25, 50),
    "shift": (1.0, 2.0),
    "guidance": (Guidance(scale=1.5), Guidance(scale=2.0, interval=(0, 0.5))),
    "quantisation": ("truncate", "round"),
    "ema": (True, False),
    "precision": ("float32", "bfloat16"),
    "image_format": ("png", "jpeg"),
    "tuning": (None, Tuning(split="train")),
    "notes": (("a",), ("b",)),
}
# Another draw under the same rules, and remarks.
NO_RULE = {"seed", "noise", "notes"}
# How a method makes its images is its own affair: a board sets such results side by side.
OWN_AFFAIR = {"sampler", "num_steps", "shift", "guidance", "ema", "precision", "tuning"}
# What is said of a judge and of a reference.
JUDGE = {"digest": (A, B), "precision": ("float32", "bfloat16"), "options": ({}, {"threshold": 0.3})}
REFERENCE = {"name": ("one", "two"), "digest": (A, B), "role": ("train", "val"), "made_by": (None, "asserted: digits")}


def record(name: str, stated: tuple[str, ...] = ("digits",), /, **protocol: object) -> Record:
    given = {"name": "class_conditional", "axis": "class_conditional", "guidance": Guidance(scale=1.0)}
    return Record(
        kind="measured",
        id=name,
        method=name,
        title=name,
        protocol=Protocol.model_validate(given | protocol),
        values={"fd_digits": Value(value=2.0, stderr=0.1, judges=stated)},
        provenance=Provenance(source="made up"),
    )


def pair(field: str) -> tuple[Record, Record]:
    first, second = CONTENTS[field]
    return record("a", **{field: first}), record("b", **{field: second})


def test_every_field_has_an_entry():
    assert CONTENTS.keys() == Protocol.model_fields.keys()
    assert {*COMPARED, "judges", "references"} | {*NOT_COMPARED} == CONTENTS.keys()
    assert not {*COMPARED} & {*NOT_COMPARED}
    assert {*NOT_COMPARED} == NO_RULE | OWN_AFFAIR
    assert JUDGE.keys() == JudgeUsed.model_fields.keys()
    assert REFERENCE.keys() == ReferenceUsed.model_fields.keys()


@pytest.mark.parametrize("field", CONTENTS)
def test_two_records_are_told_apart_by_every_rule(field):
    found = compare(*pair(field))
    assert found.differs == (field not in NO_RULE)
    assert {name.split(".")[0] for name in found.protocol} == ({field} - NO_RULE)
    # How a method samples is told and keeps no values apart; any other rule refuses the comparison, by its name.
    one = found.values["fd_digits"]
    assert found.sampling == tuple({field} & OWN_AFFAIR)
    assert {name.split(".")[0] for name in one.refused} == ({field} - NO_RULE - OWN_AFFAIR)
    assert (one.beyond is None) == bool(one.refused)
    assert not compare(*[pair(field)[0]] * 2).differs


@pytest.mark.parametrize("field", CONTENTS)
def test_points_are_of_one_protocol(field):
    records = pair(field)
    free = NO_RULE | OWN_AFFAIR
    assert bool(protocol_difference(*records, "fd_digits")) == (field not in free)
    if field in free:
        check_one_protocol(records, "fd_digits")
    else:
        with pytest.raises(RequestError, match=f"mixed protocols .* differ in {field}"):
            check_one_protocol(records, "fd_digits")


@pytest.mark.parametrize("field", [field for field in CONTENTS if field not in ("guidance", "tuning", "notes")])
def test_a_column_holds_the_fields_that_it_insists_on_and_no_others(field):
    records = pair(field)
    path, accepted = {
        "judges": ("judges.digits.digest", A),
        "references": ("references.digits.name", "digits"),
    }.get(field, (field, CONTENTS[field][0]))
    column = {"metrics": ["fd_digits"], "axis": "class_conditional"}
    free = build(records, declare(column), draws=0)
    assert len(free.columns) == 1
    assert [row.name for row in free.rows] == (["a"] if field == "axis" else ["a", "b"])
    board = build(records, declare({**column, "protocol": {path: accepted}}), draws=0)
    assert [row.name for row in board.rows] == ["a"]
    (held,) = board.listed
    assert (held.record, held.reason.split(" is ")[0]) == ("b", path if field != "axis" else "axis")


def test_a_column_may_insist_that_a_field_is_stated():
    records = record("a", items_digest=A), record("b")
    spec = declare({"metrics": ["fd_digits"], "protocol": {"items_digest": "stated"}})
    board = build(records, spec, draws=0)
    assert [row.name for row in board.rows] == ["a"]
    assert board.listed[0].reason == "items_digest is not stated (the column insists on one)"


@pytest.mark.parametrize("image_format, fits", [(None, True), ("png", True), ("npz+png", True), ("jpeg+png", False)])
def test_a_column_may_insist_on_formats_that_keep_every_pixel(image_format, fits):
    spec = declare({"metrics": ["fd_digits"], "protocol": {"image_format": "lossless"}})
    board = build([record("a", image_format=image_format)], spec, draws=0)
    assert len(board.rows) == fits
    assert [held.reason.split(" (")[0] for held in board.listed] == ([] if fits else ["image_format is jpeg+png"])


@pytest.mark.parametrize("kind, name", [("judges", "digits"), ("references", "digits")])
def test_a_column_accepts_the_digests_of_its_judges_and_references(kind, name):
    used = {"judges": ({"digest": A}, {"digest": B}), "references": ({"name": "x", "digest": A}, {"name": "x"})}[kind]
    records = [record(one, **{kind: {name: facts}}) for one, facts in zip("ab", used, strict=True)]
    asked = {"judges": [name]} if kind == "judges" else {"references": {"digits": name}}
    spec = declare({"metrics": ["fd_digits"], **asked}, accepted={kind: {name: [A]}})
    board = build(records, spec, draws=0)
    assert [row.name for row in board.rows] == ["a"]
    assert board.listed[0].reason.startswith(f"{kind}.digits.digest is ")
    none = build(records, declare({"metrics": ["fd_digits"], **asked}, accepted={kind: {name: []}}), draws=0)
    assert none.rows == ()
    assert "the column accepts none yet" in none.listed[0].reason


@pytest.mark.parametrize(
    "field, part, contents",
    [
        *(("judges", part, contents) for part, contents in JUDGE.items()),
        *(("references", part, contents) for part, contents in REFERENCE.items()),
    ],
)
@pytest.mark.parametrize("stated", [("digits",), ()])
def test_every_fact_of_the_judge_and_the_reference_behind_a_value_counts(field, part, contents, stated):
    """Also where a value does not state its judges, and for no other judge of the record."""
    facts = {"judges": {"digest": A}, "references": {"name": "digits"}}[field]
    named = [*zip("ab", contents, strict=True)]
    records = [record(name, stated, **{field: {"digits": facts | {part: one}}}) for name, one in named]
    assert protocol_difference(*records, "fd_digits") == {f"{field}.digits.{part}": contents}
    beside = [record(name, **{field: {"digits": facts, "inception": facts | {part: one}}}) for name, one in named]
    assert protocol_difference(*beside, "fd_digits") == {}


def test_a_judge_that_only_one_record_names_is_a_difference_of_its_metrics_only():
    both, other = {"digits": JudgeUsed(digest=A), "inception": JudgeUsed(digest=B)}, {"inception": JudgeUsed(digest=B)}
    records = record("a", judges=both), record("b", judges=other)
    assert [*protocol_difference(*records, "fd_digits")] == ["judges.digits"]
    records = record("a", ("inception",), judges=both), record("b", ("inception",), judges=other)
    assert protocol_difference(*records, "fd_digits") == {}


@pytest.mark.parametrize("one, other, alike", [
    (None, "png", True), ("npz", "png+raw", True), ("png", "jpeg", False), (None, "jpeg+png", False),
    ("jpeg", "jpeg", True), ("jpeg", "webp", False), ("png", "unknown", False),
])  # fmt: skip
def test_formats_that_keep_every_pixel_are_one(one, other, alike):
    records = record("a", image_format=one), record("b", image_format=other)
    assert protocol_difference(*records, "fd_digits") == ({} if alike else {"image_format": (one, other)})


def test_a_metric_without_real_images_does_not_care_which_others_were_compared_with():
    records = [record(name, references={"digits": ReferenceUsed(name=name)}) for name in "ab"]
    assert protocol_difference(*records, "accuracy_digits") == {}
    assert [*protocol_difference(*records, "fd_digits")] == ["references.digits.name"]


@pytest.mark.parametrize(
    "first, second, stderr",
    [
        (Value(value=1, stderr=0.3), Value(value=2, stderr=0.4), 0.5),
        # A 95 % interval is 2 * 1.96 errors wide.
        (Value(value=1, interval=(0.804, 1.196)), Value(value=2, stderr=0.0), 0.1),
        (Value(value=1, interval=(0.804, 1.196)), Value(value=2, interval=(0.51, 3.45)), math.hypot(0.1, 0.75)),
    ],
)
def test_the_error_of_a_difference_is_that_of_both(first, second, stderr):
    records = [
        record(name).model_copy(update={"values": {"fd_digits": one}})
        for name, one in zip("ab", (first, second), strict=True)
    ]
    assert compare(*records).values["fd_digits"].stderr == pytest.approx(stderr, rel=1e-4)


@pytest.mark.parametrize("gap, interval", [(2.4, (1.0, 2.0)), (3.2, (1.0, 1.0))])
def test_the_interval_of_a_rank_holds_95_percent(gap, interval):
    """Two methods whose scores change places in 4.5 % and in 1.2 % of all draws; 2.5 % stay out on either side."""
    records = []
    for name, value in (("a", 1.0), ("b", 1.0 + gap)):
        records.append(record(name).model_copy(update={"values": {"fd_digits": Value(value=value, stderr=1.0)}}))
    rows = {row.name: row for row in build(records, declare({"metrics": ["fd_digits"], "rank": True}), draws=4000).rows}
    assert rows["a"].interval == interval
