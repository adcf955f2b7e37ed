"""From request to record: one pass, the same number by every way, anchors at equal counts, nothing dropped."""

import hashlib
import json
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from making import ConstantSource
from PIL import Image

from diffusionbench import runner
from diffusionbench.errors import DataError, RequestError, RunError
from diffusionbench.judges import JUDGES
from diffusionbench.judges.digits import DigitsJudge
from diffusionbench.metrics import METRICS, MetricSpec
from diffusionbench.metrics.metric import Metric
from diffusionbench.record import PER_SAMPLE, Tuning, attachment, load
from diffusionbench.references import digits
from diffusionbench.request import EvalRequest, Evaluation, Sampling
from diffusionbench.sample import Sample
from diffusionbench.source import ArraySource, FolderSource
from diffusionbench.stats import Estimate

DIGITS = tuple(key for key in METRICS.with_code if key.endswith("_digits"))


class Spy(Metric):
    """A metric that remembers what it was fed; its value is the mean of the first feature."""

    made: ClassVar[list] = []

    def __init__(self, spec, context):
        super().__init__(spec, context)
        self.made.append(self)

    def compute(self):
        firsts = self.rows[:, 0].astype(np.float64)
        return Estimate(value=float(firsts.mean()), stderr=None, interval=None, method="none", scored=len(firsts))


def spec(key, judge="digits", higher=True, min_samples=1):
    return MetricSpec(key=key, title=key, higher_is_better=higher, judges=(judge,), min_samples=min_samples)


@pytest.fixture
def metric(monkeypatch):
    """A function that adds a row of the table and its code for one test."""

    def register(row: MetricSpec, code=Spy) -> str:
        monkeypatch.setitem(METRICS._rows, row.key, row)
        real = METRICS.load
        monkeypatch.setattr(METRICS, "load", lambda name: code if name == row.key else real(name))
        return row.key

    return register


@pytest.fixture(scope="module")
def real():
    """Held-out digits and labels."""
    return digits.read("held_out")


@pytest.fixture(scope="module")
def record(held_out):
    """Every digits metric on the held-out images."""
    request = EvalRequest(
        metrics=DIGITS,
        reference="digits",
        count=359,
        seed=3,
        method="real",
        title="Real",
        family="reference",
        sampling=Sampling(sampler="euler", num_steps=50, quantisation="truncate", ema=True),
        config_hash="c",
        step=7,
    )
    return runner.run(Evaluation(request), FolderSource(held_out))


def test_the_whole_record_of_a_folder(record, held_out, tmp_path):
    assert set(DIGITS) <= set(record.values)
    for key in DIGITS:
        value = record.values[key]
        assert value.scored == 359
        assert value.unscored == 0
        assert value.interval is not None
        assert value.interval[0] <= value.value <= value.interval[1]
        assert record.anchors["held_out"][key].scored == 359
        assert record.anchors["class_means"][key].scored == 359
    protocol, provenance = record.protocol, record.provenance
    assert (protocol.axis, protocol.count, protocol.seed) == ("class_conditional", 359, None)
    assert (protocol.sampler, protocol.num_steps, protocol.quantisation, protocol.ema) == (
        "euler",
        50,
        "truncate",
        True,
    )
    assert {name: used.digest for name, used in protocol.judges.items()} == {"digits": DigitsJudge().digest}
    used = protocol.references["digits"]
    assert (used.name, used.digest) == ("digits", digits.DigitsReference().digest)
    assert not record.partial
    assert provenance.source == f"folder {held_out}"
    assert (provenance.config_hash, provenance.step) == ("c", 7)
    assert {"python", "torch", "numpy"} <= set(provenance.packages)
    assert provenance.hardware
    assert provenance.created
    assert provenance.wall_seconds > 0
    assert len(provenance.images_digest) == 64
    record.save(tmp_path / "record.json")
    assert load(tmp_path / "record.json") == record


def test_real_images_score_as_their_anchor_and_class_means_lie_far_off(record):
    held_out, means = record.anchors["held_out"], record.anchors["class_means"]
    for key in ("fd_digits", "precision_digits", "recall_digits", "accuracy_digits"):
        assert record.values[key].value == pytest.approx(held_out[key].value, rel=1e-5)
    assert held_out["fd_digits"].value < 2
    assert means["fd_digits"].value > 10 * held_out["fd_digits"].value
    assert means["recall_digits"].value < 0.05 < 0.8 < held_out["recall_digits"].value
    assert held_out["accuracy_digits"].value >= 0.98


def test_every_way_gives_the_same_record(ask, real, tmp_path, held_out):
    request = ask(metrics=("fd_digits", "accuracy_digits"), count=150)
    source = ArraySource(*real, "real")

    def core(record):
        return record.id, record.values, record.provenance.images_digest

    streamed = runner.run(request, source)
    kept = runner.run(request, source, tmp_path / "one")
    assert core(kept) == core(streamed)
    # Anchors that are among the images have other neighbours in a batch where evidence is kept.
    for name, anchor in streamed.anchors.items():
        for key, value in anchor.items():
            assert kept.anchors[name][key].value == pytest.approx(value.value, rel=1e-5)
    store = runner.open_store(request, source, tmp_path / "three")
    for rank in (2, 0, 1):
        runner.fill(request, source, store, rank, 3)
    assert core(runner.score(request, store)) == core(streamed)
    one_by_one = ArraySource(*real, "real")
    one_by_one.preferred_batch = 7
    odd = runner.run(request, one_by_one)
    assert odd.provenance.images_digest == streamed.provenance.images_digest
    for key, value in streamed.values.items():
        assert odd.values[key].value == pytest.approx(value.value, rel=1e-5)


def test_a_store_is_scored_again_without_its_source(ask, real, tmp_path):
    source = ArraySource(*real, "real")
    first = runner.run(ask(metrics=("accuracy_digits",), count=359), source, tmp_path)
    source.images = None  # type: ignore[assignment]
    again = runner.rescore(tmp_path, ("fd_digits",))
    assert again.provenance.images_digest == first.provenance.images_digest
    assert again.values["fd_digits"].scored == 359
    direct = runner.run(ask(metrics=("fd_digits",), count=359), ArraySource(*real, "real"))
    assert again.values == direct.values
    assert again.id == direct.id
    with pytest.raises(RequestError, match="unknown reference"):
        runner.rescore(tmp_path, ("fd_digits",), "digitss")


@pytest.mark.parametrize("lost", ["0000000.images", "0000256.images", "0000256.json"])
def test_a_store_that_lacks_images_is_not_scored_as_if_it_were_whole(ask, noise, tmp_path, lost):
    runner.run(ask(metrics=("fd_digits",), count=300), ArraySource(noise(300), None, "noise"), tmp_path)
    (chunk,) = tmp_path.glob(f"*/{lost}")
    chunk.write_bytes(chunk.read_bytes()[:100])
    with pytest.raises(DataError, match=rf"lacks \d+ of 300 images \(first: {int(lost[:7])}\)"):
        runner.rescore(tmp_path, ("fd_digits",))


def test_a_store_that_was_filled_further_is_scored_as_a_whole(ask, noise, tmp_path):
    source = ArraySource(noise(300), None, "noise")
    for count in (200, 300):
        runner.run(ask(metrics=("fd_digits",), count=count), source, tmp_path)
    assert runner.rescore(tmp_path, ("fd_digits",)).values["fd_digits"].scored == 300
    next(tmp_path.glob("*/0000128.json")).unlink()
    with pytest.raises(DataError, match=r"of 300 images \(first: 128\)"):
        runner.rescore(tmp_path, ("fd_digits",))


def test_a_folder_with_two_stores_asks_which(ask, noise, tmp_path):
    for seed in (0, 1):
        runner.run(ask(), ArraySource(noise(20, seed=seed), np.arange(20) % 10, "noise"), tmp_path)
    with pytest.raises(DataError, match="holds 2 image stores"):
        runner.rescore(tmp_path, ("accuracy_digits",))
    with pytest.raises(DataError, match="no image store"):
        runner.rescore(tmp_path / "nothing", ("accuracy_digits",))


def test_each_judge_sees_each_image_once(ask, metric, noise, monkeypatch):
    seen = []
    real = DigitsJudge.__call__

    def counted(self, images, *given):
        seen.append(len(images))
        return real(self, images, *given)

    monkeypatch.setattr(DigitsJudge, "__call__", counted)
    key = metric(spec("spy"))
    request = ask(metrics=(key, "accuracy_digits"), count=100, reference=None)
    runner.run(request, ArraySource(noise(100), np.arange(100) % 10, "noise"))
    # The self-test, then the images.
    assert seen == [8, 50, 50]
    assert [sample.id for sample in Spy.made[-1].seen.scored] == list(range(100))
    assert [sample.label for sample in Spy.made[-1].seen.scored] == [index % 10 for index in range(100)]


def test_anchors_have_the_generated_count_and_say_where_they_cannot(ask, metric, noise):
    key = metric(spec("spy"))
    small = runner.run(ask(metrics=(key,), count=40), ArraySource(noise(40), None, "noise"))
    assert {name: values[key].scored for name, values in small.anchors.items()} == {"held_out": 40, "class_means": 40}
    assert not [note for note in small.protocol.notes if note.startswith("anchor")]
    large = runner.run(ask(metrics=(key,), count=400), ArraySource(noise(400), None, "noise"))
    assert {values[key].scored for values in large.anchors.values()} == {359}
    assert "anchor held_out: 359 images, the generated set has 400" in large.protocol.notes


def test_an_anchor_too_small_for_a_metric_is_left_out_and_named(ask, metric, noise):
    key = metric(spec("greedy", min_samples=380))
    record = runner.run(ask(metrics=(key,), count=400), ArraySource(noise(400), None, "noise"))
    assert record.anchors == {"held_out": {}, "class_means": {}}
    assert any("359 images are too few for greedy" in note for note in record.protocol.notes)


def test_unreadable_images_are_named_counted_and_left_out(ask, noise, write, tmp_path):
    labels = np.arange(20) % 10
    folder = write(tmp_path / "set", noise(20), labels)
    broken = sorted(folder.rglob("*.png"))[5]
    broken.write_bytes(b"broken")
    for store in (None, tmp_path / "store"):
        record = runner.run(ask(), FolderSource(folder), store)
        assert record.partial
        assert len(record.unscored) == 1
        assert str(broken) in record.unscored[0]
        value = record.values["accuracy_digits"]
        assert (value.scored, value.unscored) == (19, 1)
        # Equal counts: the anchors shrink with the set.
        assert record.anchors["held_out"]["accuracy_digits"].scored == 19
    whole = [file for file in sorted(folder.rglob("*.png")) if file != broken]
    again = ArraySource(
        np.concatenate([FolderSource(file.parent).images([_place(file)]) for file in whole]),
        [int(file.parent.name) for file in whole],
        "the others",
    )
    assert runner.run(ask(count=19), again).values["accuracy_digits"].value == value.value


def _place(file):
    return Sample(sorted(file.parent.iterdir()).index(file))


def test_nothing_readable_or_too_little_is_an_error(ask, noise, write, tmp_path, metric):
    folder = write(tmp_path / "set", noise(20), np.arange(20) % 10)
    files = sorted(folder.rglob("*.png"))
    files[0].write_bytes(b"broken")
    key = metric(spec("greedy", min_samples=20))
    with pytest.raises(RequestError, match=r"needs at least 20 images; of 20 only 19 can be read"):
        runner.run(ask(metrics=(key,)), FolderSource(folder))
    for file in files:
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"none of the 20 images .* can be read"):
        runner.run(ask(), FolderSource(folder), tmp_path / "store")


class Parted(Spy):
    """A spy with a part, and values of single images of which the last is missing."""

    def compute(self):
        whole = super().compute()
        return replace(
            whole, parts={"spy_half": whole}, per_sample={sample.id: 1.0 for sample in self.seen.scored[:-1]}
        )


def test_parts_of_a_metric_count_what_could_not_be_read(ask, noise, write, tmp_path, metric):
    folder = write(tmp_path / "set", noise(20), np.arange(20) % 10)
    sorted(folder.rglob("*.png"))[5].write_bytes(b"broken")
    key = metric(spec("spy", higher=False), Parted)
    record = runner.run(ask(metrics=(key,), reference=None), FolderSource(folder))
    assert {name: (value.scored, value.unscored) for name, value in record.values.items()} == {
        "spy": (19, 1),
        "spy_half": (19, 1),
    }
    assert record.values["spy"].higher_is_better is False
    # A class keeps its mean without the images that have no value, and says so.
    found = {name: (part["spy"].scored, part["spy"].unscored) for name, part in record.breakdown.items()}
    assert found == {f"class {label}": (1, 1) if label == 9 else (2, 0) for label in range(10)} | {"class 2": (1, 0)}
    assert record.breakdown["class 9"]["spy"].status == "partial"


def test_the_time_of_making_images_counts(ask, noise, tmp_path, monkeypatch):
    request, source = ask(reference=None), ArraySource(noise(20), np.arange(20) % 10, "noise")
    store = runner.open_store(request, source, tmp_path)
    runner.fill(request, source, store)
    monkeypatch.setattr(store, "seconds", lambda: 1000.0)
    assert runner.score(request, store).provenance.wall_seconds > 1000


def test_one_judge_that_fails_its_self_test_stops_before_an_image_is_made(ask, noise, metric, monkeypatch, tmp_path):
    class Broken(DigitsJudge):
        def self_test(self):
            return float("nan")

    real = JUDGES.load
    monkeypatch.setattr(JUDGES, "load", lambda name: Broken if name == "broken" else real(name))
    monkeypatch.setitem(JUDGES._rows, "broken", replace(JUDGES["digits"], name="broken"))
    key = metric(spec("spy", judge="broken"))
    source = ArraySource(noise(20), np.arange(20) % 10, "noise")
    monkeypatch.setattr(source, "images", lambda samples: pytest.fail("an image was made"))
    for store in (None, tmp_path):
        with pytest.raises(RunError, match=r"fails its self-test: .* shipped with \(largest relative deviation nan"):
            runner.run(ask(metrics=("accuracy_digits", key), reference=None), source, store)


def test_sizes_unknown_before_the_first_image_are_checked_on_it(ask, noise, monkeypatch):
    monkeypatch.setattr(digits.DigitsReference, "image_size", (8, 8))

    class Unknown(ArraySource):
        image_size = None

    with pytest.raises(RequestError, match=r"images are 9x9, and reference 'digits' needs 8x8"):
        runner.run(ask(), Unknown(noise(20, size=9), np.arange(20) % 10, "noise"))


def test_a_device_that_is_not_there_is_refused(ask, noise):
    source = ArraySource(noise(20), np.arange(20) % 10, "noise")
    with pytest.raises(RequestError, match="device 'gpu' cannot be used"):
        runner.run(ask(), source, device="gpu")


def test_a_class_has_its_own_values(ask, real):
    images, labels = real
    record = runner.run(
        ask(count=359), ArraySource(images, (labels + (labels == 3)) % 10, "real, threes asked as fours")
    )
    classes = {name: values["accuracy_digits"] for name, values in record.breakdown.items()}
    assert set(classes) == {f"class {label}" for label in range(10) if label != 3}
    assert classes["class 0"].value == 1
    fours = (labels == 4).sum() / ((labels == 3) | (labels == 4)).sum()
    assert classes["class 4"].value == pytest.approx(fours, abs=0.03)
    assert sum(value.scored for value in classes.values()) == 359


def test_stored_images_are_not_scored_by_what_was_never_asked(ask, noise, tmp_path, monkeypatch):
    runner.run(ask(metrics=("fd_digits",)), ArraySource(noise(20), None, "no labels"), tmp_path)
    monkeypatch.setattr(runner, "score", lambda *given: pytest.fail("scored"))
    with pytest.raises(RequestError, match=r"'accuracy_digits' needs the class .* image 0 has no label"):
        runner.rescore(tmp_path, ("accuracy_digits",))
    with pytest.raises(RequestError, match=r"'simpleeval_shapes_v1' judges images by the prompts"):
        runner.rescore(tmp_path, ("simpleeval_shapes_v1",))


def test_repeated_images_are_counted(ask, noise):
    images = noise(20)
    images[[4, 9]] = images[0]
    record = runner.run(ask(), ArraySource(images, np.arange(20) % 10, "noise"))
    assert record.extra["duplicates"] == {"count": 2, "first": [[0, 4], [0, 9]]}
    images[1:9] = images[0]
    record = runner.run(ask(), ArraySource(images, np.arange(20) % 10, "noise"))
    assert record.extra["duplicates"] == {"count": 9, "first": [[0, place] for place in range(1, 6)]}
    clean = runner.run(ask(), ArraySource(noise(20), np.arange(20) % 10, "noise"))
    assert "duplicates" not in clean.extra


def test_the_id_follows_protocol_and_pixels_not_the_clock(ask, noise):
    labels = np.arange(20) % 10
    source = ArraySource(noise(20), labels, "noise")
    first = runner.run(ask(), source)
    assert runner.run(ask(), source).id == first.id
    # Of images that exist already no seed is known.
    assert runner.run(ask(seed=1), source).id == first.id
    assert runner.run(ask(protocol="other"), source).id != first.id
    assert runner.run(ask(), ArraySource(noise(20, seed=1), labels, "noise")).id != first.id
    odd = runner.run(ask(method="Größe / Tiny"), source)
    assert odd.id.startswith("gr-e-tiny-")


def test_evaluating_draws_nothing_from_the_trainings_generator(ask, noise, monkeypatch):
    class Careless(DigitsJudge):
        def __init__(self, device="cpu"):
            torch.randn(3)
            super().__init__(device)

    monkeypatch.setattr(JUDGES, "load", lambda name: Careless)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    runner.run(ask(), ArraySource(noise(20), np.arange(20) % 10, "noise"))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_progress_reaches_its_end(ask, real, tmp_path):
    told = []
    runner.run(ask(count=150), ArraySource(*real, "real"), tmp_path, progress=lambda *facts: told.append(facts))
    assert {what for what, _, _ in told} == {"images", "scored", "anchor held_out", "anchor class_means"}
    for what in ("images", "scored"):
        assert [facts for facts in told if facts[0] == what][-1] == (what, 150, 150)


@pytest.mark.parametrize(
    "suffix, form, stated", [("jpg", "JPEG", "jpeg"), ("png", "PNG", "png"), ("webp", "WEBP", "webp")]
)
def test_the_format_of_images_that_exist_already_is_part_of_the_protocol(ask, noise, tmp_path, suffix, form, stated):
    for place, image in enumerate(noise(20)):
        Image.fromarray(image).save(tmp_path / f"{place}.{suffix}", form)
    source = FolderSource(tmp_path, [place % 10 for place in range(20)])
    for store in (None, tmp_path / "store"):
        record = runner.run(ask(), source, store)
        assert (record.protocol.image_format, record.protocol.seed) == (stated, None)
    made = runner.run(ask(count=20, seed=7), ConstantSource((8, 8)))
    assert (made.protocol.image_format, made.protocol.seed) == (None, 7)


def test_what_is_said_of_tuning_stands_in_the_protocol(ask, noise):
    source, tuning = ArraySource(noise(20), np.arange(20) % 10, "noise"), Tuning(split="train", seeds=(1, 2), count=20)
    assert runner.run(ask(tuning=tuning), source).protocol.tuning == tuning


def test_values_of_single_images_lie_beside_the_record(ask, noise, write, tmp_path):
    folder, images = write(tmp_path / "set", noise(20), np.arange(20) % 10), noise(20)
    record = runner.run(ask(metrics=("accuracy_digits", "is_digits"), reference=None), FolderSource(folder))
    record.save(tmp_path / "record.json")
    found = json.loads(attachment(load(tmp_path / "record.json"), tmp_path / "record.json", PER_SAMPLE))
    assert found["values"].keys() == {"accuracy_digits"}
    assert np.mean(found["values"]["accuracy_digits"]) == pytest.approx(record.values["accuracy_digits"].value)
    order = np.argsort(np.arange(20) % 10, kind="stable")
    hashes = [hashlib.sha256(images[place].tobytes()).hexdigest() for place in order]
    assert found["samples"] == [[i, f"class/{i // 2}", i % 2, sha256] for i, sha256 in enumerate(hashes)]
    assert {value.judges for value in record.values.values()} == {("digits",)}
