"""Records: what they hold survives a file, and what breaks the schema is named."""

import json
import subprocess

import pytest

from diffusionbench import provenance
from diffusionbench.errors import RequestError
from diffusionbench.record import Guidance, Protocol, Provenance, Record, ReferenceUsed, Value, load, told_doubts
from diffusionbench.study.comparison import compare


def record(values=None, **protocol):
    return Record(
        kind="measured",
        id="toy-1",
        method="toy",
        title="Toy",
        protocol=Protocol(**{"name": "p", "axis": "class_conditional", "count": 100} | protocol),
        values=values or {"fid": Value(value=2.5, stderr=0.1, interval=(2.3, 2.7), method="jackknife", scored=100)},
        provenance=Provenance(source="folder x"),
    )


def test_a_record_survives_its_file(tmp_path):
    made = record(guidance=Guidance(scale=1.5, interval=(0.1, 0.9)))
    made.save(tmp_path / "deep" / "r.json")
    assert load(tmp_path / "deep" / "r.json") == made
    assert [file.name for file in (tmp_path / "deep").iterdir()] == ["r.json"]
    assert json.loads((tmp_path / "deep" / "r.json").read_text())["schema_version"] == 2


def test_a_record_takes_the_place_of_a_record_and_of_nothing_else(tmp_path):
    path = tmp_path / "r.json"
    for number in (1.0, 2.0):
        record({"fid": Value(value=number)}).save(path)
        assert load(path).values["fid"].value == number
    path.write_text('{"schema_version": "mine"}')
    with pytest.raises(RequestError, match=r"r\.json exists and is no earlier result of this kind"):
        record().save(path)
    assert path.read_text() == '{"schema_version": "mine"}'


def test_every_breach_of_the_schema_is_named(tmp_path):
    data = record().model_dump(mode="json")
    data["values"]["fid"]["value"] = "good"
    data["surprise"] = 1
    del data["method"]
    (tmp_path / "r.json").write_text(json.dumps(data))
    with pytest.raises(RequestError) as caught:
        load(tmp_path / "r.json")
    for place in ("values.fid.value", "surprise", "method"):
        assert place in str(caught.value)
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(RequestError, match="does not fit the schema"):
        load(tmp_path / "r.json")
    with pytest.raises(RequestError, match="No such file"):
        load(tmp_path / "missing.json")


def test_a_record_of_another_schema_version_is_refused(tmp_path):
    data = record().model_dump(mode="json") | {"schema_version": 99}
    (tmp_path / "r.json").write_text(json.dumps(data))
    with pytest.raises(RequestError, match="schema_version"):
        load(tmp_path / "r.json")


def value(number, stderr=0.1, interval=None):
    return {"fid": Value(value=number, stderr=stderr, interval=interval, scored=100)}


@pytest.mark.parametrize(
    "first, second, differs",
    [
        (value(2.0), value(2.27), False),  # 0.27 < 1.96 * sqrt(0.1^2 + 0.1^2) = 0.277
        (value(2.0), value(2.29), True),
        (value(2.0, None, (1.8, 2.2)), value(2.27), False),
        (value(2.0, None, (1.99, 2.01)), value(2.27), True),
        (value(2.0, None), value(2.0, None), False),
        (value(2.0, None), value(2.0001, None), True),
    ],
)
def test_values_differ_beyond_their_joint_uncertainty(first, second, differs):
    assert compare(record(first), record(second)).differs is differs


def test_other_rules_are_told_and_another_seed_is_not_another_rule():
    told = compare(record(), record(count=200, references={"inception": ReferenceUsed(name="other")}))
    assert told.differs
    other = {"name": "other", "digest": None, "role": None, "made_by": None}
    assert told.protocol == {"count": (100, 200), "references.inception": (None, other)}
    assert "protocols differ in count: 100 and 200" in told.as_text()
    assert not compare(record(seed=0), record(seed=1)).differs
    missing = compare(record(), record(value(1.0) | {"kid_mean": Value(value=1)}))
    assert missing.missing == {"kid_mean": "second"}
    assert missing.differs


def test_a_spread_beside_a_score_is_no_score():
    first, second = (record(value(1.0) | {"kd_digits_std": Value(value=spread)}) for spread in (0.1, 0.2))
    assert not compare(first, second).differs


def test_the_commit_is_that_of_the_repository_that_tracks_the_file(tmp_path):
    file = tmp_path / "code.py"
    file.write_text("one")
    assert provenance.commit(file) == (None, None)

    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(["git", "-C", tmp_path, *identity, *words], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "other.py").touch()
    git("add", "other.py")
    git("commit", "-qm", "other")
    # A repository around an installed copy that it does not track says nothing about the code.
    assert provenance.commit(file) == (None, None)
    git("add", "code.py")
    git("commit", "-qm", "one")
    assert provenance.commit(file) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "untracked").touch()
    assert provenance.commit(file)[1] is False
    file.write_text("two")
    assert provenance.commit(file)[1] is True


def test_packages_and_hardware_are_told():
    assert {"python", "torch", "numpy", "pillow"} <= set(provenance.packages())
    assert provenance.hardware().endswith("cores")


def test_each_doubt_is_told_once_with_its_word():
    doubts = {"a": "flagged: variety", "b": "flagged: variety", "c": "trained on it", "d": None}
    values = {key: Value(value=1, status="flagged", reason=reason) for key, reason in doubts.items()}
    assert told_doubts(record({**values, "e": Value(value=1)})) == {
        "flagged: variety": ["a", "b"],
        "flagged: trained on it": ["c"],
        "flagged": ["d"],
    }
