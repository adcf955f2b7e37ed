"""What submission and validation refuse, and that they name everything at once."""

import hashlib
import json
import time
from pathlib import Path

import pytest
from making import invoke

from diffusionbench.errors import RequestError
from diffusionbench.metrics import METRICS
from diffusionbench.prompts import PROMPTS
from diffusionbench.record import (
    INLINE,
    Attachment,
    Guidance,
    JudgeUsed,
    Protocol,
    Provenance,
    Record,
    ReferenceUsed,
    Tuning,
    Value,
    attachment,
    load,
    record_id,
)
from diffusionbench.request import EvalRequest, Evaluation
from diffusionbench.runner import run as run_request
from diffusionbench.source import FolderSource
from diffusionbench.study import published, submission

HASH = "a" * 64
FID = Value(value=5.0, stderr=0.1, interval=(4.8, 5.2), method="jackknife", scored=1000, judges=("inception",))
PARTIAL = {"fid": FID.model_copy(update={"scored": 999, "unscored": 1, "status": "partial", "reason": "1 is missing"})}


def good(**changes):
    base = Record(
        kind="measured",
        id="mine",
        method="mine",
        title="Mine",
        family="vae",
        protocol=Protocol(
            name="class_conditional",
            axis="class_conditional",
            references={"inception": ReferenceUsed(name="imagenet256", digest=HASH)},
            judges={"inception": JudgeUsed(digest=HASH)},
            items_digest=HASH,
            count=1000,
            seed=0,
            guidance=Guidance(scale=1.0),
        ),
        values={"fid": FID},
        provenance=Provenance(
            source="checkpoint",
            images_digest=HASH,
            command="nanogen eval outputs/mine",
            commit="b" * 40,
            dirty=False,
            packages={"diffusionbench": "0.1.0"},
            created="2026-07-01T00:00:00+00:00",
            selftest="passed",
        ),
    )
    changed = base.model_copy(update=changes)
    return changed if "id" in changes else changed.model_copy(update={"id": record_id(changed)})


ID = good().id


def saved(tmp_path, record, name="result.json"):
    path = tmp_path / name
    record.save(path)
    return path


def problems(tmp_path, **changes):
    return "\n".join(submission.check(saved(tmp_path, good(**changes))).problems)


def test_a_good_record(tmp_path):
    report = submission.check(saved(tmp_path, good()))
    assert report.problems == report.warnings == ()
    path = submission.write(report, tmp_path / "records")
    assert path == tmp_path / "records" / f"{ID}.json"
    assert load(path) == good()
    text = path.read_text().replace('"extra": {}', '"extra": {"x": Infinity}')
    (tmp_path / "infinite.json").write_text(text)
    assert submission.check(tmp_path / "infinite.json").problems == ("extra: holds a number that is not finite",)
    (only,) = submission.check_folder(tmp_path / "records").values()
    assert only.problems == ()


def test_whatever_a_run_writes_can_be_submitted(tmp_path, held_out):
    metrics = tuple(key for key in METRICS.with_code if key.endswith("_digits"))
    request = EvalRequest(metrics=metrics, reference="digits", count=359, method="real", title="Real", family="pixel")
    record = run_request(Evaluation(request), FolderSource(held_out))
    assert record.values.keys() > set(metrics)
    report = submission.check(saved(tmp_path, record))
    assert report.problems == ()
    # The set is the anchor itself: no better than it, whatever the rounding.
    assert not [warning for warning in report.warnings if warning.startswith("values")]


def test_the_prompts_are_those_of_their_seed(tmp_path):
    name, choice = "simpleeval_shapes_v1", {"seed": "public-1", "layout": "quick"}
    digest = PROMPTS.load(name).open("public-1", "quick").digest
    right = good().protocol.model_copy(update={"prompts": name, "prompts_digest": digest, "axis": "t2i"})
    wrong = right.model_copy(update={"prompts_digest": HASH})
    extra = {"request": {"prompts": choice}}
    assert problems(tmp_path, protocol=right, extra=extra) == ""
    assert "is not the hash" in problems(tmp_path, protocol=wrong, extra=extra)
    for changed in ({"seed": "mine"}, {"layout": "quik"}):
        asked = {"request": {"prompts": choice | changed}}
        assert "extra.request.prompts" in problems(tmp_path, protocol=right, extra=asked)
    # A set that is not installed here cannot be opened; its hash is only read.
    other = wrong.model_copy(update={"prompts": "elsewhere"})
    assert problems(tmp_path, protocol=other, extra=extra) == ""


def test_numbers_beside_the_score_of_another_package(tmp_path):
    score = {"glow": Value(value=1, scored=9, stderr=0.1, higher_is_better=True)}
    assert problems(tmp_path, values=score | {"glow_spread": Value(value=0.1, scored=9)}) == ""
    assert "unknown metric 'spread'" in problems(tmp_path, values=score | {"spread": Value(value=0.1, scored=9)})
    assert "unknown metric 'fid_spread'" in problems(
        tmp_path, values={"fid": Value(value=1), "fid_spread": Value(value=1)}
    )


def test_schema_breaches_come_together(tmp_path):
    path = tmp_path / "bad.json"
    content = json.loads(good().model_dump_json())
    content["id"] = "Not An Id"
    content["values"]["fid"]["value"] = "five"
    content["protocol"].pop("axis")
    content["surprise"] = 1
    path.write_text(json.dumps(content))
    found = "\n".join(submission.check(path).problems)
    for where in ("id:", "values.fid.value:", "protocol.axis:", "surprise:"):
        assert where in found
    path.write_text(json.dumps(content)[:200])
    assert "file: Invalid JSON" in submission.check(path).problems[0]
    with pytest.raises(RequestError, match="No such file"):
        submission.check(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"kind": "published"}, "'published' records are shipped with the package"),
        ({"values": PARTIAL}, "partial: something that was asked for is missing"),
        ({"values": {}}, "holds no value"),
        ({"family": "vea"}, "unknown family 'vea'. Did you mean 'vae'"),
        ({"title": "x" * 200}, "title: must be 1 to 120 printable"),
        ({"method": "a\x1b[31m"}, "method: must be"),
        ({"values": {"fdi": Value(value=1)}}, "unknown metric 'fdi'. Did you mean 'fid'"),
        ({"values": {"fid": Value(value=-3)}}, "-3 is outside the possible range from -0.001"),
        ({"values": {"geneval_overall": Value(value=64.2)}}, r"outside the possible range [0, 1]"),
        ({"values": {"geneval_colors": Value(value=1.2)}}, r"outside the possible range [0, 1]"),
        ({"values": {"fid": Value(value=float("nan"))}}, "not finite"),
        ({"values": {"fid": Value(value=1, stderr=-1)}}, "stderr: -1 is negative"),
        ({"values": {"fid": Value(value=1, interval=(2, 1))}}, "low 2 is above high 1"),
        ({"values": {"fid": Value(value=1, scored=999, unscored=2)}}, "are more than the 1000 asked for"),
        ({"values": {"fid": Value(value=1, scored=0)}}, "values.fid: counts must be positive"),
        ({"anchors": {"held_out": {"fid": Value(value=-9)}}}, "anchors.held_out.fid: -9 is outside"),
        ({"breakdown": {"class 1": {"fid": Value(value=-9)}}}, "breakdown.class 1.fid: -9 is outside"),
    ],
)
def test_refused(tmp_path, changes, message):
    assert message in problems(tmp_path, **changes)


@pytest.mark.parametrize(
    "part, changes, message",
    [
        ("protocol", {"references": {"inception": ReferenceUsed(name="r")}}, "references.inception.digest: missing"),
        (
            "protocol",
            {"references": {"inception": ReferenceUsed(name="r", digest="abc")}},
            "references.inception.digest: not a SHA-256",
        ),
        ("protocol", {"judges": {"inception": JudgeUsed(digest="zz")}}, "judges.inception.digest: not a SHA-256"),
        ("protocol", {"prompts": "geneval"}, "protocol.prompts_digest: missing"),
        ("protocol", {"count": None}, "protocol.count: missing"),
        ("provenance", {"images_digest": None}, "provenance.images_digest: missing"),
        ("provenance", {"commit": "main"}, "provenance.commit: not a commit"),
        ("provenance", {"commit": None, "packages": {}}, "neither a commit nor the version"),
        ("provenance", {"selftest": "failed"}, "gives wrong numbers"),
        ("provenance", {"url": "javascript:alert(1)"}, "provenance.url: must start with https://"),
    ],
)
def test_untrustworthy(tmp_path, part, changes, message):
    changed = getattr(good(), part).model_copy(update=changes)
    assert message in problems(tmp_path, **{part: changed})


def test_warnings(tmp_path):
    provenance = good().provenance.model_copy(update={"dirty": True, "selftest": None, "command": None})
    record = good(
        provenance=provenance,
        protocol=good().protocol.model_copy(update={"axis": "class_condtional"}),
        family=None,
        values={"fid": Value(value=1.0, unscored=3, status="partial", reason="3 are lost", judges=("inception",))},
        anchors={"held_out": {"fid": Value(value=2.0)}},
    )
    report = submission.check(saved(tmp_path, record))
    assert [problem.split(":")[0] for problem in report.problems] == ["partial"]
    found = "\n".join(report.warnings)
    for part in (
        "uncommitted changes",
        "'class_condtional' is not known here. Did you mean 'class_conditional'?",
        "diffusionbench selftest",
        "command",
        "cannot group",
        "none is named",
        "no uncertainty",
        "how many were scored",
        "better than held-out real images",
    ):
        assert part in found


def test_duplicates(tmp_path):
    folder = tmp_path / "records"
    submission.write(submission.check(saved(tmp_path, good())), folder)
    same_id = good(values={"fid": FID.model_copy(update={"value": 5.5})})
    assert (
        f"id: '{ID}' stands in another record already" in submission.check(saved(tmp_path, same_id), folder).problems[0]
    )
    same_images = good(method="renamed")
    found = submission.check(saved(tmp_path, same_images), folder).problems
    where = folder / f"{ID}.json"
    assert found == (f"the same images under the same protocol are in record '{ID}' already, {where}",)
    # A remark makes no other measurement of them.
    remark = good(method="renamed", protocol=good().protocol.model_copy(update={"notes": ("again",)}))
    assert submission.check(saved(tmp_path, remark), folder).problems == found
    # Where no guidance is the best that tuning found, the tuned score is of the unguided images.
    unguided = good(protocol=good().protocol.model_copy(update={"guidance": Guidance(scale=1.0), "tuning": None}))
    submission.write(submission.check(saved(tmp_path, unguided), tmp_path / "tuned"), tmp_path / "tuned")
    tuning = Tuning(split="even real images tune, odd ones score", seeds=(1,), count=50_000)
    tuned = good(protocol=unguided.protocol.model_copy(update={"tuning": tuning}))
    assert submission.check(saved(tmp_path, tuned), tmp_path / "tuned").problems == ()
    taken = published.records()[0].id
    assert "stands in another record" in "".join(submission.check(saved(tmp_path, good(id=taken)), folder).problems)
    # A record already in place is not its own duplicate.
    assert submission.check(folder / f"{ID}.json", folder).problems == ()


def test_validate_folder(tmp_path):
    saved(tmp_path, good(), f"{ID}.json")
    saved(tmp_path, good(method="two", values=PARTIAL), "wrong-name.json")
    (tmp_path / "half.json").write_text('{"schema_version": 1, "kind"')
    (tmp_path / ".tmp.json").write_text("{")
    (tmp_path / "record.schema.json").write_text("{}")
    result = invoke("validate", str(tmp_path))
    text = str(result.exception)
    assert isinstance(result.exception, RequestError)
    for part in ("half.json: file", "the file must be named two-", "partial", "same images", "4 problems"):
        assert part in text
    (tmp_path / "half.json").unlink()
    (tmp_path / "wrong-name.json").unlink()
    assert "1 record is valid" in invoke("validate", str(tmp_path)).output
    assert json.loads(invoke("validate", str(tmp_path / f"{ID}.json"), "--json").output)["problems"] == []
    with pytest.raises(RequestError, match="does not exist"):
        submission.check_folder(tmp_path / "missing")


def test_submit_command(tmp_path):
    path, folder = saved(tmp_path, good()), tmp_path / "records"
    assert "nothing was written" in invoke("submit", str(path), "--records", str(folder), "--dry-run").output
    assert not folder.exists()
    eee, hub = tmp_path / "eee.json", tmp_path / "hub.yaml"
    exports = ["--every-eval-ever", str(eee), "--hub", str(hub), "--hub-dataset", "me/bench"]
    result = invoke("submit", str(path), "--records", str(folder), *exports)
    assert result.exit_code == 0, result.output
    assert load(folder / f"{ID}.json") == good()
    assert json.loads(eee.read_text())["schema_version"] == "0.3.0"
    assert "id: me/bench" in hub.read_text()
    (folder / f"{ID}.json").unlink()
    assert invoke("submit", str(path), "--records", str(folder), *exports).exit_code == 0
    for mine in (eee, hub):
        (folder / f"{ID}.json").unlink(missing_ok=True)
        kept = mine.read_text()
        mine.write_text("my notes")
        assert "it would be lost" in str(invoke("submit", str(path), "--records", str(folder), *exports).exception)
        assert mine.read_text() == "my notes"
        assert not (folder / f"{ID}.json").exists()
        mine.write_text(kept)
    assert invoke("submit", str(path), "--records", str(folder), *exports).exit_code == 0
    again = invoke("submit", str(path), "--records", str(folder), "--json")
    assert again.exit_code != 0
    assert "stands in another record" in json.loads(again.output)["problems"][0]
    refused = invoke("submit", str(saved(tmp_path, good(values=PARTIAL, method="other"))), "--records", str(folder))
    assert isinstance(refused.exception, RequestError)
    assert not [*folder.glob("other*")]


def test_places_that_cannot_be_written(tmp_path):
    path = saved(tmp_path, good())
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    for words in (
        ("--records", str(tmp_path / "file")),
        ("--records", str(tmp_path / "records"), "--every-eval-ever", str(tmp_path / "file" / "eee.json")),
    ):
        result = invoke("submit", str(path), *words)
        assert isinstance(result.exception, RequestError)
        assert "cannot be written" in str(result.exception)
        assert sorted(tmp_path.rglob("*")) == before


def test_a_file_that_is_no_record_is_no_duplicate(tmp_path):
    folder = tmp_path / "records"
    saved(folder, good(), f"{ID}.json")
    (folder / "export.json").write_text('{"schema_version": "0.3.0"}')
    (folder / "half.json").write_text('{"schema_ver')
    (report,) = submission.check_folder(folder / f"{ID}.json").values()
    assert report.problems == ()
    assert report.warnings == (f"{folder / 'half.json'} cannot be read, so it was not checked for duplicates",)
    saved(folder, good(), "copy.json")
    (report,) = submission.check_folder(folder / "copy.json").values()
    assert any(problem.endswith(f"already, {folder / ID}.json") for problem in report.problems)
    saved(tmp_path, good(), "mine.json")
    # A result that is not yet among records may have any name, and copies elsewhere.
    (report,) = submission.check_folder(tmp_path / "mine.json").values()
    assert report.problems == ()


# Version 2


def test_an_edited_record_is_refused_by_its_id(tmp_path):
    path = saved(tmp_path, good())
    content = json.loads(path.read_text())
    for edit in ({"method": "other"}, {"id": "mine-0123456789ab"}, {"protocol": content["protocol"] | {"count": 2000}}):
        path.write_text(json.dumps(content | edit))
        assert "that of its content; a record is not edited" in "".join(submission.check(path).problems), edit
    # Remarks and words for display are no content.
    path.write_text(json.dumps(content | {"title": "Mine, again"}))
    assert submission.check(path).problems == ()


def test_a_record_of_version_1_is_valid_where_it_lies_and_is_not_submitted(tmp_path):
    old = Path(__file__).parent / "golden" / "v1" / "pixel-v-c7fc014a1b58.json"
    place = tmp_path / old.name
    place.write_bytes(old.read_bytes())
    (report,) = submission.check_folder(tmp_path).values()
    assert report.problems == ()
    assert any("1; its protocol lacks what version 2 states" in warning for warning in report.warnings)
    (problem,) = submission.check(place).problems
    assert problem.startswith("schema_version: 1; its protocol lacks")
    # The file says which version it is, not a word within it.
    content = json.loads(place.read_text()) | {"schema_version": 2}
    place.write_text(json.dumps(content))
    assert submission.check(place).record is None


def test_the_same_images_under_an_old_and_a_new_id_are_noticed(tmp_path):
    old = json.loads((Path(__file__).parent / "golden" / "v1" / "pixel-v-c7fc014a1b58.json").read_text())
    (tmp_path / f"{old['id']}.json").write_text(json.dumps(old))
    record = Record.model_validate(old)
    protocol = record.protocol.model_copy(update={"items_digest": HASH, "image_format": "png"})
    values = {key: value.model_copy(update={"judges": ("digits",)}) for key, value in record.values.items()}
    new = record.model_copy(update={"protocol": protocol, "values": values})
    new = new.model_copy(update={"id": record_id(new)})
    report = submission.check(saved(tmp_path, new), tmp_path)
    assert report.problems == (
        f"the same images under the same protocol are in record '{old['id']}' already, {tmp_path / old['id']}.json",
    )
    some = new.model_copy(update={"values": {"fd_digits": values["fd_digits"]}})
    some = some.model_copy(update={"id": record_id(some)})
    report = submission.check(saved(tmp_path, some), tmp_path)
    assert report.problems == ()
    assert f"values.fd_digits: of the same images stands in record '{old['id']}' too" in "".join(report.warnings)
    # With another judge it is another measurement.
    judged = new.protocol.model_copy(update={"judges": {"digits": JudgeUsed(digest=HASH)}})
    other = new.model_copy(update={"protocol": judged})
    known = submission._Known()
    known.add("here", new)
    assert known.repeats(other.model_copy(update={"id": record_id(other)})) == ([], [])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"trained_with": ("inception",)}, "status: 'ok', and the method was trained with judge 'inception'"),
        (
            {"extra": {"facts": {"fid": {"status": "unverified"}}}},
            "its own facts say 'unverified'; it is 'provisional'",
        ),
        ({"values": {"fid": FID.model_copy(update={"status": "flagged"})}}, "values.fid.reason: missing"),
        ({"values": {"fid": FID.model_copy(update={"unscored": 1})}}, "1 images are unscored; it is 'partial'"),
        ({"values": {"fid": FID.model_copy(update={"judges": ()})}}, "values.fid.judges: missing"),
        ({"values": {"fid": FID.model_copy(update={"judges": ("x",)})}}, "judge 'x' is not in protocol.judges"),
        (
            {
                "protocol": good().protocol.model_copy(
                    update={"references": {"inception": ReferenceUsed(name="r", digest=HASH, made_by="asserted: x")}}
                )
            },
            "the statistics it compares with are asserted; it is 'asserted'",
        ),
        ({"protocol": good().protocol.model_copy(update={"items_digest": None})}, "protocol.items_digest: missing"),
    ],
)
def test_a_value_claims_no_better_status_than_its_record_allows(tmp_path, changes, message):
    assert message in problems(tmp_path, **changes)


def test_attachments_are_checked_and_submitted_with_the_record(tmp_path):
    text = "x" * (INLINE + 1)
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    record = good(evidence={"per_sample.json": Attachment(sha256=sha256, text=text)})
    path = saved(tmp_path, record)
    report = submission.check(path)
    assert report.problems == report.warnings == ()
    there = submission.write(report, tmp_path / "records")
    assert attachment(load(there), there, "per_sample.json") == text.encode()
    beside = tmp_path / f"{ID}.evidence" / "per_sample.json"
    beside.write_text("changed")
    assert "evidence.per_sample.json: attachment" in "".join(submission.check(path).problems)
    beside.write_bytes(b"\xff\xfe")
    sha256 = hashlib.sha256(b"\xff\xfe").hexdigest()
    saved(tmp_path, good(evidence={"per_sample.json": Attachment(sha256=sha256)}))
    assert "is no UTF-8 text" in "".join(submission.check(path).problems)
    saved(tmp_path, record)
    beside.unlink()
    report = submission.check(path)
    assert report.problems == ()
    assert "nobody can compare by it" in "".join(report.warnings)


@pytest.mark.parametrize("number", [1000])
def test_a_folder_of_many_records_is_validated_at_once(tmp_path, number):
    """Three milliseconds for each are far more than it takes; every record against every other would take minutes."""
    for place in range(number):
        one = good(provenance=good().provenance.model_copy(update={"images_digest": f"{place:064x}"}))
        (tmp_path / f"{one.id}.json").write_text(one.model_dump_json())
    started = time.process_time()
    reports = submission.check_folder(tmp_path)
    assert len(reports) == number
    assert not [problem for report in reports.values() for problem in report.problems]
    assert time.process_time() - started < 0.003 * number
