"""The leaderboard: cells trace to records, ranks follow their definition, one column holds one protocol."""

import csv
import io
import json
from dataclasses import asdict

import numpy as np
import pytest
from typer import Typer
from typer.testing import CliRunner

from diffusionbench.cli.records import register
from diffusionbench.errors import RequestError
from diffusionbench.record import Guidance, Protocol, Provenance, Record, Value
from diffusionbench.study import published
from diffusionbench.study.board import HOLISTIC, build, column_id, keep, order
from diffusionbench.study.points import gather
from diffusionbench.views.terminal import board_csv, board_markdown, shown

PAPER = published.PAPER


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


def run(*arguments):
    app = Typer()
    register(app)
    return CliRunner().invoke(app, arguments)


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
    board = build(records, "measured")
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
        return build(made, "measured")

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
    rows = {row.name: row for row in build(made, "measured").rows}
    assert rows["a"].interval == rows["b"].interval == (1.0, 3.0)
    # Of two exact values the better one stays so, however another is moved.
    exact = [make("a", "class_conditional", {"fid": 1.0}, stderr=0.0)]
    exact += [make("b", "class_conditional", {"fid": 1.1}, stderr=0.0)]
    exact += [make("c", "class_conditional", {"fid": 9.0}, stderr=100.0)]
    rows = {row.name: row for row in build(exact, "measured").rows}
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


def test_one_protocol_one_column():
    records = [
        make("a", "class_conditional", {"fid": 1.0}, count=50_000),
        make("b", "class_conditional", {"fid": 2.0}, count=5_000),
        make("c", "class_conditional", {"fid": 3.0}, count=50_000),
        make("d", "class_conditional", {"fid": 4.0}, count=50_000, guidance=None),
    ]
    board = build(records, "measured")
    assert {c.id for c in board.columns} == {"fid[count=50000]", "fid[count=5000]", "fid@unstated"}
    assert board.holistic == ()
    assert all(row.place is None for row in board.rows)
    chosen = build(records, "measured", holistic=["fid[count=50000]"])
    assert {row.name: row.place for row in chosen.rows} == {"a": 1, "c": 2, "b": None, "d": None}


def test_repeats_have_rows_of_their_own():
    records = [
        make("a", "class_conditional", {"fid": 1.0}),
        make("a", "class_conditional", {"fid": 1.2}, suffix=".again"),
        make("a", "class_conditional", {"fid": 0.8}, guidance=4.0, suffix=".cfg"),
    ]
    rows = {row.name: {k: c.value for k, c in row.cells.items()} for row in build(records, "measured").rows}
    assert rows == {"a": {"fid": 1.0, "fid@cfg": 0.8}, "a#2": {"fid": 1.2}}


def test_a_metric_of_another_package_is_shown_but_not_ranked():
    records = [make(n, "class_conditional", {"brightness": v}) for n, v in (("a", 1.0), ("b", 2.0))]
    board = build(records, "measured")
    assert [c.id for c in shown(board)] == ["brightness"]
    with pytest.raises(RequestError, match="whether higher is better is not known"):
        build(records, "measured", holistic=["brightness"])


def test_headline_values_without_a_word_on_guidance_are_shown(tmp_path):
    silent = make("a", "class_conditional", {"fd_digits": 1.0, "kd_digits": 0.1}, guidance=None)
    records = [silent, make("b", "t2i", {"geneval_overall": 0.5})]
    assert [c.id for c in shown(build(records, "measured"))] == ["geneval_overall", "fd_digits@unstated"]
    for record in records:
        record.save(tmp_path / f"{record.id}.json")
    words = ("board", "--set", "measured", "--records", str(tmp_path))
    assert "not shown: 1 further column (--columns all)" in run(*words).output
    assert "not shown" not in run(*words, "--columns", "all").output


def test_empty_and_broken_values():
    assert build([], "measured").rows == ()
    records = [make("a", "class_conditional", {"fid": float("nan")}), make("b", "class_conditional", {"fid": 1.0})]
    rows = {row.name: row.place for row in build(records, "measured").rows}
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
    board = build(gather([tmp_path]), "measured")
    line = next(csv.reader(io.StringIO(board_csv(board, shown(board)).split("\n", 1)[1])))
    assert line[2] == "'" + evil
    markdown = board_markdown(board, shown(board)).splitlines()
    assert r"=cmd\|x\[red\]\\x1b\[1m\<script\>\`\*\_\\n" in markdown[2]
    output = run("board", "--set", "measured", "--records", str(tmp_path)).output
    assert "\x1b" not in output
    assert "[red]" in output


def test_command(tmp_path):
    result = run("board", "--family", "pixel", "--sort", "geneval", "--columns", "fid,fid@cfg,geneval")
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if "published" in line]
    assert [line.split()[1] for line in lines] == ["PixelGen", "JiT", "PixNerd"]
    assert "without geneval_overall: Kendall tau" in result.output
    assert "paper-2026-06.imagenet.jit.none" in run("board", "--trace").output
    make("mine", "class_conditional", {"fid": 1.0}).save(tmp_path / "mine.json")
    both = json.loads(run("board", "--records", str(tmp_path), "--json").output)["boards"]
    assert [board["score_set"] for board in both] == [PAPER, "measured"]
    assert [row["name"] for row in both[1]["rows"]] == ["mine"]
    assert "mine" not in {row["name"] for row in both[0]["rows"]}
    beside = run("board", "--records", str(tmp_path), "--sort", "geneval")
    assert (beside.exit_code, beside.output.count("left out: board 'measured': unknown column 'geneval'")) == (0, 1)
    assert run("board", "--records", str(tmp_path), "--set", "measured", "--sort", "geneval").exit_code == 1
    refused = run("board", "--csv", "--json")
    assert "Choose one" in str(refused.exception)
    assert "| 21 | PixelGen | pixel |" in run("board", "--markdown", "--family", "pixel").output
