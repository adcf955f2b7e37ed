"""Cost beside quality: values that follow from a record's cost and progress, on boards and on the axes of figures."""

from __future__ import annotations

import json

import pytest
from declaring import accepted, laptop_protocol
from making import invoke
from site_records import measured

from diffusionbench.catalog import metric_info
from diffusionbench.record import Guidance, Provenance, Record, ReferenceUsed
from diffusionbench.study.board import build, column_id, with_epochs
from diffusionbench.study.columns import board_spec
from diffusionbench.study.cost import derived_value, is_derived, with_derived
from diffusionbench.study.points import select_points

COST = {"training_images": 9600, "training_flops": 2e15, "device_hours": 0.5, "device": "2 cores"}
PROGRESS = [
    {"images": 100 * n, "epoch": n / 2, "scores": {"fd_digits": 9.0 - n, "accuracy_digits": n / 10}} for n in (2, 4, 6)
]


def digits(
    name: str, fd: float, hours: float, scale: float = 1.0, weights: str = "a", reference: str = "digits"
) -> Record:
    """A record of digits that fits the board of the laptop, or with reference "digits:odd" that of its study."""
    return measured(
        name,
        "class_conditional",
        {"fd_digits": fd},
        id=f"{name}-{weights}-{scale:g}".lower(),
        protocol=laptop_protocol(reference, guidance=Guidance(scale=scale)),
        provenance=Provenance(source="made up", checkpoint_digest=weights * 64, images_digest=f"{weights}{scale}"),
        cost=COST | {"device_hours": hours, "price_per_hour": 2.0, "money": 2 * hours},
        progress=PROGRESS,
    )


@pytest.mark.parametrize(
    "key, value",
    [
        ("training_images", 9600.0),
        ("training_flops", 2e15),
        ("device_hours", 0.5),
        ("money", 1.0),
        # The first evaluation that is at least as good: lower distances, higher accuracies.
        ("epochs_to_fd_digits@7", 1.0),
        ("epochs_to_fd_digits@6.5", 2.0),
        ("epochs_to_fd_digits@2", None),
        ("epochs_to_accuracy_digits@0.5", 3.0),
        ("epochs_to_accuracy_digits@0.7", None),
        ("epochs_to_fid@5", None),
        ("fd_digits", None),
    ],
)
def test_values_follow_from_cost_and_progress(key, value):
    found = derived_value(digits("one", 3.0, 0.5), key)
    assert (None if found is None else found.value) == value
    assert is_derived(key) == (key != "fd_digits")


def test_a_record_without_them_holds_nothing_more():
    plain = measured("plain", "class_conditional", {"fd_digits": 2.0})
    assert with_derived(plain, ["device_hours", "epochs_to_fd_digits@3"]) is plain
    assert metric_info("epochs_to_fd_digits@3").title == "Epochs to FD (digits) 3"
    assert metric_info("money").higher_is_better is False


def test_a_board_shows_the_cost_of_each_network_once_and_keeps_its_rows():
    pair = [digits("one", 3.0, 0.5), digits("one", 2.0, 0.5, scale=1.5)]
    seeds = [digits("two", 3.0, 1.0), digits("two", 4.0, 2.0, weights="b")]
    spec = with_epochs(board_spec("measured-laptop"), ["epochs_to_fd_digits@7", "fd_digits", "place"])
    board = build([*pair, *seeds], spec, draws=0)
    rows = {row.name: row.cells for row in board.rows}
    # Guided and unguided images are of one network, and stay one row.
    assert set(rows) == {"one", "two"}
    assert {*rows["one"]} >= {"fd_digits", "fd_digits@cfg", "device_hours#class", "epochs_to_fd_digits_7"}
    assert (rows["one"]["device_hours#class"].value, rows["one"]["device_hours#class"].n) == (0.5, 1)
    assert (rows["two"]["device_hours#class"].value, rows["two"]["device_hours#class"].n) == (1.5, 2)
    assert "device_hours#t2i" not in rows["one"]
    assert rows["one"]["epochs_to_fd_digits_7"].value == 1.0
    # A cost is never a reason to be listed.
    assert board.listed == ()
    assert column_id("epochs_to_fd_digits@7", "measured-laptop", [column.id for column in board.columns])


def test_cost_can_join_the_rank_and_its_pareto_front():
    records = [digits("cheap", 4.0, 0.1), digits("good", 2.0, 3.0), digits("bad", 5.0, 4.0)]
    board = build(records, "measured-laptop", holistic=["fd_digits", "device_hours#class"], draws=0)
    assert {row.name: row.pareto for row in board.rows} == {"cheap": True, "good": True, "bad": False}


def test_cost_is_an_axis_of_correlations(tmp_path):
    records = [digits(f"m{n}", 5.0 - n, 2.0**n) for n in range(4)]
    selection = select_points(records, "device_hours", "fd_digits", score_set="measured")
    assert [(p.x, p.y) for p in selection.points] == [(2.0**n, 5.0 - n) for n in range(4)]
    for record in records:
        record.save(tmp_path / f"{record.id}.json")
    words = ("correlate", "--set", "measured", "--records", str(tmp_path), "--json", "--draws", "0")
    done = invoke(*words, "--x", "epochs_to_fd_digits@7", "--y", "fd_digits")
    assert done.exit_code == 0, done.output
    assert {point["x"] for point in json.loads(done.output)["selection"]["points"]} == {1.0}
    done = invoke("board", "--set", "measured-laptop", "--records", str(tmp_path), "--columns", "epochs_to_fd_digits@7")
    assert done.exit_code == 0, done.output
    assert "Epochs to" in done.output.replace("\n", " ")


def test_of_several_declared_protocols_the_one_of_most_methods_counts():
    used = ReferenceUsed(name="digits, odd half", digest=accepted().references["digits:odd"][0])
    whole = [digits("one", 3.0, 1.0), digits("two", 4.0, 2.0)]
    odd = [digits(f"m{n}", 5.0 - n, 1.0 + n) for n in range(3)]
    odd = [
        one.model_copy(update={"protocol": one.protocol.model_copy(update={"references": {"digits": used}})})
        for one in odd
    ]
    selection = select_points([*whole, *odd], "device_hours", "fd_digits", score_set="measured")
    assert [point.name for point in selection.points] == ["m0", "m1", "m2"]
    assert [name for name, why in selection.left_out if "that of most methods" in why] == ["one", "two"]
