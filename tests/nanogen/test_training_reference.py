"""The images of a run as the real ones that it is compared with."""

import json

import numpy as np
import pytest
from PIL import Image

from diffusionbench.errors import MissingPackageError
from diffusionbench.judges import efflite0
from diffusionbench.sample import Sample
from nanogen.config import compose
from nanogen.data.opening import open_dataset
from nanogen.evaluate import evaluate_run
from nanogen.reference import training_reference
from nanogen.train import check, train

WORDS = ("train.duration=2 steps", "train.batch_size=4", "sampler.num_steps=2", "data.image_size=16", "data.workers=0")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for index in range(24):
        place = tmp_path / "pics" / ("cats" if index < 12 else "dogs")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20 + index, 18, 3), dtype=np.uint8)).save(place / f"{index}.png")
    return tmp_path / "pics"


def composed(folder, *more):
    return compose("imagefolder", overrides=[*WORDS, f"data.path={folder}", *more])


def test_it_holds_the_images_as_they_are_trained_on_in_an_order_of_its_own(folder):
    config = composed(folder).config
    reference, data = training_reference(config), open_dataset("imagefolder", str(folder), image_size=16)
    assert (reference.name, reference.role, reference.count) == ("training images of pics", "train", 24)
    assert (reference.image_size, reference.classes, reference.num_classes) == ((16, 16), ("cats", "dogs"), 2)
    source = reference._source
    images = source.images([Sample(index) for index in range(24)])
    wanted = sorted((data[index].label, data[index].image.tobytes()) for index in range(24))
    assert sorted((label, one.tobytes()) for label, one in zip(source.labels, images, strict=True)) == wanted
    # The first images asked for are of both classes.
    assert set(reference.labels(8)) == {0, 1}
    assert training_reference(config).digest == reference.digest
    Image.fromarray(images[0]).save(folder / "cats" / "more.png")
    assert training_reference(config).digest != reference.digest


def test_no_more_than_the_most_are_compared_with(folder, monkeypatch):
    whole = training_reference(composed(folder).config).digest
    monkeypatch.setattr("nanogen.reference.MOST", 10)
    reference = training_reference(composed(folder).config)
    assert reference.count == len(reference.labels(10)) == 10
    assert reference.digest != whole


def test_a_run_is_compared_with_what_it_was_trained_on(folder, tmp_path):
    run = train(composed(folder, "eval.num_samples=12"), tmp_path / "run", "cpu", ["nanogen"])
    (file,) = (run.path / "evals").glob("*.json")
    record = json.loads(file.read_text())
    assert set(record["values"]) == {"fd_efflite0", "precision_efflite0", "recall_efflite0"}
    (found,) = record["protocol"]["references"].values()
    assert (found["name"], found["role"]) == ("training images of pics", "train")
    assert found["digest"] == training_reference(composed(folder).config).digest
    again = evaluate_run(run.path, [], False, tmp_path / "again.json")
    assert again.values["fd_efflite0"].value == record["values"]["fd_efflite0"]["value"]


def test_cifar10_is_judged_by_efflite0_too():
    config = compose("cifar10").config
    assert config.eval.metrics == ("fd_efflite0", "kd_efflite0", "precision_efflite0", "recall_efflite0")
    assert (config.eval.reference, config.eval.num_samples) == ("training", 10_000)
    assert compose("cifar10", scale="laptop").config.eval.num_samples == 1000


def test_a_missing_judge_is_named_before_training(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(efflite0, "find_weights", lambda: (_ for _ in ()).throw(MissingPackageError("no package")))
    with pytest.raises(MissingPackageError, match=r"no package To train without scores, set eval\.metrics=\[\]\."):
        check(composed(folder, "eval.num_samples=12"), "cpu", ["nanogen"])
    check(composed(folder, "eval.metrics=[]"), "cpu", ["nanogen"])
