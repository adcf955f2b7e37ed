"""Evidence: kept with its judge, read back equal, never judged twice, never mixed with another judge's."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from test_item_judges import Means, Right, Thirds, add, pictures

from diffusionbench import runner
from diffusionbench.errors import DataError, RequestError, RunError
from diffusionbench.evidence import EVIDENCE, EvidenceStore, question_digest
from diffusionbench.judges import JUDGES, Unjudged
from diffusionbench.judges.digits import DigitsJudge
from diffusionbench.judges.judge import JudgeFacts
from diffusionbench.metrics import METRICS, MetricSpec
from diffusionbench.metrics.kid import KidMetric
from diffusionbench.parts import find_store
from diffusionbench.record import attachment
from diffusionbench.references.digits import DigitsReference
from diffusionbench.source import ArraySource
from diffusionbench.writing import write_atomic

FACTS = JudgeFacts(name="toy", digest="1" * 64)
LABELS = np.arange(260) % 10


class Killed(BaseException):
    """As SIGKILL at a file operation: nothing that follows it runs."""


def keys(count: int, first: int = 0, asked: str = "") -> list[tuple[str, str]]:
    return [(f"{place:064x}", asked) for place in range(first, first + count)]


def arrays(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"features": rng.normal(size=(count, 5)).astype(np.float32), "logits": rng.normal(size=(count, 2))}


ROWS = [{"seen": 1.25, "boxes": [[0, 1], [2, 3]], "text": "a\nb\u2028\r"}, Unjudged("too dark"), {"seen": None}]


def test_arrays_and_rows_are_read_back_equal_in_any_order_and_from_several_chunks(tmp_path):
    store, found = EvidenceStore(tmp_path), arrays(7)
    store.add(FACTS, keys(4), {name: rows[:4] for name, rows in found.items()})
    store.add(FACTS, keys(3, 4), {name: rows[4:] for name, rows in found.items()})
    for again in (store, EvidenceStore(tmp_path)):
        order = [6, 0, 3, 4, 4]
        read = again.read(FACTS, [keys(7)[place] for place in order])
        assert read.keys() == found.keys()
        for name, rows in found.items():
            np.testing.assert_array_equal(read[name], rows[order])
            assert read[name].dtype == rows.dtype
    rows = replace_name("rows")
    store.add(rows, keys(3), ROWS)
    assert EvidenceStore(tmp_path).read(rows, keys(3)[::-1]) == ROWS[::-1]


def replace_name(name: str, **changes) -> JudgeFacts:
    return FACTS.model_copy(update={"name": name, **changes})


def test_a_row_is_of_one_image_one_judge_and_one_question(tmp_path):
    store = EvidenceStore(tmp_path)
    store.add(FACTS, keys(2), arrays(2))
    asked = question_digest(["is it red?"])
    assert asked != question_digest(["is it blue?"])
    assert store.known(FACTS, [*keys(3), *keys(1, 0, asked)]) == [True, True, False, False]
    for other in (
        replace_name("toy", digest="2" * 64),
        replace_name("toy", version=2),
        replace_name("toy", precision="bfloat16"),
        replace_name("toy", options={"threshold": 0.5}),
        replace_name("toy", uses={"boxes": "3" * 64}),
    ):
        assert EvidenceStore(tmp_path).known(other, keys(2)) == [False, False]


@pytest.mark.parametrize("harm", ["array", "list", "label", "other judge", "lost"])
def test_a_damaged_chunk_counts_as_absent(tmp_path, harm):
    store = EvidenceStore(tmp_path)
    store.add(FACTS, keys(3), arrays(3))
    (listed,) = (path for path in tmp_path.glob("*/*.json") if path.name != "judge.json")
    data = listed.with_name(f"{listed.stem}.features.npy")
    if harm == "array":
        data.write_bytes(data.read_bytes()[:-1] + b"?")
    elif harm == "lost":
        data.unlink()
    else:
        content = json.loads(listed.read_text())
        if harm == "label":
            # Another image's evidence under this image's name.
            content["rows"] = content["rows"][::-1]
        elif harm == "other judge":
            content["judge"] = "4" * 64
        listed.write_text(json.dumps(content)[: None if harm != "list" else 30])
    assert EvidenceStore(tmp_path).known(FACTS, keys(3)) == [False] * 3


def test_rows_that_no_json_holds_are_refused(tmp_path):
    for row, fault in (
        ({"seen": np.arange(2)}, "not JSON serializable"),
        ({"seen": float("nan")}, "not JSON compliant"),
        ({"seen": (1, 2)}, "reads back as another value"),
        ({1: 2}, "reads back as another value"),
    ):
        with pytest.raises(RequestError, match=rf"judge 'toy' returned a row that cannot be kept as JSON \(.*{fault}"):
            EvidenceStore(tmp_path).add(FACTS, keys(1), [row])
    assert not list(tmp_path.rglob("*.jsonl"))


def test_without_a_folder_nothing_is_kept():
    store = EvidenceStore(None)
    store.add(FACTS, keys(2), arrays(2))
    assert store.known(FACTS, keys(2)) == [False, False]
    assert store.judges() == []
    assert not store.keeps(JUDGES["digits"])


@pytest.fixture
def judged(monkeypatch):
    """How many images the digits judge sees, the self-test apart."""
    seen = []
    real = DigitsJudge.__call__

    def counted(self, images, *given):
        seen.append(len(images))
        return real(self, images, *given)

    monkeypatch.setattr(DigitsJudge, "self_test", lambda self: 0.0)
    monkeypatch.setattr(DigitsJudge, "__call__", counted)
    return seen


@pytest.fixture
def source(noise):
    return ArraySource(noise(260), LABELS, "noise")


def without_weights(monkeypatch):
    """From here on nobody can load the judge."""
    monkeypatch.setattr(DigitsJudge, "__init__", lambda self, *given: pytest.fail("weights were loaded"))


def test_a_second_metric_of_a_judge_costs_no_judging_and_no_weights(ask, source, tmp_path, judged, monkeypatch):
    first = runner.run(ask(metrics=("accuracy_digits",), reference=None, count=260), source, tmp_path)
    assert sum(judged) == 260
    without_weights(monkeypatch)
    # The whole command does without too, and scoring does not even look for them.
    assert runner.run(ask(metrics=("is_digits",), reference=None, count=260), source, tmp_path).values["is_digits"]
    monkeypatch.setattr(DigitsJudge, "check", lambda: pytest.fail("weights were looked for"))
    again = runner.rescore(tmp_path, ("is_digits", "accuracy_digits"))
    assert sum(judged) == 260
    assert again.values["accuracy_digits"] == first.values["accuracy_digits"]
    assert again.protocol.judges == first.protocol.judges
    assert again.provenance.selftest == "passed"
    assert again.extra["self_tests"] == first.extra["self_tests"]


def test_anchors_are_kept_as_well(ask, source, tmp_path, judged, monkeypatch):
    features = DigitsReference().features(DigitsJudge())
    monkeypatch.setattr(DigitsReference, "features", lambda self, judge: features)
    judged.clear()
    first = runner.run(ask(metrics=("fd_digits",), count=260), source, tmp_path)
    # 260 images, as many of the held-out ones, and ten class means whatever their number, some of them in one batch.
    before = sum(judged)
    assert 2 * 260 < before <= 3 * 260
    without_weights(monkeypatch)
    again = runner.rescore(tmp_path, ("fd_digits", "kd_digits"))
    assert sum(judged) == before
    assert again.anchors["held_out"]["fd_digits"] == first.anchors["held_out"]["fd_digits"]


def test_an_image_that_comes_twice_is_judged_once_whether_in_one_run_or_two(ask, noise, tmp_path, judged, monkeypatch):
    real = DigitsJudge.__call__

    def drifts(self, batch, *given):
        return {name: rows * np.float32(1 + len(judged)) for name, rows in real(self, batch, *given).items()}

    monkeypatch.setattr(DigitsJudge, "__call__", drifts)
    # Twice in a batch, in another batch, and again alone in the last.
    source = ArraySource(noise(130)[np.r_[0, 0, :130, :128]], None, "twice")
    asked = ask(metrics=("is_digits",), reference=None, count=260)
    first = runner.run(asked, source, tmp_path)
    assert sum(judged) == 130
    judged.clear()
    again = runner.run(asked, source, tmp_path)
    assert judged == []
    assert (again.id, again.values) == (first.id, first.values)


def test_what_was_judged_is_not_judged_again_after_a_kill(ask, noise, tmp_path, judged, monkeypatch):
    monkeypatch.setattr("diffusionbench.judging._LATEST", math.inf)
    images = noise(2300)
    asked = ask(metrics=("is_digits",), reference=None, count=2300)
    whole = runner.run(asked, ArraySource(images, None, "noise"), tmp_path / "undisturbed")
    judged.clear()

    real = DigitsJudge.__call__

    def dies(self, batch, *given):
        if sum(judged) >= 1700:
            raise Killed
        return real(self, batch, *given)

    with monkeypatch.context() as during:
        during.setattr(DigitsJudge, "__call__", dies)
        # As with SIGKILL, nothing is tidied up.
        during.setattr(EvidenceStore, "flush", _unless(Killed))
        with pytest.raises(Killed):
            runner.run(asked, ArraySource(images, None, "noise"), tmp_path / "killed")
    assert sum(judged) == 1700
    judged.clear()
    again = runner.run(asked, ArraySource(images, None, "noise"), tmp_path / "killed")
    # The first block was kept.
    assert sum(judged) == 1300
    assert (again.id, again.values) == (whole.id, whole.values)


def _unless(fault):
    """`flush` as it is, but for the moment after a fault."""
    real = EvidenceStore.flush
    return lambda self: None if isinstance(sys.exc_info()[1], fault) else real(self)


def test_a_failing_metric_loses_no_judgement(ask, source, tmp_path, judged, monkeypatch):
    monkeypatch.setattr(KidMetric, "take", lambda self, rows, samples: 1 / 0)
    monkeypatch.setattr(DigitsReference, "features", lambda self, judge: np.ones((300, 64), np.float32))
    asked = {"reference": "digits", "count": 260}
    with pytest.raises(ZeroDivisionError):
        runner.run(ask(metrics=("kd_digits",), **asked), source, tmp_path)
    assert judged == [50]
    runner.judge(tmp_path, ("fd_digits",))
    assert sum(judged) == 260


def test_only_what_is_absent_is_judged_and_batches_stay_in_order(ask, source, tmp_path, judged):
    asked = ask(metrics=("is_digits",), reference=None, count=120)
    runner.run(asked, source, tmp_path)
    judged.clear()
    record = runner.run(ask(metrics=("is_digits",), reference=None, count=260), source, tmp_path)
    # The batch 100..149 was half there.
    assert judged == [30, 50, 50, 10]
    direct = runner.run(ask(metrics=("is_digits",), reference=None, count=260), source)
    assert record.values["is_digits"].value == pytest.approx(direct.values["is_digits"].value, rel=1e-6)


def test_evidence_of_another_version_options_or_digest_is_a_sentence(ask, source, tmp_path, judged, monkeypatch):
    asked = {"metrics": ("is_digits",), "reference": None, "count": 260}
    runner.run(ask(**asked), source, tmp_path)
    row = JUDGES["digits"]
    for changes, said in (
        ({"version": 2}, r"options {}; installed is version 2"),
        ({"precision": "bfloat16"}, r"options {}; installed is version 1, bfloat16"),
        (
            {"options": {"crop": 1}},
            r'options {}; installed is version 1, float32, options {"crop":1}',
        ),
    ):
        monkeypatch.setitem(JUDGES._rows, "digits", replace(row, **changes))
        with pytest.raises(RequestError, match=f"the evidence here is of judge 'digits', .*{said}"):
            runner.rescore(tmp_path, ("is_digits",))
    monkeypatch.setitem(JUDGES._rows, "digits", row)
    real = DigitsJudge.__init__

    def other_weights(self, *given):
        real(self, *given)
        self.digest = "5" * 64

    monkeypatch.setattr(DigitsJudge, "__init__", other_weights)
    # Without a need to judge, nothing tells; the reference needs the judge.
    monkeypatch.setattr("diffusionbench.references.digits.features_of", lambda judge, images: judge(images)["features"])
    with pytest.raises(RequestError, match=r"with digest [0-9a-f]{12}, and the one that is installed has 555555555555"):
        runner.rescore(tmp_path, ("fd_digits",), "digits")
    judged.clear()
    assert runner.judge(tmp_path, ("is_digits",), anew=True) == {"digits": (260, 260)}
    assert runner.rescore(tmp_path, ("is_digits",)).protocol.judges["digits"].digest == "5" * 64
    assert sum(judged) == 260


def test_version_and_precision_are_part_of_a_judges_digest(monkeypatch):
    digests = {DigitsJudge().digest}
    for changes in ({"version": 2}, {"precision": "bfloat16"}):
        monkeypatch.setattr(DigitsJudge, "spec", replace(JUDGES["digits"], **changes))
        digests.add(DigitsJudge().digest)
    assert len(digests) == 3


@pytest.fixture
def thirds(monkeypatch):
    row = MetricSpec(key="in_thirds", title="in thirds", higher_is_better=True, judges=("thirds",), items="classes")
    add(monkeypatch, (Thirds, Means), row, Right)


def test_rows_and_what_they_use_are_kept_and_lie_beside_the_record(thirds, ask, tmp_path, monkeypatch):
    levels = [40 + 85 * (label % 3) for label in LABELS[:20]]
    levels[4] = 0
    asked = ask(metrics=("in_thirds",), reference=None)
    first = runner.run(asked, pictures(levels), tmp_path / "store")
    for kind in (Thirds, Means):
        monkeypatch.setattr(kind, "__call__", lambda *given: pytest.fail("judged again"))
    again = runner.rescore(tmp_path / "store", ("in_thirds",))
    assert (again.values, again.unscored, again.extra["facts"]) == (first.values, first.unscored, first.extra["facts"])
    assert again.protocol.judges.keys() == {"thirds", "means"}
    again.save(tmp_path / "r.json")
    lines = attachment(again, tmp_path / "r.json", "thirds.jsonl").decode().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["sample"] for row in rows] == list(range(20))
    assert rows[4]["unjudged"] == "too dark to tell"
    assert rows[5]["row"] == {"asked": "is it in third 2?", "seen": 2, "right": True}
    assert rows[5]["item"] == "class/5"
    stored = find_store(tmp_path / "store").entries(20)
    assert [row["image"] for row in rows] == [entry.sha256 for entry in stored]


def test_evidence_that_used_an_older_judge_is_not_used(thirds, ask, tmp_path, monkeypatch):
    asked = ask(metrics=("in_thirds",), reference=None)
    runner.run(asked, pictures([40] * 20), tmp_path)
    monkeypatch.setattr(Means, "spec", replace(Means.spec, version=2))
    monkeypatch.setitem(JUDGES._rows, "means", Means.spec)
    with pytest.raises(RequestError, match="the evidence here is of judge 'means', version 1"):
        runner.rescore(tmp_path, ("in_thirds",))
    # One picture, asked about three thirds.
    assert runner.judge(tmp_path, ("in_thirds",)) == {"means": (1, 20), "thirds": (3, 20)}
    assert runner.rescore(tmp_path, ("in_thirds",)).protocol.judges["means"].digest == Means().digest


def test_inspecting_a_sample_shows_why(thirds, ask, tmp_path, bench):
    levels = [40 + 85 * (label % 3) for label in LABELS[:20]]
    levels[4] = 0
    record = runner.run(ask(metrics=("in_thirds",), reference=None), pictures(levels))
    record.save(tmp_path / "r.json")

    code, out, _ = bench("inspect", "r.json", "--sample", "5", "--json")
    found = json.loads(out)
    assert (code, found["item"], found["values"]) == (0, "class/5", {"in_thirds": 1.0})
    assert found["said"] == {"thirds": {"asked": "is it in third 2?", "seen": 2, "right": True}}
    assert found["verdicts"] == {"in_thirds": found["said"]["thirds"]}
    out = bench("inspect", "r.json", "--sample", "4")[1]
    assert "image 4: too dark to tell" in out
    assert "in_thirds: not scored" in out
    assert 'thirds said: {"unjudged": "too dark to tell"}' in out
    code, _, err = bench("inspect", "r.json", "--sample", "20")
    assert (code, "tells nothing of sample 20" in err) == (2, True)
    content = json.loads((tmp_path / "r.json").read_text())
    content["evidence"]["thirds.jsonl"]["text"] += "{}"
    (tmp_path / "r.json").write_text(json.dumps(content))
    code, _, err = bench("inspect", "r.json", "--sample", "5")
    assert (code, "does not have the SHA-256 that the record states" in err) == (2, True)


def test_another_question_about_the_same_image_is_judged(thirds, ask, tmp_path, monkeypatch):
    runner.run(ask(metrics=("in_thirds",), reference=None), pictures([40] * 20), tmp_path)
    folder = find_store(tmp_path).folder / EVIDENCE
    lists = [json.loads(chunk.read_text()).get("rows", []) for chunk in folder.glob("thirds-*/*.json")]
    asked = {tuple(key) for rows in lists for key in rows}
    # One image, three thirds that it was asked about.
    assert len(asked) == 3


def test_moments_keep_no_arrays_of_features_and_rows_all_the_same(thirds, ask, source, tmp_path, judged):
    asked = ask(metrics=("is_digits", "in_thirds"), reference=None, count=20)
    kept = runner.run(asked, source, tmp_path / "kept")
    record = runner.run(asked, source, tmp_path / "lean", keep="moments")
    assert record.values == kept.values
    names = {path.name.split("-")[0] for path in find_store(tmp_path / "lean").folder.glob(f"{EVIDENCE}/*")}
    assert names == {"thirds"}
    assert list(tmp_path.glob("kept/*/evidence/digits-*/*.features.npy"))


def test_pixels_are_not_kept_a_second_time(ask, source, tmp_path, monkeypatch):
    row = MetricSpec(key="brightness", title="x", higher_is_better=True, judges=("pixels",))

    class Brightness(Right):
        def update(self, evidence, samples):
            self.verdicts |= {str(one.id): {"right": True} for one in samples}
            self.seen.scored += samples
            assert evidence["pixels"]["images"].shape == (len(samples), 8, 8, 3)

    add(monkeypatch, (), row, Brightness)
    for _ in range(2):
        record = runner.run(ask(metrics=("brightness",), reference=None, count=120), source, tmp_path)
    assert record.values["brightness"].scored == 120
    assert not list(tmp_path.rglob("*.npy"))


def test_a_judge_without_stored_outputs_is_tested_against_itself(thirds, ask, monkeypatch, tmp_path):
    record = runner.run(ask(metrics=("in_thirds",), reference=None), pictures([40] * 20))
    assert record.provenance.selftest is None
    assert "no outputs are stored for it" in record.extra["self_tests"]["means"]
    assert record.extra["self_tests"]["thirds"].startswith("not tested: it is given what only a request has")
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path))
    real = Means.__call__
    for broken in (
        lambda rows: {"features": rows["features"] + len(rows["features"])},
        lambda rows: {"features": np.repeat(rows["features"], 2, axis=1)},
        lambda rows: {"features": rows["features"] * np.nan},
        lambda rows: {"logits": rows["features"]},
    ):
        monkeypatch.setattr(Means, "__call__", lambda *given, broken=broken: broken(real(*given)))
        with pytest.raises(RunError, match=r"judge 'means' fails its self-test: .* in another batch"):
            runner.run(ask(metrics=("in_thirds",), reference=None), pictures([40] * 20))


def test_weights_are_checked_before_an_image_is_made_also_those_of_judges_that_others_use(thirds, ask, monkeypatch):
    def missing():
        raise RequestError("judge 'means' needs its weights, which are missing.")

    monkeypatch.setattr(Means, "check", missing)
    source = pictures([40] * 20)
    monkeypatch.setattr(source, "images", lambda samples: pytest.fail("an image was made"))
    with pytest.raises(RequestError, match="judge 'means' needs its weights"):
        ask(metrics=("in_thirds",), reference=None).check(source)
    with pytest.raises(RequestError, match="judge 'means' needs its weights"):
        runner.run(ask(metrics=("in_thirds",), reference=None), source)


def test_a_store_of_another_place_keeps_its_evidence(ask, source, tmp_path, judged, monkeypatch):
    runner.run(ask(metrics=("is_digits",), reference=None, count=260), source, tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    without_weights(monkeypatch)
    assert runner.rescore(tmp_path / "two", ("is_digits",)).values["is_digits"].scored == 260


def test_a_lost_chunk_of_evidence_needs_the_judge_again(ask, source, tmp_path, judged):
    runner.run(ask(metrics=("is_digits",), reference=None, count=260), source, tmp_path)
    for path in Path(tmp_path).rglob("*.features.npy"):
        path.write_bytes(b"")
    judged.clear()
    runner.rescore(tmp_path, ("is_digits",))
    assert sum(judged) == 260
    assert METRICS["is_digits"]
    with pytest.raises(DataError, match="is no image store"):
        runner.judge(tmp_path / "nothing", ("is_digits",))


def test_killed_at_any_file_that_is_written_no_kept_judgement_is_made_again(ask, source, tmp_path, judged, monkeypatch):
    asked = ask(metrics=("is_digits",), reference=None, count=260)
    # Small blocks: evidence is written in between.
    monkeypatch.setattr("diffusionbench.judging.BLOCK", 100)
    monkeypatch.setattr("diffusionbench.parts.BLOCK", 100)
    real_write, real_flush = write_atomic, EvidenceStore.flush
    written = []

    def writes(path, content, at=None):
        if len(written) == at:
            raise Killed
        written.append(path)
        real_write(path, content)

    def watched(at):
        written.clear()
        judged.clear()
        for module in ("evidence", "store"):
            monkeypatch.setattr(f"diffusionbench.{module}.write_atomic", partial(writes, at=at))
        monkeypatch.setattr(EvidenceStore, "flush", flush)

    def flush(self):
        if not isinstance(sys.exc_info()[1], Killed):
            real_flush(self)

    watched(None)
    whole = runner.run(asked, source, tmp_path / "undisturbed")
    operations = len(written)
    assert operations > 10
    for at in range(operations):
        folder = tmp_path / str(at)
        watched(at)
        with pytest.raises(Killed):
            runner.run(asked, source, folder)
        kept = 0
        if list(folder.glob("*/store.json")):
            found = find_store(folder)
            evidence = EvidenceStore(found.folder / EVIDENCE)
            images = [(entry.sha256, "") for entry in found.entries(260)]
            kept = sum(sum(evidence.known(one.facts, images)) for one in evidence.judges())
        watched(None)
        again = runner.run(asked, source, folder)
        assert sum(judged) == 260 - kept, at
        assert (again.id, again.values) == (whole.id, whole.values)


def test_where_evidence_cannot_be_kept_no_image_is_judged(ask, source, tmp_path, judged, monkeypatch):
    asked = ask(metrics=("is_digits",), reference=None, count=260)
    runner.fill(asked, source, runner.open_store(asked, source, tmp_path))
    monkeypatch.setattr("diffusionbench.writing.os.access", lambda *given: False)
    with pytest.raises(RequestError, match=r"evidence cannot be written: .* is read-only\. Choose another place"):
        runner.rescore(tmp_path, ("is_digits",))
    assert judged == []
    monkeypatch.undo()
    runner.rescore(tmp_path, ("is_digits",))
    monkeypatch.setattr("diffusionbench.writing.os.access", lambda *given: False)
    assert runner.rescore(tmp_path, ("is_digits",)).values["is_digits"].scored == 260
