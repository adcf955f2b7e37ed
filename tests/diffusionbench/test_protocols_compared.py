"""Which fields of a protocol keep two values apart, field by field; a new field without an entry fails."""

from __future__ import annotations

import math

import pytest

from diffusionbench.errors import RequestError
from diffusionbench.record import Guidance, Protocol, Provenance, Record, Value
from diffusionbench.study.board import build
from diffusionbench.study.comparison import compare
from diffusionbench.study.points import check_one_protocol, protocol_difference

# For each field two contents that differ.
CONTENTS = {
    "name": ("class_conditional", "other"),
    "axis": ("class_conditional", "t2i"),
    "reference": ("digits", "other"),
    "reference_digest": ("a" * 64, "b" * 64),
    "extractors": ({"digits": "a" * 64}, {"digits": "b" * 64}),
    "count": (100, 200),
    "images_per_prompt": (1, 2),
    "prompts": ("one", "two"),
    "prompts_digest": ("a" * 64, "b" * 64),
    "seed": (0, 1),
    "noise": (None, "blake2b-1"),
    "sampler": ("euler", "heun"),
    "num_steps": (25, 50),
    "shift": (1.0, 2.0),
    "guidance": (Guidance(scale=1.5), Guidance(scale=2.0, interval=(0, 0.5))),
    "quantisation": ("truncate", "round"),
    "ema": (True, False),
    "precision": ("float32", "bfloat16"),
    "notes": (("a",), ("b",)),
}
# Another draw under the same rules, and remarks.
NO_RULE = {"seed", "noise", "notes"}
# How a method makes its images is its own affair: a board sets such results side by side.
OWN_AFFAIR = {"sampler", "num_steps", "shift", "guidance", "ema", "precision"}


def record(name: str, /, **protocol: object) -> Record:
    given = {"name": "class_conditional", "axis": "class_conditional", "guidance": Guidance(scale=1.0)}
    return Record(
        kind="measured",
        id=name,
        method=name,
        title=name,
        protocol=Protocol.model_validate(given | protocol),
        values={"fd_digits": Value(value=2.0, stderr=0.1)},
        provenance=Provenance(source="made up"),
    )


def pair(field: str) -> tuple[Record, Record]:
    first, second = CONTENTS[field]
    return record("a", **{field: first}), record("b", **{field: second})


def test_every_field_has_an_entry():
    assert CONTENTS.keys() == Protocol.model_fields.keys()


@pytest.mark.parametrize("field", CONTENTS)
def test_two_records_are_told_apart_by_every_rule(field):
    found = compare(*pair(field))
    assert found.differs == (field not in NO_RULE)
    assert set(found.protocol) == ({field} - NO_RULE)
    assert not compare(*[pair(field)[0]] * 2).differs


@pytest.mark.parametrize("field", CONTENTS)
def test_a_board_has_one_column_for_one_protocol(field):
    records = pair(field)
    free = NO_RULE | OWN_AFFAIR
    assert bool(protocol_difference(*(one.protocol for one in records))) == (field not in free)
    columns = build(records, "measured", draws=0).columns
    assert len(columns) == (1 if field in free else 2)
    if field in free:
        check_one_protocol(records, "fd_digits")
    else:
        with pytest.raises(RequestError, match=f"mixed protocols .* differ in {field}"):
            check_one_protocol(records, "fd_digits")


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
    assert compare(*records).values["fd_digits"].stderr == pytest.approx(stderr)


@pytest.mark.parametrize("gap, interval", [(2.4, (1.0, 2.0)), (3.2, (1.0, 1.0))])
def test_the_interval_of_a_rank_holds_95_percent(gap, interval):
    """Two methods whose scores change places in 4.5 % and in 1.2 % of all draws; 2.5 % stay out on either side."""
    records = []
    for name, value in (("a", 1.0), ("b", 1.0 + gap)):
        records.append(record(name).model_copy(update={"values": {"fd_digits": Value(value=value, stderr=1.0)}}))
    rows = {row.name: row for row in build(records, "measured", holistic=("fd_digits",), draws=4000).rows}
    assert rows["a"].interval == interval
