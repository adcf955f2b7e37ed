"""`nanogen.load`: the images of a seed and a condition are those of every other path, and a source of the benchmark."""

import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny

import diffusionbench as db
import nanogen
from diffusionbench import callables
from diffusionbench.errors import CheckpointError, ConfigError, RequestError
from diffusionbench.sample import noise_seed
from nanogen import sources
from nanogen.evaluate import evaluate_run
from nanogen.sample import SampleRequest, sample_run
from nanogen.train import train

SCORED = ["eval.metrics=[accuracy_digits]", "eval.reference=digits", "eval.num_samples=20", "eval.batch_size=8"]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    # Far enough from the start for guidance to act.
    learnt = ["train.ema_ramp=false", "train.ema_decay=0.5", "optim.lr=0.05", "eval.every=never"]
    train(tiny(6, *SCORED, *learnt), folder, "cpu", ["test"])
    return folder


@pytest.fixture(scope="module")
def model(run):
    return nanogen.load(run)


def seeds(count, seed=0):
    return [noise_seed(seed, "sample", place) for place in range(count)]


def test_equal_seeds_give_the_images_of_the_sample_command(run, model, tmp_path):
    sample_run(run, [], SampleRequest(labels="0-9", num=20, seed=3), tmp_path / "images.npz")
    with np.load(tmp_path / "images.npz") as archive:
        images, labels = archive["arr_0"], archive["arr_1"].tolist()
    found = model.sample(labels=labels, seeds=seeds(20, 3))
    assert found.dtype == np.uint8
    assert np.array_equal(found, images)
    # Each image has its own seed, wherever it stands.
    assert np.array_equal(model.sample(labels=labels[8:16], seeds=seeds(20, 3)[8:16]), images[8:16])


def test_guidance_and_steps_act_and_seeds_have_a_default(run, model, tmp_path):
    request, out = SampleRequest(labels="0-9", num=8), tmp_path / "images.npz"
    sample_run(run, ["guidance.scale=3.0", "sampler.num_steps=5"], request, out)
    with np.load(out) as archive:
        assert np.array_equal(model.sample(labels=range(8), guidance=3.0, steps=5), archive["arr_0"])
    plain = model.sample(labels=range(8))
    assert not np.array_equal(plain, model.sample(labels=range(8), guidance=3.0))
    assert not np.array_equal(plain, model.sample(labels=range(8), steps=5))
    assert np.array_equal(plain, model.sample(labels=torch.arange(8), seeds=np.array(seeds(8))))


def test_a_model_is_scored_as_a_function_with_the_images_of_its_own_evaluation(run, model):
    own = evaluate_run(run, [], tuned=False, out=run / "own.json")
    found = db.evaluate(model.sample, metrics="accuracy_digits", reference="digits", num=20, batch=8)
    assert found.provenance.images_digest == own.provenance.images_digest
    assert found.values["accuracy_digits"].value == own.values["accuracy_digits"].value
    assert found.extra["deterministic"] is True


@pytest.fixture
def registered(monkeypatch):
    """The entry point of the installed package, whether or not it is installed here."""
    monkeypatch.setitem(callables.SOURCES._rows, "nanogen", sources.NANOGEN)


def test_a_run_is_scored_by_name_under_its_own_protocol(run, registered):
    own = evaluate_run(run, ["guidance.scale=2.0"], tuned=False, out=run / "own.json")
    ask = {"metrics": "accuracy_digits", "reference": "digits", "num": 20}
    found = db.evaluate(f"nanogen:{run} guidance.scale=2.0", name=own.method, **ask)
    assert found.protocol == own.protocol
    assert found.id == own.id
    for field in ("config_hash", "checkpoint_digest", "step"):
        assert getattr(found.provenance, field) == getattr(own.provenance, field)
    with pytest.raises(RequestError, match="states its own"):
        db.evaluate(f"nanogen:{run}", guidance=2.0, **ask)
    with pytest.raises(CheckpointError):
        db.evaluate("nanogen:no/such/run", **ask)


def test_the_registered_row_leads_to_the_code():
    text = (ROOT / "pyproject.toml").read_text()
    value = text.partition('[project.entry-points."diffusionbench.sources"]\nnanogen = "')[2].partition('"')[0]
    row = EntryPoint("nanogen", value, "diffusionbench.sources").load()
    assert row is sources.NANOGEN
    code = "import sys, nanogen.sources; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "src")})


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({}, RequestError, "each label or each prompt"),
        ({"labels": [1], "prompts": ["x"]}, RequestError, "each label or each prompt"),
        ({"labels": [1, 2], "seeds": [1]}, RequestError, "1 seeds were given for 2 images"),
        ({"labels": [10]}, RequestError, r"0\.\.9"),
        ({"labels": [-1]}, RequestError, "found -1"),
        ({"labels": [1.5]}, RequestError, "whole numbers"),
        ({"labels": "3"}, RequestError, "whole numbers"),
        ({"labels": [1], "seeds": [2**63]}, RequestError, "seeds must lie in"),
        ({"labels": []}, RequestError, "found: none"),
        ({"prompts": ["a cat"]}, RequestError, "class labels"),
        ({"prompts": "a cat"}, RequestError, "list of texts"),
        ({"labels": [1], "guidance": -1.0}, ConfigError, "guidance.scale"),
        ({"labels": [1], "steps": 0}, ConfigError, "num_steps"),
    ],
)
def test_a_wrong_request_is_one_sentence(model, arguments, error, message):
    with pytest.raises(error, match=message):
        model.sample(**arguments)


def test_a_path_without_weights_is_refused(tmp_path):
    with pytest.raises(CheckpointError):
        nanogen.load(tmp_path)
    with pytest.raises(RequestError, match="tpu"):
        nanogen.load(tmp_path, device="tpu")
