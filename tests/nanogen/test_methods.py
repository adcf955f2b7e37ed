"""Every method: its size at published scale; three steps, a sample and a restart at tiny size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from encoders import save_encoder
from PIL import Image
from shards import write_shards
from standins import install, write_lpips
from tiny import MODEL, QUIET
from torch.utils.flop_counter import FlopCounterMode

from diffusionbench.study.published import METHODS
from nanogen import checkpoint
from nanogen.build import build_components, build_network
from nanogen.config import compose, method_names
from nanogen.data.order import batches
from nanogen.latents import LATENTS
from nanogen.latents.files import presence
from nanogen.losses import frozen_networks
from nanogen.methods import all_methods, method_facts
from nanogen.model.condition import ClassCondition
from nanogen.model.dit import DDT
from nanogen.objectives import OBJECTIVES, FlowOptions
from nanogen.objectives.flow import Flow
from nanogen.pipeline import ImagePipeline
from nanogen.resolve import resolve
from nanogen.rng import PositionalNoise, sampling_noise
from nanogen.train import build, flow_updates, open_data

CLASSES, CAPTIONS = "imagenet256", "t2i256"
# Published row -> parameters for the classes of ImageNet; captions have 19,456 more.
PARAMETERS = {
    "dinov2-b": 615_252_244,
    "dinov2-b-reg": 619_289_876,
    "dinov3-b": 615_252_244,
    "dinov3-b-reg": 619_289_876,
    "siglip2-b": 615_252_244,
    "pe-l": 616_595_988,
    "langpe-l": 616_595_988,
    "spatialpe-l": 616_595_988,
    "sd-vae-ema": 611_304_996,
    "sd-vae-ema-reg": 615_342_628,
    "sd-vae-mse": 611_304_996,
    "sdxl-vae": 611_304_996,
    "sd3.5-vae": 611_556_948,
    "flux1-vae": 611_556_948,
    "flux2-vae": 611_892_884,
    "flux2-vae-reg": 615_930_516,
    "qwen-image-vae": 611_556_948,
    "e2e-sd3.5-vae": 611_556_948,
    "e2e-flux1-vae": 611_556_948,
    "e2e-qwen-image-vae": 611_556_948,
    "e2e-vavae": 611_388_980,
    "jit": 615_252_244,
    "pixelgen": 615_252_244,
    "pixnerd": 615_252_244,
    "meanflow": 613_229_092,
}
# Settings in which a published row differs from plain velocity prediction, beside its latent space.
TUNED = {
    **dict.fromkeys(["pe-l", "langpe-l"], 5.0),
    **dict.fromkeys(["dinov3-b", "siglip2-b"], 7.0),
    **dict.fromkeys(["sd-vae-ema", "sd-vae-mse", "sdxl-vae", "qwen-image-vae"], 1.6),
    **dict.fromkeys(["sd3.5-vae", "e2e-sd3.5-vae", "e2e-flux1-vae", "e2e-qwen-image-vae", "e2e-vavae"], 1.8),
    **dict.fromkeys(["flux1-vae", "flux2-vae", "pixelgen"], 2.0),
    "dinov2-b": 4.8,
    "dinov2-b-reg": 6.2,
    "dinov3-b-reg": 7.8,
    "spatialpe-l": 9.0,
    "sd-vae-ema-reg": 2.2,
    "flux2-vae-reg": 3.2,
    "jit": 2.6,
    "pixnerd": 2.4,
    "meanflow": 1.0,
}


def test_the_published_rows_are_those_of_the_published_records():
    ours = [name for name in method_names() if name not in METHODS]
    assert len(METHODS) == 25 == len(PARAMETERS)
    assert [name for name in method_names() if name in METHODS] == list(METHODS)
    assert {name: compose(CLASSES, name).config.latent.name for name in METHODS} == {
        name: row.latent for name, row in METHODS.items()
    }
    assert {"pixel-v", "pixel-x", "meanflow-k0", "toy-meanflow", "toy-meanflow-k0", "repa-efflite0"} <= {*ours}
    # Facts of each row name a paper or the latent space has none either.
    for name in METHODS:
        facts = method_facts(name)
        assert facts.title, name
        assert facts.paper or not LATENTS[facts.latent].paper, name


@pytest.mark.parametrize("task, more", [(CLASSES, 0), (CAPTIONS, 19_456)])
@pytest.mark.parametrize("name", METHODS)
def test_a_published_row_resolves_at_paper_scale_with_its_parameters(name, task, more):
    config = compose(task, name, "paper", overrides=["condition.num_classes=1000"]).config
    derived = resolve(config)
    assert derived.shape.num_parameters() == PARAMETERS[name] + more
    assert config.eval.tuned_scale == TUNED[name]
    assert config.guidance.scale == (1.0 if task == CLASSES or name == "meanflow" else 6.0)
    assert (config.sampler.num_steps, config.train.batch_size) == (1 if name == "meanflow" else 50, 1024)
    pixels = METHODS[name].latent == "pixel"
    assert (derived.sampler_shift == 1) == (pixels or derived.train_shift == 1)
    mean, std = {"jit": (-1.1, 0.8), "pixelgen": (-1.1, 0.8), "pixnerd": (-1.94, 1.0), "meanflow": (-0.4, 1.0)}.get(
        name, (0.0, 1.0)
    )
    assert (config.time.mu, config.time.sigma) == (mean, std)
    assert config.objective["predict"] == ("x" if name in ("jit", "pixelgen") else "v")
    extra = {"pixelgen": {"lpips": 0.1, "dino": 0.01}}.get(name, {})
    assert {loss: options["weight"] for loss, options in config.losses.items()} == extra
    objective = "reg" if name.endswith("-reg") else "meanflow" if name == "meanflow" else "flow"
    assert config.objective["name"] == objective
    if objective == "reg":
        assert config.objective["weight"] == 0.03
    if objective == "meanflow":
        assert config.objective["kappa"] == 0.5


def test_the_twin_of_meanflow_differs_in_kappa_alone():
    first, second = (compose(CLASSES, name).config for name in ("meanflow", "meanflow-k0"))
    changed = {**second.objective, "kappa": 0.5}
    assert second.objective["kappa"] == 0.0
    assert second.model_copy(update={"objective": changed}) == first


def test_the_size_that_is_told_is_that_of_the_network():
    told = {method.name: method.parameters for method in all_methods()}
    assert {name: told[name] for name in METHODS} == PARAMETERS
    components = build_components(compose("digits", "toy-ae", "laptop").config, "cpu", "float32")
    made = sum(weight.numel() for weight in build_network(components).parameters())
    # The list counts 1,000 classes, digits are 10.
    assert told["toy-ae"] == made + 990 * 128


# ---- Three steps, a sample and a restart ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A folder of pictures, captions and stand-ins; each latent space's are written where its row looks for them."""
    folder = tmp_path_factory.mktemp("disk")
    with pytest.MonkeyPatch.context() as patch:
        write_lpips(folder, patch)
        for place in range(4):
            path = folder / "pictures" / f"class{place % 2}" / f"{place}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(place).integers(0, 256, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((40, 40), Image.Resampling.BICUBIC).save(path)
        write_shards(folder / "shards", [4])
        save_encoder(folder / "text", "qwen3")
        yield folder, patch


def install_row(folder: Path, patch: pytest.MonkeyPatch, config) -> None:
    """Write what a row reads and does not find."""
    row = OBJECTIVES[config.objective["name"]]
    networks = row.networks(row.options(**config.objective))
    for name in {config.latent.name, *networks, *frozen_networks(config.losses)} & LATENTS.keys():
        if presence(name, LATENTS[name].weights):
            install(name, folder / "latents" / name, patch)


def tiny_config(name: str, task: str, folder: Path, seed: int):
    size = LATENTS[compose(task, name).config.latent.name].image_size or 32
    words = [*MODEL, *(word for word in QUIET if "num_steps" not in word), f"seed={seed}", f"data.image_size={size}"]
    words += ["model.pixel_grid=4", "train.batch_size=2", "train.duration=3 steps", "optim.warmup=0 steps"]
    words += ["train.compile=false", "data.workers=0", "condition.drop_prob=0.5"]
    few = compose(task, name).config.sampler.num_steps < 3
    words += [] if few else ["sampler.num_steps=2"]
    words += [f"data.path={folder / 'pictures'}", "condition.num_classes=2"] if task == CLASSES else []
    words += [f"data.path={folder / 'shards'}", f"condition.encoder={folder / 'text'}"] if task == CAPTIONS else []
    return compose(task, name, "paper", overrides=words).config


def seed_with_both_kinds(config) -> int:
    """Return a seed whose first step is at single times and whose third, the first that reaches all, at two."""
    ratio = OBJECTIVES["meanflow"].options(**config.objective).fm_ratio
    draws = ([PositionalNoise(seed, range(2), step=step).shared("kind") for step in (0, 2)] for seed in range(100))
    return next(seed for seed, (first, third) in enumerate(draws) if first < ratio <= third)


ROWS = [
    pytest.param(name, task, marks=() if place % 2 == number else pytest.mark.slow)
    for place, name in enumerate(method_names())
    for number, task in enumerate((CLASSES, CAPTIONS))
]


@pytest.mark.parametrize("name, task", ROWS)
def test_a_row_trains_samples_and_goes_on_after_a_restart(name, task, disk, tmp_path):
    folder, patch = disk
    config = tiny_config(name, task, folder, 0)
    if config.objective["name"] == "meanflow":
        config = tiny_config(name, task, folder, seed_with_both_kinds(config))
    install_row(folder, patch, config)
    data, config = open_data(config)
    components = build_components(config, "cpu", "float32")

    def steps(state, last):
        loader = batches(data, seed=config.seed, batch_size=2, first_step=state.step, rank=0, world=1, workers=0)
        return list(flow_updates(state, components, config, loader, last))

    state = build(config, components, len(data))
    before = {key: weight.detach().clone() for key, weight in state.module.parameters_by_name().items()}
    seen = steps(state, 2)
    saver = checkpoint.Saver(tmp_path, {}, keep=1)
    saver.save(state)
    # It holds the state of this step, whatever is trained while it is written.
    seen += steps(state, 3)
    saver.wait()
    after = state.module.parameters_by_name()
    assert [key for key in before if torch.equal(before[key], after[key])] == []
    for term in {key for values in seen for key in values}:
        assert any(values.get(term, torch.zeros(())).item() != 0 for values in seen), term
    assert {f"loss/{loss}" for loss in config.losses} <= {key for values in seen for key in values}

    again = build(config, components, len(data))
    checkpoint.resume(tmp_path, again)
    assert again.step == 2
    assert all(
        torch.equal(values[key], other[key])
        for values, other in zip(seen[2:], steps(again, 3), strict=True)
        for key in values
    )
    assert all(torch.equal(weight, again.module.parameters_by_name()[key]) for key, weight in after.items())

    condition = components.conditioner([0], None) if task == CLASSES else components.conditioner([None], ["picture 1"])
    images = ImagePipeline(state.ema.module.net, components, config)(condition, sampling_noise(0, range(1), "cpu"))
    assert images.shape == (1, config.data.image_size, config.data.image_size, 3)


def test_what_a_method_needs_is_told_with_licence_and_whether_it_is_here(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    facts = method_facts("pixelgen")
    assert [need.what for need in facts.needs] == ["file vgg16-397923af.pth", "encoder of rae-dinov2-b"]
    assert "missing: file vgg16-397923af.pth, encoder of rae-dinov2-b" in facts.text
    (tmp_path / "vgg16-397923af.pth").touch()
    assert "missing: encoder of rae-dinov2-b" in method_facts("pixelgen").text
    assert "licences: FLUX [dev] Non-Commercial (gated); missing: vae of flux2-vae" in method_facts("flux2-vae").text
    (ours,) = (one for one in all_methods() if one.name == "pixel-v")
    assert ours.text.startswith("(ours) plain velocity prediction on pixels")
    assert ours.text.endswith("; all files are here")
    assert (ours.as_dict()["present"], facts.as_dict()["present"]) == (True, False)


@pytest.mark.parametrize("name", ["jit", "pixnerd", "pixel-x", "sd-vae-ema"])
def test_a_row_without_extras_computes_what_plain_velocity_prediction_does_at_its_shape(name):
    """Operations of a step by torch's own count, which do not hang on how busy the machine is."""
    config = tiny_config(name, CLASSES, Path(), 0)
    shape, counts = resolve(config).shape, []
    for options in (config.objective, {"name": "flow", "predict": "v"}):
        objective = Flow(FlowOptions.model_validate(options), config.time.mu, config.time.sigma)
        condition, batch = ClassCondition(torch.tensor([0, 1]), 2), PositionalNoise(0, range(2))
        with FlopCounterMode(display=False) as counter:
            terms, _ = objective.loss(DDT(shape), torch.zeros(2, *shape.latent_shape), condition, batch)
            terms["flow"].sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == pytest.approx(counts[1], rel=0.03)
    assert counts[0] > 2 * 2 * shape.forward_flops()
