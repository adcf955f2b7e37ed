"""The latent spaces that ship: cards, what they keep of an image, under noise too, and the tool that makes two."""

import json

import pytest
import torch
from safetensors.torch import load_file

import train_toy_latents
from diffusionbench.errors import CheckpointError, RequestError
from diffusionbench.judges.digits import WEIGHTS as JUDGE
from diffusionbench.metrics.reconstruction import psnr
from diffusionbench.schema import file_digest
from nanogen.config import compose
from nanogen.datasets import DATASETS
from nanogen.latents import LATENTS, files, open_latent, toy
from nanogen.latents.encoders import Encoder
from nanogen.latents.toy import card
from nanogen.tokenizer.settings import compose_tokenizer

TOYS = ("toy-ae", "toy-vae", "toy-rae")


def shipped(name):
    """The files of a space by name."""
    if LATENTS[name].weights:
        return {weights.names[0]: weights.shipped / weights.names[0] for weights in LATENTS[name].weights}
    file = train_toy_latents.OUT / f"{name.replace('-', '_')}.safetensors"
    return {file.name: file}


def held_out(name):
    """Images float32 [n, 3, 32, 32] in [0, 1] that none was trained on: digits, or the last rendered shapes."""
    data = DATASETS.load(name)(None, 32, "held_out" if name == "digits" else "train")
    chosen = range(len(data)) if name == "digits" else range(len(data) - 128, len(data))
    return torch.stack([torch.from_numpy(data[index].image) for index in chosen]).permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("name", TOYS)
def test_the_weights_are_small_those_of_the_card_and_not_the_judge(name):
    found = {file: file_digest(path) for file, path in shipped(name).items()}
    assert sum(path.stat().st_size for path in shipped(name).values()) <= 2_000_000
    stated = card(name)["sha256"]
    assert found == (stated if isinstance(stated, dict) else dict.fromkeys(found, stated))
    # A model that diffuses the features it is scored in would grade itself.
    assert file_digest(JUDGE) not in found.values()
    rows, columns = LATENTS[name].shape(32)[1:]
    assert rows * columns <= 64
    if name != "toy-ae":
        assert card(name)["parameters"] <= 1_000_000
        tensors = [tensor for path in shipped(name).values() for tensor in load_file(path).values()]
        assert max(tensor.numel() for tensor in tensors if tensor.dtype != torch.float16) <= 96 * 16


@pytest.mark.parametrize(("name", "recipes"), [("toy-vae", ["toy-vae"]), ("toy-rae", ["toy-encoder", "toy-rae"])])
def test_the_card_states_the_recipes_that_made_the_files(name, recipes):
    configs = [compose_tokenizer(one).model_dump(mode="json") for one in recipes]
    assert list(card(name)["recipe"].values()) == configs
    pinned = {key: value for weights in LATENTS[name].weights for key, value in weights.sha256.items()}
    assert pinned in ({}, card(name)["sha256"])


@pytest.mark.parametrize("name", TOYS)
@pytest.mark.parametrize("data", ["digits", "shapes"])
def test_reconstructions_are_as_good_as_the_card_says_under_noise_too(name, data):
    latent, images = open_latent(name, "cpu"), held_out(data)
    z = latent.encode(images)
    found = psnr(images, latent.decode(z).clamp(0, 1)).mean().item()
    stated = card(name)["psnr"]
    # That of toy-ae is of other pictures, and from the mean error of all.
    assert found == pytest.approx(stated.get(data, stated.get("scenes")), abs=1.5 if name == "toy-ae" else 1.0)
    noisy = latent.decode(z + 0.2 * torch.randn(z.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert psnr(images, noisy).mean().item() > 22


@pytest.mark.parametrize("name", TOYS)
def test_latents_are_normalised(name):
    latent = open_latent(name, "cpu")
    # Digits are one in eleven of the images that the statistics are of.
    z = torch.cat([latent.encode(held_out("shapes")), latent.encode(held_out("digits")[:13])])
    assert z.mean((0, 2, 3)).abs().max() < 0.35
    assert (z.std((0, 2, 3)) - 1).abs().max() < 0.35


@pytest.mark.parametrize("task", ["digits", "shapes"])
@pytest.mark.parametrize("method", TOYS)
def test_every_laptop_method_knows_both_tasks(task, method):
    config = compose(task, method, "laptop").config
    assert (config.latent.name, config.data.image_size) == (method, 32)


def test_the_encoder_has_a_class_token():
    encoder = Encoder(LATENTS["toy-rae"], "cpu")
    assert encoder.has_class_token
    assert encoder.class_token(held_out("digits")[:3]).shape == (3, 96)


def test_missing_or_other_weights_are_refused(tmp_path, monkeypatch):
    whole = shipped("toy-ae")["toy_ae.safetensors"].read_bytes()
    stated = json.dumps(card())
    monkeypatch.setattr(toy, "__file__", str(tmp_path / "toy.py"))
    (tmp_path / "toy_ae.json").write_text(stated)
    with pytest.raises(RequestError, match=r"'toy-ae' needs its weights .* which are missing\. Reinstall"):
        open_latent("toy-ae", "cpu")
    (tmp_path / "toy_ae.safetensors").write_bytes(whole[:-1] + b"x")
    with pytest.raises(RequestError, match=r"do not have the SHA-256 that their card names"):
        open_latent("toy-ae", "cpu")
    parts = {file: path.read_bytes() for file, path in shipped("toy-rae").items()}
    monkeypatch.setattr(files, "__file__", str(tmp_path / "files.py"))
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
    with pytest.raises(RequestError, match=r"'toy-rae' needs its encoder\. Get encoder\.safetensors from this package"):
        open_latent("toy-rae", "cpu")
    (tmp_path / "toy_rae").mkdir()
    for file, content in parts.items():
        (tmp_path / "toy_rae" / file).write_bytes(content[:-1] + b"x")
    with pytest.raises(CheckpointError, match=r"has SHA-256 .*, expected "):
        open_latent("toy-rae", "cpu")


SMALL = ("train.batch_size=8", "eval.num=8", "eval.judges=[]", "optim.warmup=0 steps", "train.duration=2 steps")


@pytest.mark.parametrize("name", ["toy-vae", "toy-rae"])
def test_the_tool_writes_files_that_the_latent_space_opens(name, tmp_path, monkeypatch):
    monkeypatch.setattr("nanogen.datasets.shapes.CAPTIONS", 280)
    made = train_toy_latents.main(name, tmp_path / "run", tmp_path / "out", SMALL)
    assert json.loads((tmp_path / "out" / f"{name.replace('-', '_')}.json").read_text()) == made
    assert made["psnr"].keys() == {"shapes", "digits"}
    monkeypatch.setattr(toy, "__file__", str(tmp_path / "out" / "toy.py"))
    latent = open_latent(name, "cpu", str(tmp_path / "out" / "toy_rae") if name == "toy-rae" else None)
    digits = held_out("digits")
    found = psnr(digits, latent.decode(latent.encode(digits)).clamp(0, 1)).mean().item()
    assert found == pytest.approx(made["psnr"]["digits"], abs=0.02)
