"""`diffusionbench run module:function`: options, parts, and the record of the Python interface."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

import diffusionbench as db

MODULE = """
import numpy as np

CALLS = []


def generate(labels, seeds):
    CALLS.append(len(labels))
    images = [np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8) for seed in seeds]
    return np.stack([image // 2 + 12 * label for image, label in zip(images, labels)])


def unsteady(labels):
    return np.random.default_rng().integers(0, 256, (len(labels), 8, 8, 3), dtype=np.uint8)


def shaded(prompts, seeds):
    return np.stack([np.full((64, 64, 3), seed % 256, np.uint8) for seed in seeds])


def wrong(labels):
    return np.zeros((len(labels), 8, 8), np.uint8)
"""
ASK = ("--metrics", "accuracy_digits", "--classes", "10", "--num", "40")


@pytest.fixture(autouse=True)
def my_functions(tmp_path):
    (tmp_path / "my_functions.py").write_text(MODULE)
    yield
    sys.modules.pop("my_functions", None)


def record_of(bench, *words):
    code, out, err = bench("run", *words, "--json")
    assert code == 0, err
    return json.loads(out)


def test_the_command_line_gives_the_record_of_the_interface(bench):
    made = record_of(bench, "my_functions:generate", *ASK, "--seed", "3", "--batch", "16")
    assert sys.modules["my_functions"].CALLS == [2, 1, 1, 16, 16, 8]
    found = db.evaluate("my_functions:generate", metrics="accuracy_digits", classes=10, num=40, seed=3, batch=16)
    assert made["id"] == found.id
    assert made["protocol"]["seed"] == 3
    assert made["extra"]["deterministic"] is True
    assert record_of(bench, "my_functions:generate", *ASK)["id"] != found.id


@pytest.mark.parametrize("given", ["name", "function", "folder"])
def test_the_command_of_a_record_gives_it_again(bench, given, write, noise):
    write(Path("drawn"), noise(40), [place % 10 for place in range(40)])
    sources = {"name": "my_functions:generate", "folder": "drawn"}
    source = sources.get(given) or db.callables.open_named("my_functions:generate")
    ask = {"metrics": ["accuracy_digits", "fd_digits"], "reference": "digits", "num": 30, "title": "a 'title'"}
    if given != "folder":
        ask |= {"seed": 5, "batch": 7, "guidance": 1.5, "quantisation": "round", "trained_with": ["digits"]}
    record = db.evaluate(source, name="mine", **ask)
    program, *words = shlex.split(record.provenance.command)
    assert program == "diffusionbench"
    code, out, err = bench(*words, "--json")
    assert code == 0, err
    assert json.loads(out)["id"] == record.id
    assert json.loads(out)["title"] == "a 'title'"
    assert json.loads(out)["trained_with"] == list(record.trained_with)


def test_what_has_no_name_has_no_command(bench):
    def local(labels):
        return db.callables.open_named("my_functions:generate")(labels, labels)

    assert db.evaluate(local, metrics="accuracy_digits", classes=10, num=20).provenance.command is None


def test_prompts_are_asked_for(bench):
    words = ("--axis", "t2i", "--metrics", "simpleeval_shapes_v1", "--num", "40")
    made = record_of(bench, "my_functions:shaded", *words)
    assert made["protocol"]["prompts"] == "simpleeval_shapes_v1"
    assert made["id"] == db.evaluate("my_functions:shaded", metrics="simpleeval_shapes_v1", num=40).id


def test_a_function_that_does_not_repeat_itself_is_asserted_also_when_its_images_are_scored_again(bench):
    assert record_of(bench, "my_functions:unsteady", *ASK)["values"]["accuracy_digits"]["status"] == "asserted"
    code, _, err = bench("sample", "my_functions:unsteady", "--classes", "10", "--num", "40", "--store", "kept")
    assert code == 0, err
    code, out, err = bench("score", "kept", "--metrics", "accuracy_digits", "--json")
    assert code == 0, err
    assert json.loads(out)["values"]["accuracy_digits"]["status"] == "asserted"


def test_stored_images_of_an_equal_version_are_used_again(bench):
    for version, made in (("1", 40), ("1", 0), ("2", 40)):
        record_of(bench, "my_functions:generate", *ASK, "--store", "kept", "--version", version)
        calls = sys.modules["my_functions"].CALLS
        assert sum(calls) == 4 + made
        calls.clear()


def test_a_dry_run_calls_nothing(bench):
    code, _, err = bench("run", "my_functions:generate", *ASK, "--dry-run")
    assert code == 0, err
    assert sys.modules["my_functions"].CALLS == []


@pytest.mark.parametrize(
    "words, message",
    [
        (("my_functions:nothing", *ASK), "no 'nothing' in it"),
        (("my_functions:wrong", *ASK), r"returned NumPy uint8 \[2, 8, 8\]"),
        (("my_functions:shaded", *ASK), "takes no 'labels'"),
        (("my_functions:generate", *ASK, "--labels", "labels.txt"), "labels tells files apart"),
        (("my_functions:generate", *ASK, "--store", "kept", "--part", "1/2"), "Name one with --version"),
        (("drawn", *ASK), "--classes is for functions"),
        (("drawn", "--metrics", "fd_digits", "--seed", "1", "--version", "2"), "--seed, --version is for functions"),
    ],
)
def test_a_wrong_command_is_one_sentence(bench, write, noise, words, message):
    write(Path("drawn"), noise(20), [place % 10 for place in range(20)])
    code, out, err = bench("run", *words)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert re.search(message, err), err
