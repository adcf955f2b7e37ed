"""`diffusionbench.evaluate` and its neighbours: from a function, a path or an array to a record."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from making import ConstantSource

import diffusionbench as db
from diffusionbench.errors import Caution, DataError, RequestError, RunError
from diffusionbench.references import digits
from diffusionbench.sample import noise_seed

SRC = Path(db.__file__).parents[1]


@pytest.fixture(scope="module")
def real():
    images, labels = digits.read("train")
    return [images[labels == label] for label in range(10)]


@pytest.fixture
def draw(real):
    """A function that draws a real digit of the class, chosen by the seed; it keeps count of its calls."""

    def function(labels, seeds):
        function.calls.append((list(labels), list(seeds)))
        return np.stack([real[label][seed % len(real[label])] for label, seed in zip(labels, seeds, strict=True)])

    function.calls = []
    return function


def test_a_function_is_scored(draw):
    record = db.evaluate(draw, metrics="fd_digits, accuracy_digits", reference="digits", num=40, name="mine", batch=16)
    assert isinstance(record, db.Record)
    assert record.values.keys() == {"fd_digits", "accuracy_digits"}
    assert record.values["accuracy_digits"].value == 1
    assert {value.status for value in record.values.values()} == {"ok"}
    assert (record.method, record.protocol.count, record.protocol.seed) == ("mine", 40, 0)
    assert record.extra["deterministic"] is True
    assert record.protocol.quantisation is None
    # Two samples are made twice, then all.
    assert [len(labels) for labels, _ in draw.calls] == [2, 1, 1, 16, 16, 8]


@pytest.mark.parametrize("seed", [0, 5])
def test_labels_and_seeds_arrive(draw, seed):
    db.evaluate(draw, metrics=["accuracy_digits"], reference="digits", num=20, seed=seed)
    labels, seeds = draw.calls[-1]
    assert labels == digits.read("held_out")[1][:20].tolist()
    assert seeds == [noise_seed(seed, "sample", place) for place in range(20)]


def test_classes_are_asked_for_in_turn_without_a_reference(draw):
    db.evaluate(draw, metrics="accuracy_digits", classes=10, num=20)
    assert draw.calls[-1][0] == [*range(10)] * 2


def test_batches_change_neither_images_nor_id(draw):
    ids = {db.evaluate(draw, metrics="accuracy_digits", classes=10, num=20, batch=batch).id for batch in (3, 20)}
    assert len(ids) == 1


def test_floats_are_truncated_and_the_protocol_says_so(draw):
    def floats(labels, seeds):
        # A quarter of a level below the image.
        return (torch.from_numpy(draw(labels, seeds)).permute(0, 3, 1, 2) / 255 - 0.001).clamp(0)

    ask = {"metrics": "accuracy_digits", "classes": 10, "num": 20}
    record = db.evaluate(floats, **ask)
    assert record.protocol.quantisation == "truncate"
    rounded = db.evaluate(floats, quantisation="round", **ask)
    assert rounded.protocol.quantisation == "round"
    assert rounded.provenance.images_digest == db.evaluate(draw, **ask).provenance.images_digest
    assert rounded.provenance.images_digest != record.provenance.images_digest
    images = floats(list(range(10)) * 2, range(20))
    in_memory = db.evaluate(images, labels=list(range(10)) * 2, metrics="accuracy_digits")
    assert in_memory.protocol.quantisation == "truncate"


def test_a_function_that_does_not_repeat_itself_is_asserted_not_refused(real):
    generator = np.random.default_rng(0)

    def draw(labels):
        return np.stack([generator.choice(real[label]) for label in labels])

    record = db.evaluate(draw, metrics="accuracy_digits", reference="digits", num=20, trained_with=["digits"])
    assert record.extra["deterministic"] is False
    value = record.values["accuracy_digits"]
    assert value.status == "flagged"
    assert "not deterministic" in value.reason
    assert "trained on the metric" in value.reason
    # Nobody's function made the real images beside them.
    assert {one["accuracy_digits"].status for one in record.anchors.values()} == {"ok"}
    assert (
        db.evaluate(draw, metrics="accuracy_digits", classes=10, num=20).values["accuracy_digits"].status == "asserted"
    )


def test_a_buffer_that_is_used_again_keeps_every_image(real):
    buffer = np.zeros((64, 8, 8, 3), np.uint8)

    def draw(labels):
        for row, label in enumerate(labels):
            buffer[row] = real[label][0]
        return buffer[: len(labels)]

    record = db.evaluate(draw, metrics="accuracy_digits", classes=10, num=40, batch=4)
    assert record.values["accuracy_digits"].value == 1


def test_without_a_version_no_model_is_scored_on_the_images_of_another(draw, tmp_path):
    ask = {"metrics": "accuracy_digits", "classes": 10, "num": 20, "store": tmp_path}
    for _ in range(2):
        db.evaluate(draw, **ask)
        assert sum(len(labels) for labels, _ in draw.calls) == 24
        draw.calls.clear()
    with_version = {**ask, "version": "step 1", "name": "mine"}
    first = db.evaluate(draw, **with_version)
    draw.calls.clear()
    again = db.evaluate(draw, **with_version)
    assert sum(len(labels) for labels, _ in draw.calls) == 4
    assert again.id == first.id
    draw.calls.clear()
    db.evaluate(draw, **with_version | {"version": "step 2"})
    assert sum(len(labels) for labels, _ in draw.calls) == 24


def test_a_folder_gives_the_record_of_the_command_line(held_out, tmp_path, monkeypatch):
    monkeypatch.chdir(held_out.parent)
    record = db.evaluate("held_out", metrics="fd_digits accuracy_digits", reference="digits")
    assert record.protocol.count == 359
    out = tmp_path / "record.json"
    words = ["run", "held_out", "--metrics", "fd_digits,accuracy_digits", "--reference", "digits", "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", "diffusionbench", *words], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    made = json.loads(out.read_text())
    assert made["id"] == record.id
    assert made["values"] == record.model_dump(mode="json")["values"]
    for path in (held_out, str(held_out), Path("held_out")):
        assert db.evaluate(path, metrics="fd_digits accuracy_digits", reference="digits").id == record.id


def test_arrays_are_scored_with_their_labels():
    images, labels = digits.read("held_out")
    ask = {"metrics": "accuracy_digits fd_digits", "reference": "digits"}
    whole = db.evaluate(images, labels=labels.tolist(), **ask)
    assert (whole.protocol.count, whole.protocol.seed) == (359, None)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    assert db.evaluate(tensor, labels=labels.tolist(), **ask).id == whole.id
    assert db.evaluate(images, labels=labels.tolist(), num=100, **ask).protocol.count == 100
    with pytest.raises(RequestError, match="image 0 has no label"):
        db.evaluate(images, **ask)
    with pytest.raises(RequestError, match="holds images already"):
        db.evaluate(images, labels=labels.tolist(), classes=10, **ask)


def test_what_a_model_was_trained_with_is_flagged(draw):
    record = db.evaluate(draw, metrics="accuracy_digits", classes=10, num=20, trained_with=["digits"])
    assert record.values["accuracy_digits"].status == "flagged"
    assert record.trained_with == ("digits",)


def test_a_source_is_scored_as_it_is():
    record = db.evaluate(ConstantSource((8, 8)), metrics="accuracy_digits", classes=10, num=20, name="grey")
    assert (record.provenance.source, record.protocol.count) == ("constant grey 128", 20)


def test_a_function_of_seeds_alone_is_scored_where_no_class_counts(real):
    def draw(seeds):
        return np.stack([real[seed % 10][seed % 100] for seed in seeds])

    assert db.evaluate(draw, metrics="fd_digits", reference="digits", num=40).values["fd_digits"].scored == 40
    with pytest.raises(RequestError, match="takes no 'labels'"):
        db.evaluate(draw, metrics="accuracy_digits", reference="digits", num=40)


def test_prompts_are_asked_for_one_by_one():
    from diffusionbench.prompts import PromptChoice, open_prompts

    asked, seeds_asked = [], []

    def draw(prompts, seeds):
        asked.extend(prompts)
        seeds_asked.extend(seeds)
        return np.full((len(prompts), 64, 64, 3), 128, np.uint8)

    record = db.evaluate(draw, prompts="simpleeval_shapes_v1", metrics="simpleeval_shapes_v1", num=40)
    opened = open_prompts(PromptChoice(name="simpleeval_shapes_v1"))
    assert asked[4:] == [opened.sample(place).prompt for place in range(40)]
    assert seeds_asked[4:] == [opened.sample(place).seed for place in range(40)]
    assert record.protocol.prompts == "simpleeval_shapes_v1"
    assert record.protocol.axis == "t2i"
    # The metric alone names its prompts.
    assert db.evaluate(draw, metrics="simpleeval_shapes_v1", num=40).id == record.id


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"metrics": "fd_digit"}, "Did you mean 'fd_digits'"),
        ({"metrics": ""}, "no metric was asked for"),
        ({"num": 0}, "num: .*greater than or equal to 1"),
        ({"seed": -1}, "seed: "),
        ({"classes": 0}, "classes: "),
        ({"batch": 0}, "batch=0"),
        ({"source": 3}, "an object of type int"),
        ({"source": "no/such/folder", "classes": None}, "no such file or folder"),
        ({"source": "no/such/folder"}, "holds images already"),
        ({"source": "no_such_module:f"}, "module 'no_such_module' cannot be imported"),
        ({"source": lambda prompts: None}, "takes no 'labels'"),
        ({"classes": None}, "has no label"),
        ({"labels": [1, 2]}, "labels tells files apart"),
        ({"store": __file__}, "it is no folder"),
    ],
)
def test_a_wrong_request_is_one_sentence_before_any_image(draw, changes, words):
    given = {"source": draw, "metrics": "accuracy_digits", "classes": 10, "num": 20} | changes
    with pytest.raises((RequestError, DataError, db.errors.UserError), match=words) as caught:
        db.evaluate(given.pop("source"), **given)
    assert "\n" not in str(caught.value)
    assert not draw.calls


def test_a_wrong_size_is_found_by_the_first_two_samples(held_out):
    calls = []

    def draw(labels):
        calls.append(len(labels))
        return np.zeros((len(labels), 9, 9, 3), np.uint8)

    with pytest.raises(RequestError, match="the images are 9x9"):
        db.evaluate(draw, metrics="fd_digits", reference=held_out, num=200)
    assert calls == [2, 1, 1]


def test_an_exception_of_the_function_ends_in_a_run_error_with_its_cause():
    def draw(labels):
        raise KeyError("weights")

    with pytest.raises(RunError, match="raised KeyError: 'weights'") as caught:
        db.evaluate(draw, metrics="accuracy_digits", classes=10, num=20)
    assert isinstance(caught.value.__cause__, KeyError)


def test_records_are_saved_loaded_and_compared(draw, tmp_path):
    record = db.evaluate(draw, metrics="accuracy_digits fd_digits", reference="digits", num=40, name="mine")
    record.save(str(tmp_path / "mine.json"))
    assert db.load(str(tmp_path / "mine.json")) == record
    assert not db.compare(record, str(tmp_path / "mine.json")).differs
    other = db.evaluate(draw, metrics="accuracy_digits fd_digits", reference="digits", num=50)
    assert db.compare(tmp_path / "mine.json", other).differs


def test_a_record_is_a_table(draw):
    record = db.evaluate(draw, metrics="accuracy_digits fd_digits", reference="digits", num=40, name="<b>mine")
    text, html = repr(record), record._repr_html_()
    assert str(record) == text
    assert "fd_digits ↓" in text
    assert "<td>accuracy_digits ↑</td><td>1</td>" in html
    assert "<td>ok</td>" in html
    low, high = record.values["fd_digits"].interval
    assert f"[{low:.4g}, {high:.4g}]" in text
    assert "&lt;b&gt;mine" in html
    assert "<b>mine" not in html
    changed = record.values["fd_digits"].model_copy(update={"status": "flagged", "reason": "why <i>not</i>"})
    flagged = record.model_copy(update={"values": {"fd_digits": changed}})
    assert "fd_digits: flagged: why &lt;i&gt;not" in flagged._repr_html_()


def test_importing_both_packages_loads_no_torch():
    code = (
        "import sys, diffusionbench, nanogen\n"
        "assert 'evaluate' in dir(diffusionbench) and 'load' in dir(nanogen)\n"
        "assert not {'torch', 'numpy', 'pydantic'} & sys.modules.keys()\n"
        "assert callable(diffusionbench.evaluate) and callable(nanogen.load)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    with pytest.raises(AttributeError, match="no attribute 'evaluat'"):
        _ = db.evaluat


def test_what_speaks_against_a_value_is_said_where_it_is_scored():
    images, labels = digits.read("held_out")
    ask = {"metrics": "fd_digits accuracy_digits", "reference": "digits", "name": "few"}
    few = db.evaluate(images[:40], labels=labels[:40].tolist(), **ask).protocol.notes
    assert [note for note in few if "fewer" in note] == [
        "fd_digits: 40 images are fewer than the 64 features of judge 'digits', so that most of the value comes from "
        "their number. It compares with equal counts only."
    ]
    colours = np.random.default_rng(0).integers(0, 256, (70, 32, 32, 3), np.uint8)
    with pytest.warns(Caution, match="colour.* Give real images with --reference FOLDER and ask for fd_efflite0."):
        db.evaluate(colours, labels=[0] * 70, **ask)
    with warnings.catch_warnings(action="error"):
        enough = db.evaluate(images[:70], labels=labels[:70].tolist(), **ask).protocol.notes
    assert not any("fewer" in note for note in enough)
