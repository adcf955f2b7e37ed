"""Several references in one request: each judge compares with its own, and the record says with which."""

import json

import numpy as np
import pytest
from making import ConstantSource
from twins import Twin, add_twin

from diffusionbench import runner
from diffusionbench.errors import RequestError, UserError
from diffusionbench.judges.digits import DigitsJudge
from diffusionbench.metrics.frechet import frechet_distance, frechet_from_features
from diffusionbench.moments import moments
from diffusionbench.references import references_by_judge
from diffusionbench.references.digits import DigitsReference
from diffusionbench.references.preparing import prepare_reference
from diffusionbench.schema import file_digest
from diffusionbench.source import ArraySource

BOTH = ("fd_digits", "fd_twin")


@pytest.fixture(autouse=True)
def twin(monkeypatch):
    add_twin(monkeypatch)


@pytest.fixture
def given(noise):
    return ArraySource(noise(20), np.arange(20) % 10, "some images")


@pytest.fixture
def real(tmp_path, noise):
    """Two archives of real images, of which the second is labelled."""
    one, other = noise(30, seed=1), noise(40, seed=2)
    np.savez(tmp_path / "one.npz", arr_0=one)
    np.savez(tmp_path / "other.npz", arr_0=other, arr_1=np.arange(40) % 10)
    return {"one": (tmp_path / "one.npz", one), "other": (tmp_path / "other.npz", other)}


def test_each_judge_compares_with_its_own(ask, given, real):
    named = {judge: str(path) for judge, (path, _) in zip(("digits", "twin"), real.values(), strict=True)}
    record = runner.run(ask(metrics=BOTH, reference=None, references=named), given)
    for judge, (path, images) in zip((DigitsJudge(), Twin()), real.values(), strict=True):
        expected = frechet_from_features(judge(given.array)["features"], judge(images)["features"])
        assert record.values[f"fd_{judge.name}"].value == pytest.approx(expected, rel=1e-4)
        assert record.protocol.references[judge.name].name == path.name
    assert len({used.digest for used in record.protocol.references.values()}) == 2
    # Labelled images alone have means of classes, which stand beside the values that compare with them.
    assert record.anchors.keys() == {"class_means"}
    assert record.anchors["class_means"].keys() == {"fd_twin"}


def test_one_for_all_gives_way_to_a_judges_own(ask, given, real):
    path = str(real["one"][0])
    record = runner.run(ask(metrics=BOTH, references={"twin": path}), given)
    assert {judge: used.name for judge, used in record.protocol.references.items()} == {
        "digits": "digits",
        "twin": "one.npz",
    }
    # The anchors of the digits say nothing of a judge that compares with other images.
    assert record.anchors.keys() == {"held_out", "class_means"}
    assert all(values.keys() == {"fd_digits"} for values in record.anchors.values())


def test_anchors_of_two_references_stand_side_by_side(ask, given, real):
    record = runner.run(ask(metrics=BOTH, references={"twin": str(real["other"][0])}), given)
    assert record.anchors["class_means"].keys() == {"fd_digits", "fd_twin"}
    assert record.anchors["held_out"].keys() == {"fd_digits"}


def test_statistics_of_two_judges_serve_one_request(ask, given, real, tmp_path):
    files = {}
    for judge, (path, _) in zip(("digits", "twin"), real.values(), strict=True):
        prepare_reference(path, judge, tmp_path / f"{judge}.npz", role="val")
        files[judge] = str(tmp_path / f"{judge}.npz")
    record = runner.run(ask(metrics=BOTH, reference=None, references=files), given)
    direct = {judge: str(path) for judge, (path, _) in zip(("digits", "twin"), real.values(), strict=True)}
    images = runner.run(ask(metrics=BOTH, reference=None, references=direct), given)
    for judge in files:
        used = record.protocol.references[judge]
        assert (used.name, used.role, used.made_by) == (f"{judge}.npz", "val", judge)
        assert used.digest == file_digest(tmp_path / f"{judge}.npz")
        assert record.values[f"fd_{judge}"].value == images.values[f"fd_{judge}"].value
    with pytest.raises(RequestError, match="are of extractor 'twin', and judge 'digits' needs its own"):
        ask(metrics=BOTH, reference=None, references={**files, "digits": files["twin"]}).check_metrics()


def test_images_of_several_judges_are_opened_once(ask, real):
    path = str(real["one"][0])
    evaluation = ask(metrics=BOTH, reference=None, references={"digits": path, "twin": path})
    assert len(evaluation.distinct_references) == 1


def test_the_word_of_the_user_counts_for_the_judge_it_names(ask, real, tmp_path):
    np.savez(tmp_path / "unknown.npz", mu=np.zeros(64), sigma=np.eye(64))
    unknown, said = str(tmp_path / "unknown.npz"), ("twin",)
    ask(metrics=BOTH, references={"twin": unknown}, reference_extractors=said).check_metrics()
    ask(metrics=("fd_twin",), reference=unknown, reference_extractors=said).check_metrics()
    both = {"references": {"digits": unknown, "twin": unknown}, "reference": None}
    ask(metrics=BOTH, reference_extractors=("digits", "twin"), **both).check_metrics()
    with pytest.raises(RequestError, match="judge 'digits' needs its own, and nothing says which extractor"):
        ask(metrics=BOTH, reference_extractors=said, **both).check_metrics()
    with pytest.raises(RequestError, match="one reference cannot hold the statistics of digits and twin"):
        ask(metrics=BOTH, reference=unknown, reference_extractors=("digits", "twin"))
    for reference in ("digits", str(real["one"][0])):
        with pytest.raises(RequestError, match="says whose statistics a file holds, and judge 'twin' is given none"):
            ask(metrics=BOTH, reference=reference, reference_extractors=said)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"references": {"digit": "digits"}}, r"unknown judge 'digit'\. Did you mean 'digits'\?"),
        (
            {"references": {"inception": "digits"}},
            r"named for judge 'inception', .* through it\. .*digits, twin",
        ),
        ({"reference_extractors": ("inception",)}, r"named for judge 'inception', .* compares through it"),
        ({"reference": None, "references": {"twin": "digits"}}, r"'fd_digits' .* for judge 'digits', .* for twin only"),
        ({"references": {"twin": "no/such"}}, r"unknown reference 'no/such'"),
        (
            {"reference": "twim=real"},
            r"'twim=real'.* No judge is called 'twim'\. Did you mean 'twin'\?",
        ),
    ],
)
def test_wrong_names_are_refused(ask, changes, message):
    with pytest.raises(UserError, match=message):
        ask(metrics=BOTH, **changes).check_metrics()


def test_sizes_counts_and_classes_are_those_of_every_reference(ask, given, real, tmp_path, noise):
    np.savez(tmp_path / "large.npz", arr_0=noise(10, 9))
    with pytest.raises(RequestError, match=r"the images are 8x8, and reference 'large\.npz' needs 9x9"):
        ask(metrics=BOTH, references={"twin": str(tmp_path / "large.npz")}).check(given)
    np.savez(tmp_path / "three.npz", arr_0=noise(3))
    few = {"digits": str(tmp_path / "three.npz")}
    with pytest.raises(RequestError, match=r"'recall_digits' needs at least 4 real images, and .*three\.npz' has 3"):
        ask(metrics=("recall_digits", "fd_twin"), references=few).check(given)
    np.savez(tmp_path / "letters.npz", arr_0=noise(4), arr_1=np.arange(4) + 9)
    letters = {"twin": str(tmp_path / "letters.npz")}
    with pytest.raises(RequestError, match=r"the classes of reference 'letters\.npz' are others"):
        ask(metrics=("accuracy_digits", "fd_twin"), references=letters).check(given)


def test_the_classes_asked_for_are_those_of_real_images_that_have_some(ask, real):
    named = {"digits": str(real["one"][0]), "twin": str(real["other"][0])}
    evaluation = ask(metrics=BOTH, reference=None, references=named, count=12)
    assert [one.label for one in evaluation.samples(ConstantSource((8, 8)))] == [*range(10), 0, 1]
    # A reference for all judges that has no classes says none.
    evaluation = ask(metrics=BOTH, reference=named["digits"], references={"twin": named["twin"]}, count=12)
    assert [one.label for one in evaluation.samples(ConstantSource((8, 8)))] == [*range(10), 0, 1]
    evaluation = ask(metrics=BOTH, references=named, count=12)
    assert [one.label for one in evaluation.samples(ConstantSource((8, 8)))] == DigitsReference().labels(12)


def test_stored_images_keep_the_references_of_the_metrics_that_are_scored_again(ask, given, real, tmp_path):
    named = {"digits": str(real["one"][0]), "twin": str(real["other"][0])}
    first = runner.run(ask(metrics=BOTH, reference=None, references=named), given, tmp_path / "store")
    again = runner.rescore(tmp_path / "store", ("fd_twin",))
    assert again.values["fd_twin"].value == first.values["fd_twin"].value
    assert again.protocol.references == {"twin": first.protocol.references["twin"]}
    other = runner.rescore(tmp_path / "store", BOTH, references={"twin": "digits", "digits": "digits"})
    assert {used.name for used in other.protocol.references.values()} == {"digits"}
    one = runner.rescore(tmp_path / "store", BOTH, "digits")
    assert one.protocol.references == other.protocol.references


def test_only_the_name_of_a_judge_before_an_equals_sign_counts():
    assert references_by_judge(["a=b/real", "twin=c=d", "digits=digits"]) == {
        "reference": "a=b/real",
        "references": {"twin": "c=d", "digits": "digits"},
    }
    assert references_by_judge([]) == {"reference": None, "references": {}}
    for words, message in (
        (["real", "a=b"], "two references are given for all judges: real and a=b"),
        (["twin=a", "twin=b"], "two references are given for judge 'twin': a and b"),
        (["twin="], "--reference 'twin=' names no real images"),
        ([""], "--reference '' names no real images"),
    ):
        with pytest.raises(RequestError, match=message):
            references_by_judge(words)


def test_the_command_line_names_references_by_judge(bench, real, tmp_path, noise):
    np.savez(tmp_path / "images.npz", arr_0=noise(20))
    np.savez(tmp_path / "a=b.npz", arr_0=noise(20, seed=5))
    np.savez(tmp_path / "unknown.npz", mu=np.zeros(64), sigma=np.eye(64))
    words = ("run", tmp_path / "images.npz", "--metrics", ",".join(BOTH), "--store", tmp_path / "store", "--json")
    options = ("--reference", tmp_path / "a=b.npz", "--reference", f"twin={tmp_path / 'unknown.npz'}")
    more = ("--reference-extractor", "twin", "--reference-role", "val")
    code, out, _ = bench(*words, *options, *more)
    record = json.loads(out)
    assert code == 0
    assert {
        judge: (used["name"], used["role"], used["made_by"]) for judge, used in record["protocol"]["references"].items()
    } == {
        "digits": ("a=b.npz", "val", None),
        "twin": ("unknown.npz", "val", "asserted: twin"),
    }
    assert [record["values"][key]["status"] for key in BOTH] == ["ok", "asserted"]
    again = ("score", tmp_path / "store", "--metrics", "fd_twin", "--json")
    assert json.loads(bench(*again)[1])["protocol"]["references"]["twin"]["made_by"] == "asserted: twin"
    own = json.loads(bench(*again, "--reference", f"twin={real['one'][0]}", "--reference-role", "test")[1])
    assert own["protocol"]["references"]["twin"]["name"] == "one.npz"
    assert own["protocol"]["references"]["twin"]["role"] == "test"
    for extra, message in (
        (("--reference-role", "dev"), "is no role of a reference"),
        (("--reference", "digits", "--reference", "digits"), "two references are given for all judges"),
        (("--reference", "a\x1bb"), "a record cannot hold --reference"),
    ):
        code, out, err = bench(*words, *extra)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err


def test_statistics_that_are_not_used_are_said(bench, tmp_path, noise):
    np.savez(tmp_path / "images.npz", arr_0=noise(20))
    np.savez(tmp_path / "batch.npz", arr_0=noise(20, seed=1), mu=np.zeros(64), sigma=np.eye(64))
    words = ("run", tmp_path / "images.npz", "--metrics", "fd_digits", "--reference", tmp_path / "batch.npz", "--json")
    code, out, err = bench(*words)
    assert code == 0
    assert "its mu and sigma are not used" in err
    assert "its mu and sigma are not used" in json.loads(out)["extra"]["left_out"][0]
    code, out, err = bench(*words, "--reference-extractor", "digits")
    assert code == 0
    assert "mu and sigma" not in err
    assert json.loads(out)["values"]["fd_digits"]["status"] == "asserted"


def test_a_published_batch_holds_statistics_of_two_judges(ask, noise, tmp_path, inception_installed):
    """`mu` and `sigma` are the network's, `mu_s` and `sigma_s` those of its map; the record marks sFID."""
    from diffusionbench.judges.inception import Inception, InceptionSpatial

    images, real = noise(6), noise(8, seed=1)
    means = {"mu": 2048, "mu_s": 2023}
    arrays = {f"sigma{key[2:]}": np.eye(width) for key, width in means.items()}
    path = str(tmp_path / "adm.npz")
    np.savez(path, arr_0=real, **{key: np.full(width, 0.1) for key, width in means.items()}, **arrays)
    both = ("inception", "inception_spatial")
    request = ask(
        metrics=("fid", "sfid"),
        reference=None,
        references=dict.fromkeys(both, path),
        reference_extractors=both,
        count=6,
    )
    record = runner.run(request, ArraySource(images, None, "some images"))
    for key, judge, name in (("fid", Inception(), "mu"), ("sfid", InceptionSpatial(), "mu_s")):
        features = judge(images)["features"]
        width = means[name]
        expected = frechet_distance(*moments(features), np.full(width, 0.1), np.eye(width))
        assert record.values[key].value == pytest.approx(expected, rel=1e-4)
        assert record.protocol.references[judge.name].made_by == f"asserted: {judge.name}"
    assert "not checked against a published value" in record.values["sfid"].reason
