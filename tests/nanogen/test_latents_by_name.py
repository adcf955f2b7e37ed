"""A latent space of each codec is trained by its method's name and sampled, with stand-ins for its weights."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image
from standins import WRITERS, randomize
from tiny import MODEL, QUIET, losses

from diffusionbench.commits import COMMITS
from diffusionbench.errors import CheckpointError
from nanogen.config import compose
from nanogen.latents import LATENTS
from nanogen.latents.files import remedy
from nanogen.run import read
from nanogen.sample import SampleRequest, sample_run
from nanogen.show import tables
from nanogen.text import ENCODERS
from nanogen.train import train


@pytest.mark.parametrize("method, size", [("flux2-vae", 32), ("pe-l", 256)])
def test_a_method_trains_and_samples_and_knows_its_weights(method, size, tmp_path):
    name = compose("imagenet256", method).config.latent.name
    weights = tmp_path / "weights"
    weights.mkdir()
    WRITERS[name](weights)
    for place in range(4):
        path = tmp_path / "pictures" / f"class{place % 2}" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size, size), (60 * place, 90, 120)).save(path)
    words = [*MODEL, *QUIET, "train.batch_size=2", "train.duration=2 steps", "optim.warmup=0 steps", "data.workers=0"]
    words += [f"data.image_size={size}", f"data.path={tmp_path / 'pictures'}", f"latent.weights={weights}"]
    composed = compose("imagefolder", method, "laptop", overrides=words)
    train(composed, tmp_path / "run", "cpu", [])
    assert np.isfinite(losses(tmp_path / "run")).all()
    assert len(read(tmp_path / "run").facts["latent_digest"]) == 64
    out = tmp_path / "made.npz"
    sample_run(tmp_path / "run", [], SampleRequest("0", [], 1, 0, None), out)
    assert np.load(out)["arr_0"].shape == (1, size, size, 3)
    if method == "flux2-vae":
        other_weights_are_refused(name, tmp_path, out)


def other_weights_are_refused(name, tmp_path, out):
    """Sampling with other weights than those of the training says so."""
    import diffusers

    weights = tmp_path / "weights"
    model = randomize(diffusers.AutoencoderKLFlux2.from_pretrained(weights), seed=1)
    shutil.rmtree(weights)
    model.save_pretrained(weights)
    with pytest.raises(CheckpointError, match=f"were trained in latent space '{name}' with weights"):
        sample_run(tmp_path / "run", [], SampleRequest("0", [], 1, 0, None), out)


def test_lists_and_messages_say_of_each_repository_whether_its_commit_is_pinned():
    listed, none = tables(), "newest commit (none is pinned)"
    for name, row in LATENTS.items():
        for weights in row.weights:
            if not weights.hub:
                continue
            commit = f"{weights.hub} at {weights.revision}" if weights.revision else none
            for text in (listed["latents"][name], remedy(name, weights)):
                assert f"https://huggingface.co/{weights.hub}" in text
                assert commit in text
            assert weights.revision == "" or len(weights.revision) == 40
    for name, row in ENCODERS.items():
        kind, _, place = row.source.partition(":")
        assert kind != "hub" or f"https://huggingface.co/{place} at {COMMITS[place]}" in listed["encoders"][name]
