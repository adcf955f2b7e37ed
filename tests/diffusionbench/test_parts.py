"""Parts: every stage on a part, merged to the bits of one process; what does not fit together is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from diffusionbench import runner
from diffusionbench.errors import DataError, RequestError
from diffusionbench.judges import JUDGES
from diffusionbench.judges.digits import DigitsJudge
from diffusionbench.parts import BLOCK, Part, find_store, in_batches, merge, regrouped
from diffusionbench.record import load
from diffusionbench.references.digits import DigitsReference
from diffusionbench.sample import Sample
from diffusionbench.source import ArraySource

COUNT = 2300
METRICS = ("fd_digits", "is_digits", "precision_digits", "accuracy_digits")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (COUNT, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def source(images):
    """Images whose last bits depend on the batch, as those of a network may."""

    class Drifting(ArraySource):
        preferred_batch = 64

        def images(self, samples):
            made = super().images(samples).copy()
            made[:, 0, 0, 0] = len(samples)
            return made

    return Drifting(images, np.arange(COUNT) % 10, "noise")


@pytest.fixture(autouse=True)
def no_anchors(monkeypatch):
    monkeypatch.setattr(DigitsReference, "anchors", lambda self, count: {})


def asked(ask, **changes):
    return ask(**{"metrics": METRICS, "count": COUNT} | changes)


@pytest.fixture
def whole(ask, source, tmp_path):
    return runner.run(asked(ask), source, tmp_path / "whole")


@pytest.mark.parametrize("of", [1, 2, 3, 5])
def test_merged_parts_give_the_record_of_one_process(ask, source, tmp_path, whole, of, monkeypatch):
    folders = [tmp_path / f"part{number}" for number in range(1, of + 1)]
    # The last part first: nothing depends on when a part is made.
    for number in reversed(range(1, of + 1)):
        runner.run_part(asked(ask), source, folders[number - 1], Part(number, of))
    merge(tmp_path / "merged", folders[::-1])
    monkeypatch.setattr(DigitsJudge, "check", lambda: pytest.fail("weights were looked for"))
    monkeypatch.setattr(runner.JudgingPass, "load", lambda self: pytest.fail("weights were loaded"))
    merged = runner.rescore(tmp_path / "merged", METRICS)
    assert merged.id == whole.id
    assert merged.values == whole.values
    assert merged.breakdown == whole.breakdown
    assert merged.evidence == whole.evidence
    assert merged.provenance.images_digest == whole.provenance.images_digest


def test_stages_and_parts_on_one_store_give_it_too(ask, source, tmp_path, whole):
    store = runner.open_store(asked(ask), source, tmp_path / "shared")
    for number in (3, 1, 2):
        runner.fill(asked(ask), source, store, part=Part(number, 3))
    for number in (2, 3, 1):
        judged = runner.judge(tmp_path / "shared", METRICS, Part(number, 3))
        assert judged == {"digits": (len(Part(number, 3).span(COUNT)),) * 2}
    assert runner.judge(tmp_path / "shared", METRICS) == {"digits": (0, COUNT)}
    record = runner.rescore(tmp_path / "shared", METRICS)
    assert (record.id, record.values) == (whole.id, whole.values)


def test_parts_start_at_blocks_and_cover_everything_once():
    for count in (1, 999, 1000, 1001, 2300, 50_000):
        for of in (1, 2, 3, 5, 8, 60):
            spans = [Part(number, of).span(count) for number in range(1, of + 1)]
            assert [place for span in spans for place in span] == list(range(count))
            assert all(span.start % BLOCK == 0 for span in spans if span)
    assert [len(Part(number, 5).span(2300)) for number in range(1, 6)] == [0, 1000, 0, 1000, 300]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "-1/3", "a/b", "1/3/5", "1 / 3", "١/٣", "1/9999999"])
def test_what_names_no_part_is_refused(text):
    with pytest.raises(RequestError, match=r"is no part\. Give i/n with i from 1 to n"):
        Part.parse(text)
    assert Part.parse("2/8") == (2, 8)


def test_batches_start_anew_in_every_block_and_at_multiples(noise):
    samples = [Sample(place) for place in range(900, 2100) if place != 1003]
    groups = in_batches(samples, 64)
    assert [group[0].id for group in groups][:4] == [900, 960, 1000, 1064]
    assert [len(group) for group in groups][:4] == [60, 40, 63, 64]
    pixels = noise(len(samples))
    given = ((samples[start : start + 7], pixels[start : start + 7]) for start in range(0, len(samples), 7))
    found = list(regrouped(given, 64))
    assert [batch for batch, _ in found] == groups
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in found]), pixels)


@pytest.fixture
def parts(ask, source, tmp_path):
    """Two made and judged parts of accuracy."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for number, folder in enumerate(folders, 1):
        runner.run_part(asked(ask, metrics=("accuracy_digits",)), source, folder, Part(number, 2))
    return folders


def test_parts_that_overlap_or_are_missing_are_refused(ask, source, tmp_path, parts):
    with pytest.raises(RequestError, match=r"overlap: both hold image 0 \(1,000 images in all\)"):
        merge(tmp_path / "m", [parts[0], *parts])
    runner.run_part(asked(ask, metrics=("accuracy_digits",)), source, tmp_path / "other", Part(2, 3))
    with pytest.raises(RequestError, match=r"overlap: both hold image 1000 \(1,000 images in all\)"):
        merge(tmp_path / "m", [tmp_path / "other", parts[1]])
    with pytest.raises(RequestError, match=r"1,000 of 2,300 images are in none of the 1 .*\(first: 0, last: 999\)"):
        merge(tmp_path / "m", [parts[1]])
    assert not (tmp_path / "m").exists()
    with pytest.raises(DataError, match="is no image store"):
        merge(tmp_path / "m", [parts[0], tmp_path / "nothing"])
    with pytest.raises(DataError, match=r"lacks 1,000 of 2,300 images \(first: 0\)"):
        runner.rescore(parts[1], ("accuracy_digits",))


def test_parts_of_other_images_or_counts_are_refused(ask, source, images, tmp_path, parts):
    other = ArraySource(images[::-1].copy(), np.arange(COUNT) % 10, "other noise")
    runner.run_part(asked(ask, metrics=("accuracy_digits",)), other, tmp_path / "other", Part(2, 2))
    with pytest.raises(RequestError, match=r"holds images of other noise \(key .*\), and .* of noise"):
        merge(tmp_path / "m", [parts[0], tmp_path / "other"])
    runner.run_part(asked(ask, metrics=("accuracy_digits",), count=2000), source, tmp_path / "few", Part(2, 2))
    with pytest.raises(RequestError, match=r"is a part of 2,000 images, and .* one of 2,300"):
        merge(tmp_path / "m", [parts[0], tmp_path / "few"])


def test_parts_judged_by_different_judges_are_refused(ask, source, tmp_path, parts, monkeypatch):
    monkeypatch.setattr(DigitsJudge, "spec", replace(JUDGES["digits"], version=2))
    monkeypatch.setitem(JUDGES._rows, "digits", DigitsJudge.spec)
    runner.run_part(asked(ask, metrics=("accuracy_digits",)), source, tmp_path / "new", Part(2, 2))
    with pytest.raises(RequestError, match=r"is of judge 'digits', version 2, digest .* of version 1, digest"):
        merge(tmp_path / "m", [parts[0], tmp_path / "new"])
    # Judged again they fit; the evidence of before does not hinder.
    runner.judge(parts[0], ("accuracy_digits",))
    merge(tmp_path / "m", [parts[0], tmp_path / "new"])
    assert runner.rescore(tmp_path / "m", ("accuracy_digits",)).values["accuracy_digits"].scored == COUNT


def test_merging_again_and_after_a_kill_ends_the_same(tmp_path, parts, monkeypatch):
    merge(tmp_path / "undisturbed", parts)
    wanted = sorted(path.relative_to(tmp_path / "undisturbed") for path in (tmp_path / "undisturbed").rglob("*"))
    real = shutil.copyfileobj
    for after in (0, 1, 20, 33):
        copied = []

        def dies(source, target, copied=copied, after=after):
            if len(copied) == after:
                raise KeyboardInterrupt
            copied.append(1)
            real(source, target)

        with monkeypatch.context() as during:
            during.setattr(shutil, "copyfileobj", dies)
            with pytest.raises(KeyboardInterrupt):
                merge(tmp_path / f"m{after}", parts)
        merge(tmp_path / f"m{after}", parts)
        with monkeypatch.context() as during:
            during.setattr(shutil, "copyfileobj", lambda *given: pytest.fail("copied again"))
            merge(tmp_path / f"m{after}", parts)
        found = sorted(path.relative_to(tmp_path / f"m{after}") for path in (tmp_path / f"m{after}").rglob("*"))
        assert found == wanted


@pytest.mark.timeout(600)
def test_the_stages_as_commands(bench, images, tmp_path):
    np.savez(tmp_path / "a.npz", arr_0=images[:1300], arr_1=np.arange(1300) % 10)
    metrics = ("--metrics", "accuracy_digits,fd_digits")
    real = ("--reference", "digits")
    assert bench("run", "a.npz", *real, *metrics, "--store", "w", "--out", "whole.json")[0] == 0
    for part, number in (("1/2", 1000), ("2/2", 300)):
        code, out, err = bench("sample", "a.npz", *real, "--store", f"p{part[0]}", "--part", part)
        assert code == 0, err
        assert f"{number:,} of 1,300 images" in out
        code, out, err = bench("judge", f"p{part[0]}", *metrics, "--part", part, "--json")
        assert (code, json.loads(out)) == (0, {"digits": {"judged": number, "images": number}})
    assert bench("judge", "p1", *metrics)[1] == "digits: 0 images judged now, of 1,000 here\n"
    code, out, err = bench("merge", "m", "p1", "p2")
    assert code == 0, err
    assert "1,300 images of 2 parts" in out
    code, _, err = bench("score", "m", *real, *metrics, "--out", "merged.json")
    assert code == 0, err
    merged, whole = load(tmp_path / "merged.json"), load(tmp_path / "whole.json")
    assert (merged.id, merged.values, merged.anchors) == (whole.id, whole.values, whole.anchors)
    # A part of everything at once.
    assert bench("run", "a.npz", *real, *metrics, "--store", "q", "--part", "2/2")[0] == 0
    assert len(find_store(tmp_path / "q").ids()) == 300


@pytest.mark.parametrize(
    "words, said",
    [
        (("--part", "1/2"), "a part is kept in a store, and none was named"),
        (("--part", "3/2", "--store", "s"), "'3/2' is no part"),
        (("--part", "1/2", "--store", "s", "--out", "r.json"), "a part has no record"),
        (("--part", "1/2", "--store", "s", "--keep", "moments"), "--keep moments keeps no features on the disk"),
        (("--keep", "moments"), "--keep says what a store keeps, and none was named"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(bench, write, noise, tmp_path, words, said):
    write(tmp_path / "images", noise(20), np.arange(20) % 10)
    code, out, err = bench("run", "images", "--metrics", "accuracy_digits", *words)
    assert (code, out) == (2, "")
    assert said in err
    assert not (tmp_path / "s").exists()


def test_sampling_needs_a_store_and_no_metric(bench, write, noise, tmp_path):
    write(tmp_path / "images", noise(20), np.arange(20) % 10)
    assert "none was named. Name a folder with --store" in bench("sample", "images")[2]
    assert bench("sample", "images", "--store", "s", "--dry-run")[0] == 0
    assert not (tmp_path / "s").exists()
    assert bench("sample", "images", "--store", "s")[0] == 0
    code, out, err = bench("score", "s", "--metrics", "accuracy_digits", "--json")
    assert code == 0, err
    assert '"scored": 20' in out
    assert "no metric was asked for" in bench("judge", "s")[2]
    assert "asks for prompts" not in bench("sample", "images", "--store", "t", "--axis", "t2i")[2]
