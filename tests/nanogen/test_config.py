"""Config: layers and their order, origins, refusals, and that every row resolves, hashes and reloads to itself."""

from __future__ import annotations

from itertools import product

import pytest
from pydantic import ValidationError

from diffusionbench.errors import ConfigError
from nanogen.config import SCALES, compose, differences, leaves, method_names, reload, task_names, to_yaml
from nanogen.latents import LATENTS
from nanogen.resolve import pixel_patch, resolve

CHOICES = list(product(task_names(), method_names(), SCALES))


@pytest.mark.parametrize("task, method, scale", CHOICES, ids="-".join)
def test_every_choice_composes_hashes_and_reloads_to_itself(task, method, scale, tmp_path):
    composition = compose(task, method, scale)
    config = composition.config
    assert reload(config.model_dump(mode="json"), "stored") == config
    file = tmp_path / "again.yaml"
    file.write_text(to_yaml(config))
    again = compose(task, method, scale, file).config
    assert again == config
    assert again.hash == config.hash
    assert set(leaves(config.model_dump(mode="json"))) == set(composition.origins)


@pytest.mark.parametrize("task, method, scale", CHOICES, ids="-".join)
def test_every_choice_resolves_or_says_why_not(task, method, scale):
    config = compose(task, method, scale, overrides=["condition.num_classes=7"]).config
    spec = LATENTS[config.latent.name]
    # Digits have 8x8 pixels, the laptop's own pictures 32x32: too few for some latents.
    size = config.data.image_size
    if size < 2 * spec.stride * (spec.patch_size or 2) or spec.image_size not in (None, size):
        with pytest.raises(ConfigError, match="Choose another method"):
            resolve(config)
    else:
        assert resolve(config).shape.num_parameters() > 0


def test_a_config_is_frozen():
    config = compose("digits").config
    with pytest.raises(ValidationError, match="frozen"):
        config.optim.lr = 1.0


REFUSED = {
    "guidance.scal=2": r"command line: unknown key 'guidance\.scal'\. Did you mean 'guidance\.scale'\?",
    "optim.lr=fast": r"command line: optim\.lr: input should be a valid number.*'fast'",
    "optim=3": r"'optim' is a section, found 3",
    "optim.betas=0.9": r"optim\.betas: .*found 0\.9",
    "objective.predict=z": r"objective\.predict: input should be 'v' or 'x'.*'z'",
    "objective.gamma=1": r"unknown key 'objective\.gamma'",
    "objective=flaw": r"unknown objective 'flaw'\. Did you mean 'flow'\?",
    "losses.reg.weight=1": r"unknown extra loss 'reg'",
    "latent=pixl": r"unknown latent space 'pixl'\. Did you mean 'pixel'\?",
    "data.name=digit": r"unknown data set 'digit'\. Did you mean 'digits'\?",
    "eval.metrics=[fidd]": r"unknown metric 'fidd'\. Did you mean 'fid'\?",
    "eval.axis=t3i": r"unknown axis 't3i'",
    "sampler.name=eulr": r"unknown sampler 'eulr'\. Did you mean 'euler'\?",
    "train.duration=600": r"a duration is a number with a unit",
    "train.duration=6 weeks": r"a duration is a number with a unit",
    "guidance.scale=0.5": r"guidance\.scale: .*greater than or equal to 1.*0\.5",
    "guidance.interval=[0.9,0.1]": r"guidance\.interval: must be two times",
    "condition.drop_prob=1.5": r"condition\.drop_prob: .*1\.5",
    "seed=-1": r"seed: .*-1",
    "optim.lr": r"expected key=value, got 'optim\.lr'",
    "optim.lr=[1": r"not valid YAML",
}


@pytest.mark.parametrize("override", REFUSED)
def test_wrong_overrides_end_in_a_sentence(override):
    with pytest.raises(ConfigError, match=REFUSED[override]):
        compose("digits", overrides=[override])


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"task": "digits", "scale": "laptops"}, r"unknown scale 'laptops'\. Did you mean 'laptop'\?"),
        ({}, r"no task given\. Choose one with --task"),
    ],
)
def test_wrong_names_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        compose(**arguments)


@pytest.mark.parametrize(
    "text, message",
    [
        ("optim:\n  lr: fast\n", r"mine\.yaml:2: optim\.lr: .*number"),
        ("optim.lr: 1\noptim: {lr: 2}\n", r"mine\.yaml:2: 'optim\.lr' is written twice; also .*mine\.yaml:1"),
        ("- a\n- b\n", r"a config consists of 'key: value' lines, found a list\."),
        ("words\n", r"a config consists of 'key: value' lines, found the value words\."),
        ("a: [1\n", r"mine\.yaml:\d: not valid YAML"),
    ],
)
def test_wrong_files_are_refused_with_their_line(text, message, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        compose("digits", file=file)


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["data.image_size=7"], "cannot be cut into at least 2x2 patches of 7"),
        (["data.image_size=2"], "at least 2x2 patches of 2"),
        (["model.encoder_num_heads=3"], "multiple of 4"),
        (["train.accumulation=3"], "equal micro-batches"),
        (["data.image_size=12", "latent=sd-vae-ema"], "multiple of 8"),
        (["condition.num_classes=auto"], "known only once the data is read"),
    ],
)
def test_impossible_combinations_are_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        resolve(compose("digits", overrides=overrides).config)


@pytest.mark.parametrize(
    "size, grid, patch", [(8, 8, 2), (32, 8, 4), (32, 16, 2), (256, 16, 16), (512, 16, 32), (50, 8, 10), (9, 8, 3)]
)
def test_pixels_are_cut_into_few_enough_patches_that_fit(size, grid, patch):
    assert pixel_patch(size, grid) == patch


def test_derived_values_follow_the_latent_space():
    derived = resolve(compose("imagenet256", "sd-vae-ema", "paper").config)
    assert derived.shape.latent_shape == (4, 32, 32)
    assert derived.shape.num_parameters() == 611_304_996
    assert (derived.train_shift, derived.sampler_shift) == (1, 1)
    pixels = resolve(compose("imagenet256", "pixel-v", "paper").config)
    assert pixels.shape.grid == (16, 16)
    assert pixels.train_shift == pytest.approx(6.928203, rel=1e-6)
    assert pixels.sampler_shift == 1
    laptop = resolve(compose("digits").config)
    assert (laptop.train_shift, laptop.sampler_shift) == (1, 1)


def test_differences_name_keys_and_both_values():
    a, b = compose("digits").config, compose("digits", overrides=["optim.lr=1", "seed=3"]).config
    assert differences(a, b) == {"seed": (42, 3), "optim.lr": (0.002, 1.0)}
    assert a.hash != b.hash


def test_guidance_of_the_imagenet_protocol_is_only_that_protocols():
    config = compose("imagenet256", "sd-vae-ema").config
    assert (config.guidance.scale, config.eval.tuned_scale) == (1.0, 1.6)
