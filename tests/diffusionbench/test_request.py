"""What is refused before a weight is loaded or an image is made, and in which words."""

from dataclasses import replace

import numpy as np
import pytest
from making import ConstantSource
from pydantic import ValidationError

from diffusionbench.axes.axis import Asked, ClassConditional
from diffusionbench.errors import MissingPackageError, RequestError, UserError
from diffusionbench.judges import JUDGES
from diffusionbench.judges import digits as judge
from diffusionbench.prompts import PromptChoice
from diffusionbench.references.digits import DigitsReference
from diffusionbench.registry import require
from diffusionbench.request import EvalRequest
from diffusionbench.source import ArraySource


@pytest.fixture
def given(noise):
    """A function: labelled images that exist already."""

    def make(count=20, size=8, labels=True):
        return ArraySource(noise(count, size), np.arange(count) % 10 if labels else None, "some images")

    return make


def test_a_good_request_passes_and_survives_storage(ask, given):
    request = ask()
    request.check(given())
    request.check(ConstantSource((8, 8)))
    stored = request.request
    assert EvalRequest.model_validate_json(stored.model_dump_json()) == stored


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"metrics": ("fd_digit",)}, r"unknown metric 'fd_digit'\. Did you mean 'fd_digits'\?"),
        ({"axis": "class"}, r"unknown axis 'class'\. "),
        ({"reference": "digit"}, r"unknown reference 'digit'.* Did you mean 'digits'\?"),
        ({"reference": "no/such/folder"}, r"it is no name and no file or folder"),
        ({"metrics": ("fd_digits",), "reference": None}, r"metric 'fd_digits' .* needs a reference"),
        ({"count": 21}, r"21 images were asked for and there are 20"),
        ({"metrics": ("kd_digits",)}, r"metric 'kd_digits' needs at least 200 images, and 20"),
        ({"metrics": ("kd_digits",), "count": 199}, r"metric 'kd_digits' needs at least 200 images, and 199"),
    ],
)
def test_wrong_names_and_numbers_are_refused(ask, given, changes, message):
    with pytest.raises(UserError, match=message):
        ask(**changes).check(given())


def test_no_metric_or_one_metric_twice_is_refused(ask, given):
    with pytest.raises(RequestError, match="no metric was asked for"):
        ask(metrics=()).check(given())
    ask(metrics=()).check_images(given())
    with pytest.raises(RequestError, match="'fd_digits' is asked for twice"):
        ask(metrics=("fd_digits", "accuracy_digits", "fd_digits"))
    with pytest.raises(ValidationError):
        ask(count=0)
    with pytest.raises(ValidationError):
        ask(guidance=2.0)


def test_images_of_the_wrong_size_are_refused(ask, given, monkeypatch):
    ask().check(given(size=9))
    monkeypatch.setattr(DigitsReference, "image_size", (8, 8))
    with pytest.raises(RequestError, match=r"images are 9x9, and reference 'digits' needs 8x8"):
        ask().check(given(size=9))
    with pytest.raises(RequestError, match=r"images are 8x9, and reference 'digits' needs 8x8"):
        ask().check(ConstantSource((8, 9)))
    monkeypatch.setitem(JUDGES._rows, "digits", replace(JUDGES["digits"], image_size=(8, 8)))
    with pytest.raises(RequestError, match=r"images are 9x9, and judge 'digits' needs 8x8"):
        ask(reference=None).check(given(size=9))


def test_labels_are_needed_where_a_metric_judges_them(ask, given):
    with pytest.raises(RequestError, match=r"'accuracy_digits' needs the class .* image 0 has no label"):
        ask().check(given(labels=False))
    ask(metrics=("fd_digits",)).check(given(labels=False))


SHAPES = "simpleeval_shapes_v1"


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"metrics": (SHAPES,)},
            rf"metric '{SHAPES}' judges .* by the prompts .* axis 'class_conditional' asks for classes",
        ),
        ({"metrics": ("fd_digits", SHAPES)}, rf"metric '{SHAPES}' judges"),
        ({"prompts": PromptChoice(name=SHAPES)}, rf"prompt set '{SHAPES}' was given, .* asks for classes"),
        (
            {"axis": "t2i", "prompts": PromptChoice(name=SHAPES)},
            r"'accuracy_digits' judges .* by the classes .* axis 't2i' asks for prompts",
        ),
        ({"axis": "t2i", "metrics": ("fd_digits",)}, r"'t2i' needs a prompt set, and neither a metric nor the request"),
    ],
)
def test_metrics_of_another_axis_are_refused(ask, given, changes, message):
    for source in (given(), ConstantSource((8, 8))):
        with pytest.raises(RequestError, match=message):
            ask(**changes).check(source)


def test_a_label_that_the_judge_does_not_know_is_refused(ask):
    with pytest.raises(
        RequestError, match=r"'accuracy_digits' knows the classes 0\.\.9, and image 10 has the label 10"
    ):
        ask(reference=None, num_classes=12).check(ConstantSource((8, 8)))
    ask(reference=None, num_classes=12, metrics=("is_digits",)).check(ConstantSource((8, 8)))


@pytest.mark.parametrize("label", [10, -1])
def test_labels_out_of_range_are_refused(ask, noise, label):
    source = ArraySource(noise(3), [0, label, 9], "three")
    with pytest.raises(
        RequestError, match=rf"image 1 has the label {label}; the 10 classes of this request are 0\.\.9"
    ):
        ask(count=3).check(source)


def test_statistics_cannot_serve_a_metric_that_needs_images(ask, given, tmp_path):
    np.savez(tmp_path / "stats.npz", mu=np.zeros(64), sigma=np.eye(64))
    named = {"reference": str(tmp_path / "stats.npz"), "reference_extractors": ("digits",)}
    with pytest.raises(RequestError, match=r"needs the features of real images, .*stats\.npz' offers only moments"):
        ask(metrics=("precision_digits",), **named).check(given())
    ask(metrics=("fd_digits",), **named).check(given())


def test_missing_or_damaged_weights_are_found_first(ask, given, monkeypatch, tmp_path):
    monkeypatch.setattr(judge, "WEIGHTS", tmp_path / "gone.safetensors")
    with pytest.raises(RequestError, match=r"needs its weights .*gone\.safetensors, which are missing"):
        ask().check(given())
    (tmp_path / "gone.safetensors").write_bytes(b"other weights")
    with pytest.raises(RequestError, match="do not have the SHA-256"):
        ask().check(given())


def test_missing_inception_weights_are_found_first(ask, given, monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path))
    with pytest.raises(RequestError, match=r"'inception' needs its weights at .* Fetch"):
        ask(metrics=("fid",), count=20).check(given())


def test_a_missing_package_is_named_with_its_remedy(monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr("diffusionbench.registry.importlib.import_module", absent)
    with pytest.raises(MissingPackageError, match=r"A plot .*pip install .*\[demo\]"):
        require("altair", "demo", "A plot")


def test_samples_follow_the_reference_the_images_or_the_classes_in_turn(ask, given):
    held_out = DigitsReference().labels(400)
    samples = ask(count=400).samples(ConstantSource((8, 8)))
    assert [sample.id for sample in samples] == list(range(400))
    assert [sample.label for sample in samples] == held_out
    assert [sample.label for sample in ask(count=12).samples(given())] == [*range(10), 0, 1]
    in_turn = ClassConditional().samples(Asked(7, num_classes=3))
    assert [sample.label for sample in in_turn] == [0, 1, 2, 0, 1, 2, 0]
    unknown = ClassConditional().samples(Asked(3))
    assert [sample.label for sample in unknown] == [None] * 3


def imagenet(ask, **changes):
    return ask(reference=None, metrics=("accuracy_efflite0",), **changes)


def test_accuracy_of_imagenet_classes_needs_those_classes(ask, noise):
    """Ten classes of anything else are no classes of ImageNet, whatever their numbers."""
    own = JUDGES["efflite0"].classes
    three = ArraySource(noise(3), [0, 1, 2], "three")
    imagenet(ask, num_classes=1000).check_labels(imagenet(ask, num_classes=1000).samples(ConstantSource((8, 8))))
    imagenet(ask, classes=own[:3], count=3).check_metrics(judges=False)
    imagenet(ask, classes=own[:3], count=3).check_labels(imagenet(ask, count=3).samples(three))
    message = r"'accuracy_efflite0' knows 1,000 classes \(n01440764, .*\) in its own order, .* numbers of 10 classes"
    with pytest.raises(RequestError, match=message):
        imagenet(ask, num_classes=10).check_labels(imagenet(ask, num_classes=10).samples(ConstantSource((8, 8))))
    with pytest.raises(RequestError, match="numbers of 3 classes"):
        imagenet(ask, count=3).check_labels(imagenet(ask, count=3).samples(three))
    last = ArraySource(noise(3), [0, 1, 999], "three")
    imagenet(ask, count=3).check_labels(imagenet(ask, count=3).samples(last))
    for names in (("airplane", "bird"), own[1:3]):
        with pytest.raises(RequestError, match="needs classes that it knows"):
            imagenet(ask, classes=names, count=3).check_metrics(judges=False)
    # Digits have numbers for names.
    ask(reference=None, count=3).check_labels(ask(reference=None, count=3).samples(three))
