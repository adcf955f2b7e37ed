"""What every metric promises on its way from images to a record: parts, processes and stores play no part."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from diffusionbench import judging, parts, runner
from diffusionbench.benchmarks.simpleeval.evidence import OPEN_RULE, SHAPES_RULE
from diffusionbench.judges import JUDGES, JudgeSpec
from diffusionbench.judges.judge import Judge
from diffusionbench.metrics import METRICS
from diffusionbench.parts import Part, merge
from diffusionbench.prompts import PromptChoice
from diffusionbench.references.digits import DigitsReference
from diffusionbench.request import EvalRequest, Evaluation
from diffusionbench.sample import Sample
from diffusionbench.source import ArraySource, UnreadableImages

SIDE = 8


def predictions(rule):
    """A row of one of SimpleEval's judges: what the scorers say, drawn from the image's hash."""

    def row(image, item, rng):
        questions = item.detail["prompt"].questions
        copies = 1 + len(rule.mirrored)
        said = [
            [[int(rng.integers(-1, len(asked.options))) for asked in questions] for _ in range(copies)]
            for _ in rule.names
        ]
        return {
            "predictions": said,
            "thumbnail": rng.integers(0, 256, 192).tolist(),
            "hash": rng.integers(0, 2, 64).tolist(),
        }

    return row


# A row for each judge whose output is rows: a function of image, item and a generator seeded by the image.
ROWS = {"simpleeval_open": predictions(OPEN_RULE), "simpleeval_shapes": predictions(SHAPES_RULE)}


def stand_in(row: JudgeSpec) -> type[Judge]:
    """A judge in the place of a row's own: its evidence follows from the image's hash, its last bits from the batch."""

    class StandIn(Judge):
        spec = row
        digest = hashlib.sha256(row.name.encode()).hexdigest()

        @classmethod
        def check(cls):
            return None

        @classmethod
        def questions(cls, item):
            return JUDGES_LOAD(row.name).questions(item)

        def self_test(self):
            return 0.0

        def __call__(self, images, items=(), given=None):
            rngs = [np.random.default_rng([*hashlib.sha256(image.tobytes()).digest()[:8]]) for image in images]
            if row.output == "rows":
                return [ROWS[row.name](*one) for one in zip(images, items, rngs, strict=True)]
            widths = {"features": min(row.dim, 16), "logits": row.num_classes or 0}
            # Inception's logits have no classes that a request could ask for.
            widths["logits"] = widths["logits"] or 10
            drift = np.float32(1 + len(images) * 1e-7)
            found = {
                name: np.stack([rng.normal(size=width) for rng in rngs]).astype(np.float32) * drift
                for name, width in widths.items()
                if width
            }
            return {**found, "images": images} if row.name == "pixels" else found

    return StandIn


JUDGES_LOAD = JUDGES.load


@pytest.fixture(params=METRICS.with_code)
def key(request, monkeypatch, tmp_path):
    """A metric of the table, its judges replaced and its blocks small."""
    for name in METRICS[request.param].judges:
        row = JUDGES[name]
        assert row.output == "array" or name in ROWS, f"judge '{name}' needs an entry in ROWS of this test"
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(JUDGES, "load", lambda name: stand_in(JUDGES[name]))
    monkeypatch.setattr("diffusionbench.judges.deferred.self_test", lambda *given: "passed")
    monkeypatch.setattr("diffusionbench.metrics.kid._SUBSETS", 2)
    monkeypatch.setattr(DigitsReference, "anchors", lambda self, count: {})
    for module in (parts, judging):
        monkeypatch.setattr(module, "BLOCK", 100)
    return request.param


def asked(key: str) -> tuple[Evaluation, ArraySource]:
    """An evaluation of a metric and images for it, a few of them alike."""
    spec = METRICS[key]
    choice = None if spec.prompts is None else PromptChoice(name=spec.prompts, layout="quick")
    axis = "t2i" if spec.items == "prompts" else spec.axis
    request = EvalRequest(
        metrics=(key,),
        axis=axis or "class_conditional",
        reference="digits" if spec.reference else None,
        prompts=choice,
        count=1,
        method="noise",
        title="Noise",
    )
    evaluation = Evaluation(request)
    count = max(230, spec.min_samples + 7) if evaluation.prompts is None else evaluation.prompts.count
    images = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    # The last class of the judge is among them.
    classes = JUDGES[spec.judges[0]].num_classes if spec.items == "classes" else 10
    source = ArraySource(images, np.arange(count) * (classes - 1) // (count - 1), "noise")
    if evaluation.prompts is not None:
        source.labels = None
    source.preferred_batch = 30
    return evaluation.updated(count=count), source


def test_parts_processes_and_stores_play_no_part(key, tmp_path):
    evaluation, source = asked(key)
    whole = runner.run(evaluation, source, tmp_path / "whole")
    streamed = runner.run(evaluation, source)
    shared = runner.open_store(evaluation, source, tmp_path / "shared")
    for rank in (1, 0, 2):
        runner.fill(evaluation, source, shared, rank, 3)
    together = runner.score(evaluation, shared)
    folders = [tmp_path / f"part{number}" for number in (1, 2, 3)]
    for number, folder in enumerate(folders, 1):
        runner.run_part(evaluation, source, folder, Part(number, 3))
    merge(tmp_path / "merged", folders)
    merged = runner.rescore(tmp_path / "merged", (key,))
    for other in (streamed, together, merged):
        assert other.values == whole.values
        assert other.id == whole.id
        assert other.evidence == whole.evidence
    assert whole.values[key].scored


def test_the_order_of_images_plays_no_part_beside_their_ids(key, tmp_path):
    """Scored from a store whose parts were judged backwards."""
    evaluation, source = asked(key)
    whole = runner.run(evaluation, source)
    store = runner.open_store(evaluation, source, tmp_path)
    blocks = -(-evaluation.request.count // 100)
    for number in reversed(range(1, blocks + 1)):
        runner.fill(evaluation, source, store, part=Part(number, blocks))
        runner.judge(tmp_path, (key,), Part(number, blocks))
    assert runner.rescore(tmp_path, (key,)).values == whole.values


def test_an_unreadable_image_is_counted_in_every_way(key, tmp_path):
    evaluation, source = asked(key)
    lost = 7
    real = source.images

    def images(samples: list[Sample]):
        if any(sample.id == lost for sample in samples):
            raise UnreadableImages({lost: "image 7 is broken"})
        return real(samples)

    source.images = images
    for store in (None, tmp_path):
        record = runner.run(evaluation, source, store)
        value = record.values[key]
        assert value.status == "partial"
        assert "image 7 is broken" in record.unscored
        if METRICS[key].items != "prompts":
            assert (value.scored, value.unscored) == (evaluation.request.count - 1, 1)
