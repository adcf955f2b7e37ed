"""What binds a file of statistics to a judge: its manifest, its hash or the user, never its width."""

import json
import os
import re
import resource
from dataclasses import replace

import numpy as np
import pytest
from test_archives import HOSTILE, archive, header, npy
from twins import Twin, add_twin

from diffusionbench import moments, runner
from diffusionbench.errors import DataError, RequestError, UserError
from diffusionbench.judges import DIGITS, deferred
from diffusionbench.judges.digits import DigitsJudge
from diffusionbench.references import statistics
from diffusionbench.references.opening import resolve
from diffusionbench.references.preparing import prepare_reference
from diffusionbench.references.statistics import KnownStatistics, manifest_place
from diffusionbench.schema import file_digest
from diffusionbench.source import ArraySource


@pytest.fixture
def real(tmp_path, noise):
    """An archive of 20 real images."""
    np.savez(tmp_path / "real.npz", arr_0=noise(20, seed=7))
    return tmp_path / "real.npz"


@pytest.fixture
def stats(tmp_path, real):
    """Statistics of them by the judge of digits, with a manifest."""
    prepare_reference(real, "digits", tmp_path / "stats.npz", role="val")
    return tmp_path / "stats.npz"


@pytest.fixture
def unknown(stats):
    """The same without a manifest."""
    manifest_place(stats).unlink()
    return stats


def test_a_manifest_binds_and_says_what_records_state(stats, real):
    judge, reference = DigitsJudge(), resolve(str(stats))
    assert (reference.role, reference.count, reference.image_size) == ("val", 20, (8, 8))
    assert reference.made_by("digits") == "digits"
    assert reference.made_by("twin") is None
    assert reference.asserted("digits") is None
    for ours, theirs in zip(reference.moments(judge), resolve(str(real)).moments(judge), strict=True):
        assert np.array_equal(ours, theirs)


def test_a_file_of_one_judge_never_serves_another_of_equal_width(stats, monkeypatch, ask):
    add_twin(monkeypatch)
    for asserted in ((), ("twin",)):
        named = {"reference": str(stats), "reference_extractors": asserted}
        with pytest.raises(RequestError, match=r"twin"):
            ask(metrics=("fd_twin",), **named).check_metrics()
    with pytest.raises(RequestError, match=r"are of extractor 'digits', and judge 'twin' needs its own"):
        resolve(str(stats)).moments(Twin())


def test_width_alone_never_binds(unknown, ask):
    with pytest.raises(RequestError, match=r"nothing says which extractor .* say so with --reference-extractor digits"):
        ask(metrics=("fd_digits",), reference=str(unknown)).check_metrics()


def test_the_word_of_the_user_binds_and_stands_in_the_record(unknown, ask, noise):
    source = ArraySource(noise(20), np.arange(20) % 10, "some images")
    named = {"reference": str(unknown), "reference_extractors": ("digits",)}
    record = runner.run(ask(metrics=("fd_digits", "accuracy_digits"), **named), source)
    assert record.protocol.references["digits"].made_by == "asserted: digits"
    value = record.values["fd_digits"]
    assert value.status == "asserted"
    assert value.reason == "that stats.npz holds statistics of 'digits' is the user's word"
    assert record.values["accuracy_digits"].status == "ok"


def test_a_manifest_is_worth_more_than_the_word_of_the_user(stats, ask, noise):
    source = ArraySource(noise(20), np.arange(20) % 10, "some images")
    record = runner.run(ask(metrics=("fd_digits",), reference=str(stats), reference_extractors=("digits",)), source)
    assert record.values["fd_digits"].status == "ok"
    assert record.protocol.references["digits"].model_dump() == {
        "name": "stats.npz",
        "digest": file_digest(stats),
        "role": "val",
        "made_by": "digits",
    }


def test_a_known_hash_binds(unknown, monkeypatch):
    row = KnownStatistics(extractor="digits", made_by="digits, as published", role="train", count=1438)
    monkeypatch.setitem(statistics.KNOWN, file_digest(unknown), row)
    reference = resolve(str(unknown))
    assert (reference.role, reference.count, reference.made_by("digits")) == ("train", 1438, "digits, as published")
    assert reference.asserted("digits") is None
    reference.check_loaded(DigitsJudge())
    with pytest.raises(RequestError, match="are of extractor 'digits'"):
        reference.check(replace(DIGITS, name="twin"))


def test_a_judge_of_another_digest_is_refused_before_an_image_is_judged(stats, ask, monkeypatch, noise):
    def other(self, device="cpu", options=None):
        made(self, device, options)
        self.digest = self.digest_of("other weights")

    made = DigitsJudge.__init__
    monkeypatch.setattr(DigitsJudge, "__init__", other)
    monkeypatch.setattr(deferred, "self_test", lambda *given: None)
    monkeypatch.setattr(DigitsJudge, "__call__", lambda *given: pytest.fail("an image was judged"))
    with pytest.raises(RequestError, match=r"with the digest \w{12}\.\.\., and the one here has \w{12}\.\.\."):
        runner.run(ask(metrics=("fd_digits",), reference=str(stats)), ArraySource(noise(20), None, "images"))


def test_scored_images_have_the_size_of_those_behind_the_statistics(stats, ask, noise):
    with pytest.raises(RequestError, match=r"the images are 9x9, and reference 'stats\.npz' needs 8x8"):
        ask(metrics=("fd_digits",), reference=str(stats)).check(ArraySource(noise(20, 9), None, "images"))


def changed(**fields):
    return lambda place, text: place.write_text(json.dumps(json.loads(text) | fields))


ODD_MANIFESTS = {
    "of another file": (changed(sha256="0" * 64), "is the manifest of another file: it names the SHA-256 000000000000"),
    "without the extractor": (lambda place, text: place.write_text("{}"), "is no manifest of statistics .*extractor"),
    "with a key too many": (changed(more=1), "is no manifest of statistics .*more"),
    "of another format": (changed(format="x"), "is no manifest of statistics .*format"),
    "of no split": (changed(role="dev"), "is no manifest of statistics .*role"),
    "of no images": (changed(count=-1), "is no manifest of statistics .*count"),
    "of a count without end": (changed(count=10**15), "is no manifest of statistics .*count"),
    "with a hash that is none": (changed(extractor_digest="x"), "is no manifest of statistics .*extractor_digest"),
    "a list": (lambda place, text: place.write_text("[]"), "is no manifest of statistics"),
    "cut off": (lambda place, text: place.write_text(text[:50]), "cannot be read as a manifest"),
    "bytes": (lambda place, text: place.write_bytes(b"\xff\xfe\x00"), "cannot be read as a manifest"),
    "nested without end": (lambda place, text: place.write_text("[" * 100_000), "nested deeper"),
    "of 2 MiB": (lambda place, text: place.write_text(text + " " * 2**21), "larger than the 1 MiB"),
    "a folder": (lambda place, text: (place.unlink(), place.mkdir()), "cannot be read as a manifest"),
}


@pytest.mark.parametrize("what", ODD_MANIFESTS)
def test_an_odd_manifest_is_named_with_its_fault(what, stats):
    spoil, message = ODD_MANIFESTS[what]
    spoil(manifest_place(stats), manifest_place(stats).read_text())
    with pytest.raises(DataError, match=message) as caught:
        resolve(str(stats))
    assert str(manifest_place(stats)) in str(caught.value)


ODD_FILES = {
    "no pair": ({"mu": np.zeros(64), "ref_sigma": np.eye(64)}, r"need the keys mu and sigma .* found mu, ref_sigma"),
    "a covariance of another width": ({"mu": np.zeros(64), "sigma": np.eye(32)}, r"shapes \(64,\) and \(32, 32\)"),
    "a mean of rows": ({"mu": np.zeros((1, 64)), "sigma": np.eye(64)}, r"need a mean \[d\]"),
    "a single number": ({"mu": np.array(0.0), "sigma": np.eye(1)}, r"need a mean \[d\]"),
    "NaN": ({"mu": np.full(64, np.nan), "sigma": np.eye(64)}, "hold a value that is not finite"),
    "infinity": ({"mu": np.zeros(64), "sigma": np.full((64, 64), np.inf)}, "hold a value that is not finite"),
    "not symmetric": ({"mu": np.zeros(64), "sigma": np.triu(np.ones((64, 64)))}, "covariance is not symmetric"),
    "a negative variance": ({"mu": np.zeros(64), "sigma": -np.eye(64)}, r"a variance is -1\. "),
    "no width": ({"mu": np.zeros((64, 0)), "sigma": np.zeros((0, 0))}, r"need a mean \[d\]"),
    "features of no images": (
        {"mu": np.zeros(64), "sigma": np.eye(64), "features": np.zeros((0, 64), np.float32)},
        r"'features' is float32 \[0, 64\]",
    ),
    "complex": ({"mu": np.zeros(64, complex), "sigma": np.eye(64)}, "Give real numbers"),
    "words": ({"mu": np.array(["a"] * 64), "sigma": np.eye(64)}, "Give real numbers"),
    "times": ({"mu": np.zeros(64, "M8[s]"), "sigma": np.eye(64)}, "Give real numbers"),
    "features of another width": (
        {"mu": np.zeros(64), "sigma": np.eye(64), "features": np.zeros((5, 32), np.float32)},
        r"'features' is float32 \[5, 32\], and mu has width 64",
    ),
    "features of whole numbers": (
        {"mu": np.zeros(64), "sigma": np.eye(64), "features": np.zeros((5, 64), int)},
        r"'features' is int64 \[5, 64\]",
    ),
}


@pytest.mark.parametrize("what", ODD_FILES)
def test_odd_statistics_are_refused_in_one_sentence(what, tmp_path):
    arrays, message = ODD_FILES[what]
    np.savez(tmp_path / "odd.npz", **arrays)
    with pytest.raises(DataError, match=message) as caught:
        resolve(str(tmp_path / "odd.npz"), "digits")
    assert str(tmp_path / "odd.npz") in str(caught.value)


def test_the_pair_without_prefix_is_preferred(tmp_path):
    arrays = {"ref_mu": np.ones(64), "ref_sigma": 2 * np.eye(64)}
    np.savez(tmp_path / "ref.npz", **arrays)
    np.savez(tmp_path / "both.npz", **arrays, mu=np.zeros(64), sigma=np.eye(64))
    np.savez(tmp_path / "half.npz", **arrays, mu=np.zeros(64))
    means = {
        name: resolve(str(tmp_path / name), "digits").moments(DigitsJudge())[0][0]
        for name in ("ref.npz", "both.npz", "half.npz")
    }
    assert means == {"ref.npz": 1.0, "both.npz": 0.0, "half.npz": 1.0}


def test_images_without_a_role_take_the_users_and_no_other(real, stats):
    assert resolve(str(real)).role is None
    assert resolve(str(real), role="test").role == "test"
    assert resolve("digits").role == "train"
    for known, role in ((str(stats), "train"), ("digits", "val")):
        with pytest.raises(RequestError, match=rf"split, and --reference-role says {role}"):
            resolve(known, role=role)


HOSTILE_PARTS = [name for name in HOSTILE if name != "a type of no bytes"]


@pytest.mark.parametrize("what", HOSTILE_PARTS)
@pytest.mark.parametrize("key", ["mu", "sigma", "features"])
def test_a_hostile_array_of_statistics_is_never_read(what, key, tmp_path):
    good = {"mu": npy(np.zeros(2)), "sigma": npy(np.eye(2)), "features": npy(np.zeros((5, 2), np.float32))}
    path = archive(tmp_path / "stats.npz", **{**good, key: HOSTILE[what]})
    with pytest.raises(DataError, match=rf"stats\.npz: '{key}' cannot be read"):
        resolve(str(path), "digits")


@pytest.mark.parametrize("key", ["arr_0", "mu", "sigma"])
def test_a_hostile_array_of_a_reference_batch_is_never_read(key, tmp_path, noise):
    good = {"arr_0": npy(noise(4)), "mu": npy(np.zeros(2)), "sigma": npy(np.eye(2))}
    for what in HOSTILE_PARTS:
        path = archive(tmp_path / "batch.npz", **{**good, key: HOSTILE[what]})
        with pytest.raises(DataError, match=rf"batch\.npz: '{key}' cannot be read"):
            resolve(str(path), "digits")
        path.unlink()


def test_what_unfolds_without_end_is_refused_by_its_head(tmp_path):
    """A file of 200 KB whose covariance is 200 MB, and one of 200 KB whose mean is."""
    wide, zeros = 5_000, bytes(200_000_000)
    cov = header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({wide}, {wide})}}\n") + zeros
    mean = header(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({wide * wide},)}}\n") + zeros
    path = archive(tmp_path / "cov.npz", mu=npy(np.zeros(64)), sigma=cov)
    assert path.stat().st_size < 300_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"need a mean \[d\] and a covariance"):
        resolve(str(path), "digits")
    path = archive(tmp_path / "mean.npz", mu=mean, sigma=npy(np.eye(64)))
    with pytest.raises(DataError, match=r"need a mean \[d\] and a covariance"):
        resolve(str(path), "digits")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


def test_statistics_wider_than_any_extractor_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(moments, "_MOST_WIDTH", 63)
    np.savez(tmp_path / "wide.npz", mu=np.zeros(64), sigma=np.eye(64))
    with pytest.raises(DataError, match="have width 64, and at most 63 are read"):
        resolve(str(tmp_path / "wide.npz"), "digits")


def test_files_that_are_no_statistics_end_in_one_sentence(tmp_path, stats):
    whole = stats.read_bytes()
    places = {name: tmp_path / f"{name}.npz" for name in ("pipe", "folder", "text", "cut", "head", "half", "empty")}
    os.mkfifo(places["pipe"])
    places["folder"].mkdir()
    places["text"].write_text("mu sigma")
    places["cut"].write_bytes(whole[: len(whole) // 2])
    places["head"].write_bytes(whole[100:])
    # The list at the end is whole, what it names is not.
    places["half"].write_bytes(whole[:200] + bytes(len(whole) - 500) + whole[-300:])
    places["empty"].write_bytes(b"")
    for path in places.values():
        with pytest.raises(UserError, match=re.escape(str(path))) as caught:
            resolve(str(path), "digits")
        assert "\n" not in str(caught.value)


def test_a_manifest_that_nobody_writes_to_or_that_has_no_end(stats):
    place = manifest_place(stats)
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(DataError, match="cannot be read as a manifest: is no regular file"):
        resolve(str(stats))
    place.unlink()
    place.symlink_to("/dev/zero")
    with pytest.raises(DataError, match="cannot be read as a manifest: is no regular file"):
        resolve(str(stats))
    # A link to nothing is no manifest.
    place.unlink()
    place.symlink_to(stats.parent / "nothing")
    assert resolve(str(stats)).made_by("digits") is None


def test_words_of_strangers_in_manifest_and_name_do_not_act_on_a_terminal(stats):
    text = json.loads(manifest_place(stats).read_text()) | {"extractor": "\x1b[2Jdigits", "source": "\x1b]0;x\x07"}
    manifest_place(stats).write_text(json.dumps(text))
    with pytest.raises(RequestError, match=r"are of extractor '\\x1b\[2Jdigits'"):
        resolve(str(stats)).check(DIGITS)
