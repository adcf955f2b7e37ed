"""What every metric promises on its way from images to a record: parts, processes and stores play no part."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from diffusionbench import judging, parts, runner
from diffusionbench.benchmarks.simpleeval.evidence import OPEN_RULE, SHAPES_RULE
from diffusionbench.images import save_png
from diffusionbench.judges import CHECKLISTS, CLIP_L14, FLAN_T5, JUDGES, QWEN, QWEN_ORIGINAL, JudgeSpec
from diffusionbench.judges.judge import Judge
from diffusionbench.metrics import METRICS
from diffusionbench.metrics.text_match import TextMatch
from diffusionbench.parts import Part, merge
from diffusionbench.prompts import PromptChoice
from diffusionbench.prompts.pinned import prepare_prompts
from diffusionbench.references.digits import DigitsReference
from diffusionbench.request import EvalRequest, Evaluation
from diffusionbench.sample import Sample
from diffusionbench.source import ArraySource, FolderSource, ImageSource, UnreadableImages

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


def detected(image, item, rng):
    """A row of a detector: some cats."""
    count = int(rng.integers(0, 4))
    return {"boxes": [{"label": "cat", "score": 0.9 - place / 100, "box": [place, 0, 8, 8]} for place in range(count)]}


def coloured(image, item, rng):
    """A row of what names the colours of those cats."""
    return {"colours": [COLOURS[int(rng.integers(2))] for _ in detected(image, item, rng)["boxes"]]}


def answered(image, item, rng):
    """A row of what answers all questions of an item."""
    asked = [one["question"] for one in item.detail["questions"]]
    return {"answers": [matched(image, item, rng) | {"question": question} for question in asked]}


def matched(image, item, rng):
    """A row of what says how well an image shows its text."""
    return {"question": "?", "answer": ("no", "yes")[int(rng.integers(2))], "probability": float(rng.random())}


COLOURS = ("red", "black")
# A row for each judge whose output is rows: a function of image, item and a generator seeded by the image. One that is
# not listed and is reduced by `TextMatch` gives what that reads.
ROWS = {
    "simpleeval_open": predictions(OPEN_RULE),
    "simpleeval_shapes": predictions(SHAPES_RULE),
    "coco_ssd": detected,
    "ssd_colours": coloured,
    **dict.fromkeys((f"mask2former{mode}" for mode in ("", "_upstream", "_original")), detected),
    **dict.fromkeys((f"clip_colours{mode}" for mode in ("", "_upstream", "_original")), coloured),
    **dict.fromkeys((row.name for row in CHECKLISTS), answered),
    **dict.fromkeys((row.name for row in (CLIP_L14, *FLAN_T5, *QWEN, *QWEN_ORIGINAL)), matched),
}
TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
# 240 images of items that hold what any judge asks for.
LINES = [
    {
        "key": f"asked/{n}",
        "prompt": f"{n} red cats",
        "tags": [TASKS[n % 6]],
        "detail": {
            "include": [{"class": "cat", "count": 1, "color": "red"}],
            "questions": [
                {"id": 1, "question": "Is there a cat?", "parents": [], "category": "entity - whole"},
                {"id": 2, "question": "Is it red?", "parents": [1], "category": "attribute - color"},
            ],
        },
    }
    for n in range(120)
]


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
            if row.pairs:
                return {"value": np.array([[rng.normal()] for rng in rngs]) * (1 + len(images) * 1e-12)}
            if row.output == "rows":
                return [ROWS.get(row.name, matched)(*one) for one in zip(images, items, rngs, strict=True)]
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
def key(request, monkeypatch, tmp_path, new_set):
    """A metric of the table, its judges replaced and its blocks small; benchmarks ask for `LINES`."""
    spec = METRICS[request.param]
    for name in METRICS[request.param].judges:
        row = JUDGES[name]
        assert row.output == "array" or name in ROWS or METRICS.load(request.param) is TextMatch, (
            f"give judge '{name}' an entry in ROWS of this test: a function of image, item and a generator to its row"
        )
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
    if spec.items == "prompts" and not str(spec.prompts).startswith("simpleeval"):
        prepare_prompts(new_set(LINES))
        monkeypatch.setitem(METRICS._rows, request.param, replace(spec, prompts="new"))
    monkeypatch.setattr(JUDGES, "load", lambda name: stand_in(JUDGES[name]))
    monkeypatch.setattr("diffusionbench.judges.deferred.self_test", lambda *given: "passed")
    monkeypatch.setattr("diffusionbench.metrics.kid._SUBSETS", 2)
    monkeypatch.setattr(DigitsReference, "anchors", lambda self, count: {})
    for module in (parts, judging):
        monkeypatch.setattr(module, "BLOCK", 100)
    return request.param


def asked(key: str, folder: Path) -> tuple[Evaluation, ImageSource]:
    """An evaluation of a metric and images for it, a few of them alike."""
    spec = METRICS[key]
    if spec.items == "originals":
        return reconstructed(key, folder)
    layout = "2x" if spec.prompts == "new" else "quick"
    choice = None if spec.prompts is None else PromptChoice(name=spec.prompts, layout=layout)
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


def reconstructed(key: str, folder: Path) -> tuple[Evaluation, ImageSource]:
    """The same for a metric of pairs: files, and originals of their names."""
    count = 230
    for name, seed in (("made", 0), ("real", 1)):
        images = np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
        for place, image in enumerate(images):
            save_png(image, folder / name / f"{place:03d}.png")
    request = EvalRequest(
        metrics=(key,),
        axis="reconstruction",
        reference=str(folder / "real"),
        count=count,
        method="noise",
        title="Noise",
    )
    source = FolderSource(folder / "made")
    source.preferred_batch = 30
    return Evaluation(request), source


def test_parts_processes_and_stores_play_no_part(key, tmp_path):
    evaluation, source = asked(key, tmp_path / "pictures")
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
    evaluation, source = asked(key, tmp_path / "pictures")
    whole = runner.run(evaluation, source)
    store = runner.open_store(evaluation, source, tmp_path / "store")
    blocks = -(-evaluation.request.count // 100)
    for number in reversed(range(1, blocks + 1)):
        runner.fill(evaluation, source, store, part=Part(number, blocks))
        runner.judge(tmp_path / "store", (key,), Part(number, blocks))
    assert runner.rescore(tmp_path / "store", (key,)).values == whole.values


def test_an_unreadable_image_is_counted_in_every_way(key, tmp_path):
    evaluation, source = asked(key, tmp_path / "pictures")
    lost = 7
    real = source.images

    def images(samples: list[Sample]):
        if any(sample.id == lost for sample in samples):
            raise UnreadableImages({lost: "image 7 is broken"})
        return real(samples)

    source.images = images
    for store in (None, tmp_path / "store"):
        record = runner.run(evaluation, source, store)
        value = record.values[key]
        assert value.status == "partial"
        assert "image 7 is broken" in record.unscored
        if METRICS[key].items != "prompts":
            assert (value.scored, value.unscored) == (evaluation.request.count - 1, 1)
