"""The first stage: its recipes, its losses and when they start, continuing to the last bit, what it writes."""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from safetensors.torch import load_file
from test_discriminator import timm_file

from diffusionbench.errors import CheckpointError, ConfigError, DataError
from nanogen import checkpoint, log
from nanogen.latents import LATENTS
from nanogen.latents.rae import read_decoder
from nanogen.latents.toy import KLAutoencoder
from nanogen.optim import NonFiniteLoss
from nanogen.rng import PositionalNoise
from nanogen.run import CHECKPOINTS
from nanogen.tokenizer import discriminator
from nanogen.tokenizer.first_stage import Cosine, StageOutputs, build_stage, train_tokenizer
from nanogen.tokenizer.nets import disturbed
from nanogen.tokenizer.recipe import train_recipe
from nanogen.tokenizer.reconstruction import detail, pixel_terms
from nanogen.tokenizer.settings import compose_tokenizer, recipe_names

# A network and a run of a second; overrides over any recipe of the toys.
SMALL = ("train.batch_size=8", "eval.num=8", "eval.judges=[]", "log.every=1 step", "optim.warmup=0 steps")
DIGITS = ("data.image_size=16", "data.sources.shapes.held_out=512", "train.checkpoint_every=1 step", "train.keep=9")
VAE = ("net.channels=2", "net.width=8")
CRITIC = ("losses.adversarial=0.75", "losses.critic_start=2 steps", "losses.adversarial_start=4 steps")


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    """Shapes are 520 pictures, of which 512 are held out: rendering takes a moment."""
    monkeypatch.setattr("nanogen.datasets.shapes.CAPTIONS", 280)


@pytest.fixture
def nothing_installed(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def vae(*overrides, steps=6):
    return compose_tokenizer("toy-vae", [*SMALL, *VAE, f"train.duration={steps} steps", *overrides])


def lines(folder):
    return [line for line in log.read(folder / "metrics.jsonl") if "lr" in line]


def tensors(state):
    """All that a training may not lose, by name; the discriminator's below "critic."."""
    found = dict(state.module.state_dict()) | {f"ema.{name}": value for name, value in state.averaged().items()}
    for number, optimizer in enumerate(state.updater.optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            found |= {f"optimizer{number}.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
    critic = {} if state.critic is None else tensors(state.critic)
    return found | {f"critic.{name}": value for name, value in critic.items()}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_says_what_it_is_and_is_complete(name):
    config = compose_tokenizer(name)
    assert config.train.duration
    if name.startswith("toy"):
        # VGG-16 and DINO cannot be assumed on a laptop.
        assert config.losses.lpips == config.losses.adversarial == 0


@pytest.mark.parametrize("name", ["toy-vae", "toy-ae", "toy-encoder"])
def test_a_recipe_trains_measures_and_writes_its_files(name, tmp_path, nothing_installed):
    config = compose_tokenizer(name, [*SMALL, "train.duration=3 steps"])
    net = train_recipe(config, tmp_path / "run", "cpu")
    assert [line["step"] for line in lines(tmp_path / "run")] == [1, 2, 3]
    (scores,) = (line for line in log.read(tmp_path / "run" / "metrics.jsonl") if "eval/digits/psnr" in line)
    assert {"eval/shapes/psnr", "eval/shapes/ssim", "eval/digits/ssim"} <= scores.keys()
    assert (tmp_path / "run" / "samples" / "step-00000003.png").stat().st_size > 0
    for file, wanted in net.exported().items():
        found = load_file(tmp_path / "run" / "export" / file.removesuffix(".safetensors") / file)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[key], wanted[key].contiguous()) for key in wanted)
    statistics = load_file(tmp_path / "run" / "export" / "statistics" / "stats.safetensors")
    assert statistics["mean"].shape == statistics["var"].shape


def test_a_decoder_learns_over_a_frozen_encoder_and_is_read_by_its_latent_space(tmp_path, nothing_installed):
    encoder = train_recipe(compose_tokenizer("toy-encoder", [*SMALL, "train.duration=1 step"]), tmp_path / "e", "cpu")
    small = [f"net.weights={tmp_path / 'e' / 'export'}", "net.width=16", "net.depth=1", "net.hidden=16"]
    config = compose_tokenizer("toy-rae", [*SMALL, *small, "train.duration=4 steps", "train.ema_decay=0.5"])
    stage = build_stage(config, "cpu")
    assert not any("encoder" in name for name, _ in stage.loss.net.named_parameters())
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(stage.loss.net.encode(images), encoder.encode(images))
    net = train_recipe(config, tmp_path / "run", "cpu")
    file = tmp_path / "run" / "export" / "decoder" / "decoder.safetensors"
    latents = torch.randn(2, 96, 4, 4)
    torch.testing.assert_close(read_decoder(file, LATENTS["toy-rae"], "it")(latents), net.decode(latents))
    torch.testing.assert_close(net.encode(images), encoder.encode(images))


def test_terms_start_at_their_steps_and_absent_networks_are_said_once(tmp_path, nothing_installed, capsys):
    timm_file(nothing_installed / discriminator.FILE)
    config = vae(*CRITIC, "losses.lpips=1.0")
    train_tokenizer(tmp_path / "run", build_stage(config, "cpu"))
    found = lines(tmp_path / "run")
    assert [line["step"] for line in found if "loss/critic" in line] == [3, 4, 5, 6]
    assert [line["step"] for line in found if "loss/adversarial" in line] == [5, 6]
    assert not any("loss/lpips" in line for line in found)
    said = capsys.readouterr().err
    assert said.count("losses.lpips is 0 here: LPIPS needs vgg16-397923af.pth") == 1
    assert "adversarial is 0" not in said


def test_epochs_are_compared_in_steps(nothing_installed):
    timm_file(nothing_installed / discriminator.FILE)
    epochs = ("losses.adversarial=0.75", "losses.critic_start=6 epochs", "losses.adversarial_start=8 epochs")
    stage = build_stage(vae(*epochs, "train.duration=16 epochs", "optim.warmup=1 epoch"), "cpu")
    per_epoch = len(stage.data) // 8
    assert (stage.critic_start, stage.loss.adversarial_start) == (6 * per_epoch, 8 * per_epoch)
    assert (stage.schedule.last, stage.schedule.warmup) == (16 * per_epoch, per_epoch)
    # The discriminator's schedule is equal, and counts its own updates.
    state = stage.state()
    state.at(7 * per_epoch)
    assert state.critic.schedule(state.critic.step) == stage.schedule(per_epoch)


def test_perception_counts_with_its_weight(tmp_path, lpips_installed):
    first = []
    for weight in (0.0, 0.5, 1.0):
        train_tokenizer(tmp_path / f"{weight}", build_stage(vae(f"losses.lpips={weight}", steps=1), "cpu"))
        first += lines(tmp_path / f"{weight}")
    assert "loss/lpips" not in first[0]
    assert first[2]["loss/lpips"] == pytest.approx(2 * first[1]["loss/lpips"], rel=1e-4)
    assert first[2]["loss/lpips"] > 0
    assert len({line["grad_norm"] for line in first}) == 3


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_killed_training_continues_to_the_last_bit(step, tmp_path, nothing_installed):
    timm_file(nothing_installed / discriminator.FILE)
    config = vae(*CRITIC, "train.checkpoint_every=1 step", "train.keep=9")
    whole = tensors(train_tokenizer(tmp_path / "whole", build_stage(config, "cpu")))
    kept = tmp_path / "killed" / CHECKPOINTS
    kept.mkdir(parents=True)
    shutil.copytree(tmp_path / "whole" / CHECKPOINTS / f"step-{step:08d}", kept / f"step-{step:08d}")
    again = tensors(train_tokenizer(tmp_path / "killed", build_stage(config, "cpu")))
    assert whole.keys() == again.keys()
    assert any(name.startswith("critic.") and name.endswith("._u") for name in whole)
    assert any(name.startswith("critic.optimizer") for name in whole)
    assert [name for name in whole if not torch.equal(whole[name], again[name])] == []
    # The weights file holds the average of the network alone.
    names = checkpoint.read_weights(tmp_path / "killed" / CHECKPOINTS / "step-00000006" / checkpoint.WEIGHTS)[0]
    assert not any("heads" in name or "trunk" in name for name in names)


def test_the_discriminator_sees_other_images_than_the_network_and_its_trunk_is_still(tmp_path, nothing_installed):
    timm_file(nothing_installed / discriminator.FILE)
    stage = build_stage(vae(*CRITIC), "cpu")
    before = {name: value.clone() for name, value in stage.loss.critic.state_dict().items()}
    state = train_tokenizer(tmp_path / "run", stage)
    moved = {
        name for name, value in state.critic.module.net.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved
    assert not any(name.startswith("trunk.") for name in moved)
    assert state.critic.step == 4
    assert stage.loss.net.training


def test_the_average_is_measured_and_written(tmp_path, nothing_installed, monkeypatch):
    seen = []
    measure = StageOutputs.measure
    monkeypatch.setattr(StageOutputs, "measure", lambda self: seen.append(self.state.ema.module.net) or measure(self))
    stage = build_stage(vae("train.ema_decay=0.9", "train.ema_ramp=false", "optim.lr=1e-2"), "cpu")
    state = train_tokenizer(tmp_path / "run", stage)
    assert seen == [state.ema.module.net]
    assert not torch.equal(seen[0].net.decoder[0].weight, stage.loss.net.net.decoder[0].weight)


def test_running_statistics_of_the_average_are_those_of_the_network(tmp_path, nothing_installed):
    config = compose_tokenizer("toy-ae", [*SMALL, "train.duration=2 steps", "train.ema_decay=0.9", "optim.lr=1e-2"])
    state = train_tokenizer(tmp_path / "run", build_stage(config, "cpu"))
    stored = load_file(tmp_path / "run" / CHECKPOINTS / "step-00000002" / checkpoint.WEIGHTS)
    net = state.module.net.net
    assert torch.equal(stored["net.norm.running_mean"], net.norm.running_mean)
    assert not torch.equal(stored["net.encoder.0.weight"], net.encoder[0].weight)


def test_a_first_stage_stops_where_it_diverges(tmp_path, nothing_installed):
    stage = build_stage(vae(), "cpu")
    for weight in stage.loss.net.parameters():
        torch.nn.init.constant_(weight, math.inf)
    with pytest.raises(NonFiniteLoss, match=r"at step 0 .*There is no checkpoint yet"):
        train_tokenizer(tmp_path / "run", stage)


def test_noise_on_latents_has_a_deviation_drawn_for_each_image():
    z = torch.zeros(2000, 4, 8, 8)
    levels = disturbed(z, 0.8, PositionalNoise(0, list(range(2000)))).flatten(1).std(1)
    assert levels.max() < 0.8 * 1.2
    assert levels.mean().item() == pytest.approx(0.4, abs=0.02)
    assert levels.std().item() == pytest.approx(0.8 / math.sqrt(12), rel=0.05)


def test_the_divergence_of_the_posterior_is_that_of_two_normals():
    stage = build_stage(vae("net.kl=1.0", steps=1), "cpu")
    mean, logvar = torch.randn(2, 3, 2, 4, 4)
    stage.loss.net.net.moments = lambda images: (mean, logvar)
    _, terms = stage.loss.net(torch.rand(3, 3, 16, 16), PositionalNoise(0, [0, 1, 2]), None)
    posterior = torch.distributions.Normal(mean, (logvar / 2).exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).flatten(1).mean(1)
    torch.testing.assert_close(terms["kl"], expected)


def test_the_rate_rises_and_falls_along_a_cosine():
    rate = Cosine(2e-4, 10, 110, 0.1)
    assert rate(0) == pytest.approx(2e-5)
    assert rate(9) == rate(10) == pytest.approx(2e-4)
    assert rate(60) == pytest.approx(2e-4 * 0.55)
    assert rate(110) == rate(500) == pytest.approx(2e-5)


def test_pixels_see_a_faint_pattern_colours_and_no_shade():
    flat = torch.zeros(2, 3, 16, 16)
    weights = compose_tokenizer("toy-ae").losses
    pattern = 0.05 * (torch.arange(16) % 2 * 2.0 - 1).expand(2, 3, 16, 16)
    assert detail(flat + 0.3).abs().max() < 1e-6
    terms = pixel_terms(pattern, flat, weights)
    assert (terms["l1"] + terms["l2"]).tolist() == pytest.approx([0.11] * 2)
    assert terms["detail"].min() > 0.7 * 3.0 * 0.05
    red = torch.tensor([0.25, -0.25, -0.25])[None, :, None, None].expand(2, 3, 16, 16)
    assert pixel_terms(flat, red, weights)["l1"].tolist() == pytest.approx([3 * 2 * 0.25] * 2)
    assert "detail" not in pixel_terms(flat, red, weights.model_copy(update={"detail": 0.0}))


@pytest.mark.parametrize(
    ("recipe_name", "override", "message"),
    [
        ("toy-rat", "seed=1", r"unknown recipe 'toy-rat'.*Did you mean 'toy-rae'"),
        ("toy-vae", "net.chanels=4", r"command line: unknown key 'net\.chanels'.*net\.channels"),
        ("toy-vae", "net.kind=vea", r"unknown tokenizer 'vea'.*'vae'"),
        ("toy-vae", "data.sources.digis.held_out=3", r"unknown data set 'digis'.*'digits'"),
        ("toy-vae", "optim.name=digits", r"unknown optimizer 'digits'"),
        ("toy-vae", "eval.judges=[efflite]", r"unknown judge 'efflite'.*'efflite0'"),
        ("toy-vae", "losses.l1=-1", r"losses\.l1: .*greater than or equal to 0"),
        ("toy-vae", "net.width=wide", r"net\.width"),
    ],
)
def test_a_wrong_config_is_one_sentence(recipe_name, override, message):
    with pytest.raises(ConfigError, match=message):
        compose_tokenizer(recipe_name, [override])


@pytest.mark.parametrize(
    ("recipe_name", "overrides", "message"),
    [
        ("toy-vae", ["data.sources.shapes.held_out=560"], r"held_out is 560 of 560 images\. Leave some"),
        ("toy-vae", [*CRITIC, "losses.critic_start=5 steps"], r"learns no later than it is listened to"),
        ("toy-vae", ["train.duration=0 steps"], r"train\.duration is 0 steps"),
        ("toy-rae", ["net.width=18"], r"net\.width is 18; .*multiple of 4"),
        ("toy-rae", ["data.image_size=64"], r"takes images of 32 pixels"),
        ("toy-encoder", ["net.patch=5"], r"net\.patch 5 must divide data\.image_size 32"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    recipe_name, overrides, message, tmp_path, nothing_installed
):
    timm_file(nothing_installed / discriminator.FILE)
    with pytest.raises(ConfigError, match=message):
        train_recipe(compose_tokenizer(recipe_name, [*SMALL, "data.cache_mb=0", *overrides]), tmp_path / "run", "cpu")
    assert not (tmp_path / "run").exists()


def test_a_folder_belongs_to_one_recipe_and_a_still_latent_cannot_be_normalised(
    tmp_path, nothing_installed, monkeypatch
):
    monkeypatch.setattr(
        KLAutoencoder, "moments", lambda self, images: (self.encoder(images)[:, :2] * 0, torch.zeros(1))
    )
    with pytest.raises(DataError, match=r"never vary over .*The checkpoints are there"):
        train_recipe(vae(steps=1), tmp_path / "run", "cpu")
    with pytest.raises(CheckpointError, match=r"was trained with recipe .*, asked: "):
        train_tokenizer(tmp_path / "run", build_stage(vae("seed=7", steps=1), "cpu"))
