"""Boards: cells trace to records, ranks follow their definition, and no record changes columns or ranks of others."""

import csv
import io
import json
import re
from dataclasses import asdict
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from declaring import declare
from making import invoke

from diffusionbench.errors import RequestError, UserError
from diffusionbench.judges import JUDGES
from diffusionbench.protocol import protocol_difference
from diffusionbench.record import Guidance, JudgeUsed, Protocol, Provenance, Record, ReferenceUsed, Value
from diffusionbench.references import REFERENCES, digits
from diffusionbench.request import EvalRequest, Evaluation, Sampling
from diffusionbench.runner import run as run_request
from diffusionbench.source import ArraySource
from diffusionbench.study import published
from diffusionbench.study.board import build, chosen_boards, column_id, keep, order
from diffusionbench.study.cells import cell_of, status_of
from diffusionbench.study.columns import BOARDS, accepted, board_like, declared, read_boards
from diffusionbench.study.points import gather, select_points
from diffusionbench.views.terminal import (
    board_csv,
    board_markdown,
    print_board,
    rank_notes,
    shown,
    status_notes,
    with_error,
)

PAPER = published.PAPER
HOLISTIC = ("fid", "fid@cfg", "geneval_overall", "dpgbench", "genaibench_overall")
FID = declare({"metrics": ["fid"], "guidance": ["none"], "rank": True})
THREE = declare(
    {"metrics": ["fid"], "guidance": ["none"], "rank": True}, {"metrics": ["geneval_overall", "dpgbench"], "rank": True}
)
GENEVAL = declare({"metrics": ["geneval_overall"], "rank": True})
ONE = """boards:
- {name: a, version: 1, title: A, records: measured, columns: [{metrics: [fid]}]}
"""
OWN = """
boards:
- {name: mine, version: 1, title: Mine, records: measured, columns: [{metrics: [fid], guidance: [none], rank: true}]}
"""


def make(name, axis, values, *, guidance=1.0, count=100, suffix="", title=None, stderr=None):
    return Record(
        kind="measured",
        id=f"{name}.{axis}{suffix}",
        method=name,
        title=title or name,
        family="vae",
        protocol=Protocol(name=axis, axis=axis, count=count, guidance=guidance and Guidance(scale=guidance)),
        values={key: Value(value=value, stderr=stderr) for key, value in values.items()},
        provenance=Provenance(source="made up"),
    )


@pytest.fixture(scope="module")
def paper():
    return build(published.records(), PAPER)


def test_rows_of_the_paper(paper):
    assert len(paper.rows) == 35
    assert paper.holistic == HOLISTIC
    assert len({row.name for row in paper.rows}) == 35
    ranked = [row for row in paper.rows if row.place is not None]
    assert len(ranked) == 26
    assert {row.family for row in paper.rows if row.place is None} >= {"reference"}
    flux = next(row for row in paper.rows if row.name == "flux2-vae")
    longer = next(row for row in paper.rows if row.name == "flux2-vae-200k")
    assert (flux.cells["geneval_overall"].value, longer.cells["geneval_overall"].value) == (0.675, 0.625)
    assert longer.missing == ("fid", "fid@cfg")


@pytest.mark.parametrize("score_set", published.SCORE_SETS)
def test_every_cell_is_its_record(score_set):
    board = build(published.records(), score_set, draws=0)
    by_id = {record.id: record for record in published.records()}
    keys = {column.id: column.key for column in board.columns}
    cells = 0
    for row in board.rows:
        for name, cell in row.cells.items():
            assert by_id[cell.record].values[keys[name]].value == cell.value
            assert by_id[cell.record].method == row.method
            cells += 1
    assert cells == sum(len(r.values) for r in published.records(score_set))


def test_ranks_by_hand():
    records = []
    values = {"a": (1.0, 0.9, 0.5), "b": (2.0, 0.8, 0.7), "c": (3.0, 0.8, 0.6)}
    for name, (fid, geneval, dpg) in values.items():
        records.append(make(name, "class_conditional", {"fid": fid}))
        records.append(make(name, "t2i", {"geneval_overall": geneval, "dpgbench": dpg}, guidance=6.0))
    records.append(make("lonely", "class_conditional", {"fid": 0.1}))
    board = build(records, THREE)
    rows = {row.name: row for row in board.rows}
    assert board.holistic == ("fid", "geneval_overall", "dpgbench")
    assert rows["a"].ranks == {"fid": 1, "geneval_overall": 1, "dpgbench": 3}
    assert rows["b"].ranks == {"fid": 2, "geneval_overall": 2.5, "dpgbench": 1}
    assert rows["b"].axis_ranks == {"class_conditional": 2, "t2i": 1.75}
    assert [rows[n].mean_rank for n in "abc"] == [1.5, 1.875, 2.625]
    assert [rows[n].place for n in "abc"] == [1, 2, 3]
    # The lonely row has the best FID, yet takes no rank from anyone.
    assert rows["lonely"].place is None
    assert rows["lonely"].missing == ("geneval_overall", "dpgbench")
    assert [rows[n].pareto for n in "abc"] == [True, True, False]
    # Without FID: a has ranks 1, 3; b 2.5, 1; c 2.5, 2.
    (no_fid,) = (one for one in board.sensitivity if one.column == "fid")
    assert no_fid.first == "b"
    assert [rows[name].places for name in "abc"] == [(1, 2), (1, 2), (3, 3)]


def test_noise_makes_the_interval():
    def world(stderr):
        made = []
        for name, fid in (("a", 1.0), ("b", 1.1), ("c", 9.0)):
            made.append(make(name, "class_conditional", {"fid": fid}, stderr=stderr))
        return build(made, FID)

    exact, noisy = world(None), world(0.5)
    assert all(row.interval is None for row in exact.rows)
    assert exact.fixed == ("fid",)
    rows = {row.name: row for row in noisy.rows}
    assert rows["a"].interval == (1.0, 2.0)
    assert rows["c"].interval == (3.0, 3.0)
    assert noisy.fixed == ()


def test_a_cell_has_its_own_noise_before_a_published_one():
    scores = (("a", 0.51, 0.3), ("b", 0.5, 0.3), ("c", 0.1, 0.0))
    made = [make(name, "t2i", {"geneval_overall": value}, stderr=stderr) for name, value, stderr in scores]
    rows = {row.name: row for row in build(made, GENEVAL).rows}
    assert rows["a"].interval == rows["b"].interval == (1.0, 3.0)
    # Of two exact values the better one stays so, however another is moved.
    exact = [make("a", "class_conditional", {"fid": 1.0}, stderr=0.0)]
    exact += [make("b", "class_conditional", {"fid": 1.1}, stderr=0.0)]
    exact += [make("c", "class_conditional", {"fid": 9.0}, stderr=100.0)]
    rows = {row.name: row for row in build(exact, FID).rows}
    assert (rows["a"].interval, rows["b"].interval) == ((1.0, 2.0), (2.0, 3.0))


def test_paper_intervals_and_sensitivity(paper):
    assert paper.fixed == ("fid", "fid@cfg")
    for row in paper.rows:
        if row.place is not None:
            assert row.interval[0] <= row.interval[1]
            assert row.places[0] <= row.place <= row.places[1]
    assert [one.column for one in paper.sensitivity] == list(HOLISTIC)
    assert all(0.5 < one.tau < 1 for one in paper.sensitivity)
    values = np.array([[r.cells[c].value * (1 if "fid" in c else -1) for c in HOLISTIC] for r in paper.rows if r.place])
    front = [not any((o <= v).all() and (o < v).any() for o in values) for v in values]
    assert front == [row.pareto for row in paper.rows if row.place]


def test_filters_never_change_a_rank(paper):
    places = {row.name: row.place for row in paper.rows}
    pixel = keep(paper, family=["pixel"])
    assert [row.name for row in pixel.rows] == ["pixelgen", "jit", "pixnerd"]
    assert all(places[row.name] == row.place for row in pixel.rows)
    assert keep(paper, kind="measured").rows == ()
    assert len(keep(paper, family=["latent"]).rows) == 25
    with pytest.raises(RequestError, match="Did you mean 'few-step'"):
        keep(paper, family=["few-steps"])
    with pytest.raises(RequestError, match=r"unknown kind 'both'\. Known: measured, published"):
        keep(paper, kind="both")


def test_sorting(paper):
    assert order(paper, "fid@cfg").rows[0].name == "flux2-vae"
    assert order(paper, "geneval").rows[0].name == "flux-2"
    backwards = order(paper, "fid", reverse=True).rows
    assert backwards[0].name == "meanflow-nfe-1"
    assert "fid" not in backwards[-1].cells
    assert order(paper, "t2i").rows[0].axis_ranks["t2i"] == min(r.axis_ranks["t2i"] for r in paper.rows if r.axis_ranks)
    names = [row.name for row in order(paper, "name").rows]
    assert names == sorted(names)
    with pytest.raises(RequestError, match=r"unknown column 'fdi'\. Did you mean 'fid'"):
        order(paper, "fdi")
    with pytest.raises(RequestError, match="unknown column 'geneval@cfg'"):
        column_id("geneval@cfg", PAPER, [c.id for c in paper.columns])


def test_no_record_changes_the_columns_or_ranks_of_others():
    """One FID of 5,000 images, one record of another metric, one of another guidance: all are listed, nothing moves."""
    spec = declare({"metrics": ["fid"], "guidance": ["none", "cfg"], "protocol": {"count": 50_000}, "rank": True})
    records = [
        make(name, "class_conditional", {"fid": value}, count=50_000, guidance=guidance, suffix=suffix)
        for name, value in (("a", 1.0), ("b", 2.0), ("c", 3.0))
        for guidance, suffix in ((1.0, ""), (1.5, ".cfg"))
    ]
    strangers = [
        make("few", "class_conditional", {"fid": 0.1}, count=5_000, suffix=".few"),
        make("digits", "class_conditional", {"fd_digits": 0.1}),
        make("silent", "class_conditional", {"fid": 0.2}, count=50_000, guidance=None),
        make("a", "class_conditional", {"fid": 9.0}, count=10_000, suffix=".again"),
    ]
    before, after = build(records, spec, siblings=[]), build([*strangers, *records], spec, siblings=[])
    assert (after.columns, after.rows, after.sensitivity) == (before.columns, before.rows, before.sensitivity)
    assert (before.holistic, before.listed) == (("fid", "fid@cfg"), ())
    assert [row.place for row in before.rows] == [1, 2, 3]
    assert {held.record: held.reason for held in after.listed} == {
        "few.class_conditional.few": "count is 5000 (the column insists on 50000)",
        "digits.class_conditional": "no column of a board holds its metrics",
        "silent.class_conditional": "guidance is not stated (the column's is none)",
        "a.class_conditional.again": "count is 10000 (the column insists on 50000)",
    }
    assert after.listed[0].values["fid"].value == 0.1


def test_a_record_that_another_board_holds_is_not_listed():
    other = declare({"metrics": ["fd_digits"]}, name="other")
    records = [make("a", "class_conditional", {"fd_digits": 1.0})]
    assert build(records, FID, siblings=[FID, other]).listed == ()
    assert [held.record for held in build(records, FID, siblings=[FID]).listed] == ["a.class_conditional"]


@pytest.mark.parametrize(
    "status, change, values",
    [
        ("partial", {}, {"status": "partial", "reason": "3 could not be judged"}),
        ("partial", {}, {"unscored": 3}),
        ("provisional", {}, {"status": "provisional", "reason": "not made again"}),
        ("flagged", {}, {"status": "flagged", "reason": "guard"}),
        ("asserted", {}, {"status": "asserted"}),
        ("flagged", {"trained_with": ("inception",)}, {"judges": ("inception",)}),
        ("flagged", {"trained_with": ("inception", "other")}, {}),
        ("flagged", {"provenance": Provenance(source="made up", selftest="failed")}, {}),
    ],
)
def test_only_ok_takes_a_place_and_everything_else_is_shown_with_its_reason(status, change, values):
    doubtful = make("a", "class_conditional", {"fid": 0.5})
    doubtful = doubtful.model_copy(update={"values": {"fid": Value(value=0.5, **values)}, **change})
    others = [make(name, "class_conditional", {"fid": v}) for name, v in (("b", 1.0), ("c", 2.0))]
    found, reason = status_of(doubtful, "fid")
    assert found == status
    assert reason
    board = build([doubtful, *others], FID)
    rows = {row.name: row for row in board.rows}
    assert {name: row.place for name, row in rows.items()} == {"b": 1, "c": 2, "a": None}
    assert rows["a"].missing == ("fid",)
    assert with_error(rows["a"].cells["fid"]) == f"0.500 ({status})"
    assert status_notes(board, board.columns) == [f"{status}, takes no place: a, FID: {reason}"]
    table = list(csv.DictReader(io.StringIO(board_csv(board, board.columns))))
    assert (table[-1]["fid status"], table[-1]["not ranked because"]) == (status, f"fid is {status}: {reason}")
    assert f"0.500 ({status})" in board_markdown(board, board.columns)
    assert reason in board_markdown(board, board.columns)
    # A study's own board and its correlations take provisional values, too, and say so.
    own = build([doubtful, *others], declare({"metrics": ["fid"], "rank": True}, statuses=["ok", "provisional"]))
    assert {row.name: row.place for row in own.rows}["a"] == (1 if status == "provisional" else None)
    assert "ok or provisional" in rank_notes(own)[0]
    t2i = [make(name, "t2i", {"geneval_overall": 0.5 + i / 10}) for i, name in enumerate("abc")]
    chosen = select_points([doubtful, *others, *t2i], score_set="measured")
    if status == "provisional":
        assert [p.name for p in chosen.points] == ["a", "b", "c"]
        assert chosen.doubtful == [("a", "fid", "provisional", "not made again")]
    else:
        assert [p.name for p in chosen.points] == ["b", "c"]
        assert chosen.left_out == (("a", f"fid is {status}: {reason}"),)


def seeds(values, **changes):
    made = []
    for place, value in enumerate(values):
        one = make("a", "class_conditional", {"fid": value}, suffix=f".{place}", stderr=0.2)
        made.append(one.model_copy(update={"provenance": Provenance(source="made up", images_digest=f"{place}" * 64)}))
    return made


def test_repeats_are_one_row_with_their_mean_and_spread():
    (row,) = build(seeds([1.0, 1.2, 1.7]), FID).rows
    cell = row.cells["fid"]
    assert (cell.n, cell.value, cell.spread) == (3, pytest.approx(1.3), pytest.approx(0.1300**0.5))
    assert cell.stderr == cell.noise == pytest.approx((0.13 / 3) ** 0.5)
    assert cell.records == ("a.class_conditional.0", "a.class_conditional.1", "a.class_conditional.2")
    assert with_error(cell) == "1.3 ± 0.21, n = 3, sd 0.36"
    # Close repeats tell less than the error that each of them states.
    assert cell_of(seeds([1.0, 1.0, 1.0, 1.0]), "fid").stderr == pytest.approx(0.1)
    # The same images scored twice are one repeat.
    twice = seeds([1.0, 1.2])
    twice[1] = twice[1].model_copy(update={"provenance": twice[0].provenance})
    assert (cell_of(twice, "fid").n, len(cell_of(twice, "fid").records)) == (1, 2)
    t2i = [make("a", "t2i", {"geneval_overall": 0.5})]
    (point,) = select_points([*seeds([1.0, 1.2, 1.7]), *t2i], score_set="measured").points
    assert (point.x, point.x_value.stderr) == (pytest.approx(1.3), cell.stderr)


def test_another_setting_or_step_is_no_repeat_and_never_takes_a_row_apart():
    """The older setting keeps the row, whatever else the method is submitted with and in whatever order."""
    spec = declare({"metrics": ["fid"], "guidance": ["none", "cfg"], "rank": True})

    def dated(record, day, **protocol):
        when = record.provenance.model_copy(update={"created": f"2026-01-{day:02d}", "images_digest": f"{day:064d}"})
        return record.model_copy(
            update={"provenance": when, "protocol": record.protocol.model_copy(update=protocol), "id": f"r{day}"}
        )

    first = dated(make("a", "class_conditional", {"fid": 1.0}), 1, num_steps=50)
    guided = dated(make("a", "class_conditional", {"fid": 0.8}, guidance=4.0), 2, num_steps=50)
    later = [
        dated(make("a", "class_conditional", {"fid": 0.1}), 3, num_steps=250),
        dated(make("a", "class_conditional", {"fid": 0.1}, guidance=2.0), 4, num_steps=50),
    ]
    broken = dated(make("a", "class_conditional", {"fid": 0.1}), 0, num_steps=9)
    broken = broken.model_copy(update={"values": {"fid": Value(value=0.1, status="flagged", reason="guard")}})
    for records in ([first, guided, *later, broken], [broken, *later, guided, first]):
        rows = {row.name: row for row in build(records, spec, siblings=[]).rows}
        assert {name: one.records for name, one in rows["a"].cells.items()} == {"fid": ("r1",), "fid@cfg": ("r2",)}
        # What was added is ranked as a row of its own.
        assert {name: row.place for name, row in rows.items()} == {"a": 2, "a#2": 1, "a#3": None}
    stepped = later[0].model_copy(update={"protocol": first.protocol})
    stepped = stepped.model_copy(update={"provenance": stepped.provenance.model_copy(update={"step": 9})})
    assert len(build([first, stepped], FID, siblings=[]).rows) == 2


def test_two_networks_of_one_name_for_two_tasks_of_an_axis_are_two_rows():
    spec = declare({"metrics": ["fid", "fd_digits", "kd_digits"]}, {"metrics": ["geneval_overall"]})

    def network(weights, axis, values, title):
        made = make("a", axis, values, suffix=f".{weights}.{min(values)}", title=title)
        given = {"checkpoint_digest": weights * 64, "created": title, "images_digest": made.id.encode().hex()}
        return made.model_copy(update={"provenance": made.provenance.model_copy(update=given)})

    digits = network("1", "class_conditional", {"fd_digits": 3.0}, "1 digits")
    # The same weights scored again, and a repeat by another training.
    again = network("1", "class_conditional", {"kd_digits": 0.3}, "2 digits")
    repeat = network("2", "class_conditional", {"fd_digits": 4.0}, "3 digits")
    photographs = network("3", "class_conditional", {"fid": 9.0}, "4 photographs")
    scenes = network("4", "t2i", {"geneval_overall": 0.5}, "5 scenes")
    for records in permutations([digits, again, repeat, photographs]):
        rows = {row.name: row for row in build([*records, scenes], spec, siblings=[]).rows}
        assert {name: {*row.cells} for name, row in rows.items()} == {
            "a": {"fd_digits", "kd_digits", "geneval_overall"},
            "a#2": {"fid"},
        }
        assert rows["a"].cells["fd_digits"].n == 2
        assert rows["a#2"].title == "4 photographs"


def test_a_doubtful_repeat_is_listed_beside_the_mean_of_the_others():
    made = seeds([1.0, 1.2, 9.0])
    made[2] = made[2].model_copy(update={"values": {"fid": Value(value=9.0, status="partial", reason="3 lost")}})
    board = build(made, FID)
    assert board.rows[0].cells["fid"].value == pytest.approx(1.1)
    assert [(held.record, held.reason) for held in board.listed] == [
        ("a.class_conditional.2", "partial: 3 lost; the row shows values that are ok")
    ]
    wilson = {"fid": Value(value=1, interval=(0.804, 1.196))}
    assert cell_of([made[0].model_copy(update={"values": wilson})], "fid").noise == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize("score_set", ["paper-2026-06", "blog-2026-05"])
def test_published_boards_are_those_of_the_first_edition(score_set):
    expected = json.loads((Path(__file__).parent / "boards_published.json").read_text())[score_set]
    board = build(published.records(), score_set)
    assert (list(board.holistic), board.listed) == (expected["holistic"], ())
    found = [[o.column, o.tau, o.largest_shift, o.moved, o.first] for o in board.sensitivity]
    for one, other in zip(found, expected["sensitivity"], strict=True):
        assert one == [other[0], pytest.approx(other[1]), *other[2:]]
    assert [row.name for row in board.rows] == [*expected["rows"]]
    for row in board.rows:
        place, mean, interval, places, pareto = expected["rows"][row.name]
        assert (row.place, row.mean_rank, row.pareto) == (place, mean, pareto)
        assert row.interval == (interval and tuple(interval))
        assert row.places == (places and tuple(places))


def test_declared_boards_accept_the_digests_of_this_version():
    """What fails here is entered by `python tools/board_pins.py --write`."""
    for name in ("digits", "simpleeval_shapes", "efflite0"):
        try:
            found = JUDGES.load(name)("cpu").digest
        except UserError:
            assert name == "efflite0", f"the weights of {name} ship with the package"
            continue
        assert found in accepted().judges[name], name
    assert REFERENCES.load("digits")().digest in accepted().references["digits"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("boards: []", "boards: Tuple should have at least 1 item"),
        (ONE.replace("measured", "other"), "unknown set 'other'"),
        (ONE.replace("[fid]", "[fid], protocol: {cuont: 1}"), "no field of a protocol is called 'cuont'. Did you mean"),
        (ONE.replace("[fid]", "[fid], protocol: {judges.a: 1}"), "no field of a protocol is called 'judges.a'"),
        (ONE.replace("[fid]", "[fid, fid]"), "board 'a' declares column 'fid' twice"),
        (ONE.replace("title: A", "title: A, ranks: 1"), "boards.0.ranks: Extra inputs are not permitted"),
        (ONE + ONE.removeprefix("boards:"), "board 'a' has version 1 twice"),
        ("boards: &a [*a, *a]", "anchors and aliases"),
        ("boards: [", "is no YAML"),
        ("[" * 5000, "is no YAML"),
        ("\x00", "is no YAML"),
    ],
)
def test_a_file_of_boards_that_is_none_is_one_sentence(tmp_path, text, message):
    (tmp_path / "boards.yaml").write_text(text)
    with pytest.raises(RequestError, match=re.escape(message)) as refused:
        read_boards(tmp_path / "boards.yaml")
    assert len(str(refused.value).splitlines()) == 1
    with pytest.raises(RequestError, match="No such file"):
        read_boards(tmp_path / "absent.yaml")


def test_versions_stand_side_by_side(tmp_path):
    old = BOARDS.read_text().replace("version: 1", "version: 2")
    both = BOARDS.read_text() + old[old.index("boards:") + len("boards:") :]
    (tmp_path / "boards.yaml").write_text(both)
    names = [board.name for board in read_boards(tmp_path / "boards.yaml")]
    assert names == [*declared(), *(f"{name}@1" for name in declared())]
    known = {board.name: board for board in read_boards(tmp_path / "boards.yaml")}
    assert [board.version for board in chosen_boards([], ["paper-2026-06@1", PAPER], known)] == [1, 2]


def test_a_metric_of_another_package_is_shown_but_not_ranked():
    records = [make(n, "class_conditional", {"brightness": v}) for n, v in (("a", 1.0), ("b", 2.0))]
    spec = declare({"metrics": ["brightness"], "axis": "class_conditional"})
    board = build(records, spec)
    assert [c.id for c in shown(board)] == ["brightness"]
    assert len(board.rows) == 2
    with pytest.raises(RequestError, match="whether higher is better is not known"):
        build(records, spec, holistic=["brightness"])


def test_what_is_listed_is_printed_with_its_reason(tmp_path):
    silent = make("a", "class_conditional", {"fd_digits": 1.0, "kd_digits": 0.1}, guidance=None)
    for record in (silent, make("b", "t2i", {"geneval_overall": 0.5})):
        record.save(tmp_path / f"{record.id}.json")
    words = ("board", "--set", "measured-laptop", "--records", str(tmp_path))
    # Words of one line, whatever the width.
    said = " ".join(invoke(*words).output.split())
    assert "listed, not ranked: a (a.class_conditional): fd_digits 1, kd_digits 0.100: guidance is not stated" in said
    assert "listed, not ranked: b (b.t2i): geneval_overall 0.500: no column of a board holds its metrics" in said
    assert "not shown: 26 further columns (--columns all)" in said
    listed = json.loads(invoke(*words, "--json").output)["boards"][0]["listed"]
    assert [one["record"] for one in listed] == ["a.class_conditional", "b.t2i"]
    assert "no column of a board holds its metrics" in invoke(*words, "--csv").output
    assert "no column of a board holds its metrics" in invoke(*words, "--markdown").output


def pictured(name, value, *, reference="1", count=100, **values):
    """A record of pictures of one's own: no guidance is known, and the reference stands on no board."""
    record = make(name, "class_conditional", {"fd_efflite0": value, **values}, guidance=None, count=count)
    judged = {
        "judges": {"efflite0": JudgeUsed(digest="e" * 64)},
        "references": {"efflite0": ReferenceUsed(name="real", digest=reference * 64)},
    }
    return record.model_copy(update={"protocol": record.protocol.model_copy(update=judged)})


def test_a_board_like_a_record_ranks_what_compares_with_it_and_nothing_else():
    best, other, few = pictured("best", 1.0, kd_efflite0=0.1), pictured("other", 2.0), pictured("few", 0.5, count=99)
    board = build([other, few, best, pictured("elsewhere", 0.1, reference="5")], board_like(best), siblings=[])
    assert [(row.name, row.place) for row in board.rows] == [("best", 1), ("other", 2)]
    assert {held.record.partition(".")[0]: held.reason for held in board.listed} == {
        "few": "count is 99 (the column insists on 100)",
        "elsewhere": "references.efflite0.digest is 555555555555... (the column insists on 111111111111...)",
    }
    assert board.holistic == ("fd_efflite0",)
    assert [column.id for column in shown(board)] == ["fd_efflite0", "kd_efflite0"]
    with pytest.raises(RequestError, match="no value that can be ranked"):
        board_like(make("a", "t2i", {"brightness": 1.0}))


def test_a_board_like_a_record_holds_what_two_records_may_be_compared_in():
    records = [one for one in gather([Path(__file__).parents[2] / "records"]) if one.kind == "measured"]
    pairs = [
        (not column.misfits(other), not protocol_difference(one, other, column.key))
        for one in records[::10]
        for column in board_like(one).columns
        for other in records
        if column.key in other.values
    ]
    assert {*pairs} == {(True, True), (False, False)}


def test_pictures_of_ones_own_are_ranked_by_an_option_that_the_boards_name(tmp_path):
    for one in (pictured("a", 2.0), pictured("b", 1.0)):
        one.save(tmp_path / f"{one.id}.json")
    words = ("board", "--records", str(tmp_path))
    hint = "--like ID ranks the records that compare with one that is listed, such as --like a.class_conditional"
    assert hint in invoke(*words).output
    assert hint not in invoke(*words, "--csv").output
    ranked = invoke(*words, "--like", "a.class_conditional")
    assert [line.split()[:2] for line in ranked.output.splitlines() if "measured" in line] == [["1", "b"], ["2", "a"]]
    assert hint not in ranked.output
    for more, message in (
        (("--like", "c"), "unknown record 'c'. Known: a.class_conditional, b.class_conditional"),
        (("--like", "a.class_conditional", "--set", "all"), "Leave out --set and --boards"),
    ):
        assert message in str(invoke(*words, *more).exception)


def test_empty_and_broken_values():
    assert build([], FID).rows == ()
    records = [make("a", "class_conditional", {"fid": float("nan")}), make("b", "class_conditional", {"fid": 1.0})]
    rows = {row.name: row.place for row in build(records, FID).rows}
    assert rows == {"a": None, "b": 1}


def test_csv_and_json_name_the_records(paper):
    table = list(csv.DictReader(io.StringIO(board_csv(paper, shown(paper)))))
    assert len(table) == 35
    first = next(line for line in table if line["name"] == "dinov2-b")
    assert (float(first["fid"]), first["fid record"]) == (2.14, "paper-2026-06.imagenet.dinov2-b.none")
    assert first["geneval_overall record"] == "paper-2026-06.t2i.dinov2-b"
    content = json.loads(json.dumps(asdict(paper), allow_nan=False))
    assert content["rows"][0]["cells"]["fid"]["record"].startswith("paper-2026-06.imagenet.")


def test_hostile_titles(tmp_path):
    evil = "=cmd|x[red]\x1b[1m<script>`*_\n"
    make("evil", "class_conditional", {"fid": 1.0}, title=evil).save(tmp_path / "evil.json")
    (tmp_path / "boards.yaml").write_text(OWN)
    board = build(gather([tmp_path]), FID)
    line = next(csv.reader(io.StringIO(board_csv(board, shown(board)).split("\n", 1)[1])))
    assert line[2] == "'" + evil
    markdown = board_markdown(board, shown(board)).splitlines()
    assert r"=cmd\|x\[red\]\\x1b\[1m\<script\>\`\*\_\\n" in markdown[2]
    output = invoke("board", "--boards", str(tmp_path / "boards.yaml"), "--records", str(tmp_path)).output
    assert "\x1b" not in output
    assert "[red]" in output


def test_command(tmp_path):
    result = invoke("board", "--family", "pixel", "--sort", "geneval", "--columns", "fid,fid@cfg,geneval")
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if "published" in line]
    assert [line.split()[1] for line in lines] == ["PixelGen", "JiT", "PixNerd"]
    assert "without geneval_overall: Kendall tau" in result.output
    assert "paper-2026-06.imagenet.jit.none" in invoke("board", "--trace").output
    make("mine", "class_conditional", {"fid": 1.0}).save(tmp_path / "mine.json")
    both = json.loads(invoke("board", "--records", str(tmp_path), "--json").output)["boards"]
    assert [board["score_set"] for board in both] == [PAPER, "measured-full"]
    assert [held["record"] for held in both[1]["listed"]] == ["mine.class_conditional"]
    assert "mine" not in {row["name"] for row in both[0]["rows"]}
    beside = invoke("board", "--records", str(tmp_path), "--sort", "geneval")
    assert beside.exit_code == 0
    assert beside.output.count("left out: board 'measured-full': unknown column 'geneval'") == 1
    assert invoke("board", "--records", str(tmp_path), "--set", "measured-full", "--sort", "geneval").exit_code == 1
    none = invoke("board", "--records", str(tmp_path), "--set", "measured", "--sort", "nope")
    assert "no board has all that was asked for" in str(none.exception), "an empty answer is no success"
    (tmp_path / "boards.yaml").write_text(OWN)
    words = ("--boards", str(tmp_path / "boards.yaml"), "--records", str(tmp_path))
    (own,) = json.loads(invoke("board", *words, "--json").output)["boards"]
    assert (own["score_set"], [row["name"] for row in own["rows"]]) == ("mine", ["mine"])
    refused = invoke("board", "--csv", "--json")
    assert "Choose one" in str(refused.exception)
    assert "| 21 | PixelGen | pixel |" in invoke("board", "--markdown", "--family", "pixel").output
    assert "unknown board 'papr'. Known: all, blog-2026-05" in str(invoke("board", "--set", "papr").exception)
    sets = json.loads(invoke("board", "--set", "all", "--draws", "0", "--json").output)["boards"]
    assert [one["score_set"] for one in sets][:2] == [PAPER, "blog-2026-05"]


def test_a_record_that_this_version_makes_stands_in_its_columns():
    """The digits as this version scores them under the protocol of the laptop board."""
    images, labels = digits.read("held_out")
    sampling = Sampling(guidance=Guidance(scale=1.0), quantisation="truncate")
    request = EvalRequest(
        metrics=("fd_digits", "accuracy_digits"),
        reference="digits",
        count=359,
        method="real",
        title="real",
        sampling=sampling,
    )
    record = run_request(Evaluation(request), ArraySource(images, labels, "digits"))
    board = build([record], "measured-laptop", draws=0)
    assert board.listed == ()
    (row,) = board.rows
    assert {name: one.status for name, one in row.cells.items()} == {"fd_digits": "ok", "accuracy_digits": "ok"}
    assert row.missing == ("fd_digits@cfg",)


def test_a_printed_board_ends_and_says_how_many_rows_are_left(capsys):
    records = [make(f"m{i:04d}", "class_conditional", {"fid": float(i)}) for i in range(520)]
    board = build(records, FID, draws=0)
    print_board(board, shown(board))
    out = capsys.readouterr().out
    assert "and 20 more rows (--csv, --markdown and --json have them all)" in out
    assert ("m0499" in out, "m0500" in out) == (True, False)
    assert len(board_csv(board, shown(board)).splitlines()) == 521
