"""REG: the class token of a frozen encoder, what training needs of it, and sampling without it."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from standins import install
from tiny import tiny
from torch import nn

from diffusionbench.errors import CheckpointError, ConfigError, RequestError
from nanogen.latents import LATENTS
from nanogen.latents.encoders import Encoder
from nanogen.model.condition import ClassCondition
from nanogen.objectives import RegOptions
from nanogen.objectives.reg import Reg
from nanogen.pipeline import open_weights
from nanogen.rng import PositionalNoise, sampling_noise
from nanogen.train import check, open_data, train, training_source

SETTINGS = ("objective.name=reg", "train.batch_size=4", "train.precision=bfloat16", "sample.num=1")


@pytest.fixture
def encoder(tmp_path, monkeypatch):
    """The folder of a stand-in for DINOv2, where its row looks for it."""
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cache" / "latents" / "rae-dinov2-b"
    install("rae-dinov2-b", folder, monkeypatch)
    return folder / "encoder"


@torch.no_grad()
def test_the_target_is_the_normed_class_token_of_the_library(encoder):
    transformers = pytest.importorskip("transformers")
    spec = LATENTS["rae-dinov2-b"]
    model = transformers.Dinov2WithRegistersModel.from_pretrained(encoder).eval()
    model.layernorm = nn.LayerNorm(spec.channels, eps=1e-5, elementwise_affine=False)
    images = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(spec.options["preprocessing"][name])[:, None, None] for name in ("mean", "std"))
    shown = F.interpolate((images - mean) / std, size=(224, 224), mode="bicubic", align_corners=False)
    found = Encoder(spec, "cpu").class_token(images)
    torch.testing.assert_close(found, model(pixel_values=shown).last_hidden_state[:, 0], atol=1e-5, rtol=1e-5)
    assert found.mean(1).abs().max() < 1e-5
    assert found.var(1, correction=0).tolist() == pytest.approx([1, 1], abs=1e-3)


def test_an_encoder_without_a_class_token_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r"objective.encoder: no latent space 'rae-siglip2-b' whose encoder has a cl"):
        tiny(1, *SETTINGS, "objective.encoder=rae-siglip2-b")
    spec = install("rae-siglip2-b", tmp_path, monkeypatch)
    with pytest.raises(CheckpointError, match="has no class token"):
        Encoder(spec, "cpu").class_token(torch.rand(1, 3, 256, 256))


def test_a_run_trains_with_the_encoder_and_is_sampled_without_it(encoder, tmp_path):
    composed = tiny(2, *SETTINGS)
    run = train(composed, tmp_path / "run", "cpu", ["test"])
    facts = json.loads((run.path / "run.json").read_text())
    assert facts["losses_digest"].keys() == {"objective"}
    line = json.loads((run.path / "metrics.jsonl").read_text().splitlines()[0])
    # At the start the network outputs 0, and the error is that of the velocity eps - c, with variance 2.
    assert line["loss/reg"] == pytest.approx(0.03 * 2, rel=0.1)
    with safe_open(run.path / "checkpoints/step-00000002/ema.safetensors", "pt") as file:
        names = set(file.keys())
    assert {"encoder_vector.proj.weight", "decoder_vector.norm.weight", "final.vector.bias"} < names
    assert not any("tower" in name or "teacher" in name for name in names)

    shutil.rmtree(encoder)
    loaded = open_weights(run.path, "cpu")
    images = loaded.pipeline(["sampler.num_steps=2"]).in_batches(
        loaded.components.conditioner.parse_specs("0-2", []), 0, 3
    )
    assert images.shape == (3, 8, 8, 3)
    with pytest.raises(RequestError, match="latent space 'rae-dinov2-b' needs its encoder"):
        check(composed, "cpu", ["test"])


def test_images_are_read_in_every_step(encoder):
    repeated = ("latent.cache_mb=9", "train.duration=99 epochs")
    for name, kind in (("reg", "Dataset"), ("flow", "CachedLatents")):
        data, config = open_data(tiny(1, *SETTINGS, f"objective.name={name}", *repeated).config)
        parts = check(tiny(1, *SETTINGS, f"objective.name={name}", *repeated), "cpu", ["test"]).components
        source = training_source(data, config, parts)
        assert (source is data) == (kind == "Dataset")
    data, config = open_data(tiny(1, *SETTINGS, "latent.cache=elsewhere").config)
    with pytest.raises(ConfigError, match=r"of objective reg\) may look at images"):
        training_source(data, config, parts)


def test_the_vector_has_noise_of_its_own_at_the_time_of_the_image():
    objective = Reg(RegOptions(name="reg", predict="v"), 0.3, 0.5)
    objective.__dict__["encoder"] = type(
        "One", (), {"class_token": lambda self, images: torch.ones(len(images), 768)}
    )()
    seen = []

    def net(z, t, condition, taps=()):
        seen.append((z, t))
        return type("Out", (), {"pred": z, "features": {}})

    batch = type("Batch", (), {"image": torch.zeros(3, 3, 8, 8, dtype=torch.uint8)})
    x, noise = torch.ones(3, 3, 8, 8), PositionalNoise(0, (0, 1, 2), step=4)
    objective.loss(net, x, ClassCondition(torch.arange(3), 10), noise, batch=batch)
    ((z, t),) = seen
    for part, eps in ((z.image, noise.normal("noise", (3, 8, 8))), (z.vector, noise.normal("vector", (768,)))):
        t_ = t.view(-1, *[1] * (part.ndim - 1))
        torch.testing.assert_close(part, (1 - t_) + t_ * eps)
    # In sampling one stream gives the image first.
    start = objective.initial(sampling_noise(0, range(2)), (3, 8, 8))
    plain = sampling_noise(0, range(2))
    assert torch.equal(start.image, plain.normal("image", (3, 8, 8)))
    assert torch.equal(start.vector, plain.normal("vector", (768,)))
