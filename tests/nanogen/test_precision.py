"""bfloat16 beside float32: a step and a sample agree, and what must stay float32 does (emulated where not native)."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tiny import tiny
from torch import nn

from nanogen import checkpoint, pipeline, precision
from nanogen.build import Components, build_components
from nanogen.conditions import SampleSpec
from nanogen.config import changed
from nanogen.data.order import batches
from nanogen.model.condition import ClassCondition
from nanogen.model.layers import DecoderBlock, EncoderBlock
from nanogen.pipeline import ImagePipeline
from nanogen.state import TrainState
from nanogen.train import build, flow_updates, open_data, train

# A product in bfloat16 is right to 2^-8 = 0.4 %; what a whole network loses stays within a few of these.
LOSS, GRADIENT, GREY_LEVELS = 0.01, 0.05, 3.0
PLAIN = ["sampler.shift=1", "guidance.scale=1.5", "guidance.interval=[0, 1]"]


@pytest.fixture(scope="module")
def opened():
    return open_data(tiny(1, "seed=3", "sampler.name=heun", "sampler.num_steps=4", *PLAIN).config)


def lively(opened, kind: precision.Precision) -> tuple[TrainState, Components]:
    """A network whose output is not 0, the same for every number type."""
    data, config = opened
    parts = build_components(config, "cpu", kind)
    state = build(config, parts, len(data))
    stream = torch.Generator().manual_seed(0)
    for net in (state.module.net, state.ema.module.net):
        stream.manual_seed(0)
        for weight in net.parameters():
            weight.data += 0.1 * torch.randn(weight.shape, generator=stream)
    return state, parts


def first_step(opened, kind: precision.Precision) -> tuple[TrainState, dict[str, torch.Tensor]]:
    data, config = opened
    state, parts = lively(opened, kind)
    values = next(flow_updates(state, parts, config, batches(data, seed=3, batch_size=8), 1))
    return state, values


def test_a_training_step_agrees_with_float32(opened):
    (exact, wanted), (state, found) = first_step(opened, "float32"), first_step(opened, "bfloat16")
    assert found["loss/flow"].item() == pytest.approx(wanted["loss/flow"].item(), rel=LOSS)
    assert found["grad_norm"].item() == pytest.approx(wanted["grad_norm"].item(), rel=GRADIENT)
    assert found["loss/flow"].item() != wanted["loss/flow"].item()
    moments = [state.updater.optimizers[0].state[weight]["exp_avg"] for weight in state.module.net.parameters()]
    truth = [exact.updater.optimizers[0].state[weight]["exp_avg"] for weight in exact.module.net.parameters()]
    left, right = (torch.cat([one.flatten() for one in many]) for many in (moments, truth))
    assert torch.cosine_similarity(left, right, dim=0).item() > 1 - GRADIENT
    weights = (*state.module.parameters(), *state.ema.module.parameters())
    assert {tensor.dtype for tensor in (*moments, *weights)} == {torch.float32}
    assert {value.dtype for value in found.values()} == {torch.float32}


def test_a_sample_agrees_with_float32(opened):
    images = {}
    for kind in ("float32", "bfloat16"):
        state, parts = lively(opened, kind)
        made = ImagePipeline(state.ema.module.net, parts, opened[1])
        images[kind] = made.in_batches([SampleSpec(label) for label in range(6)], 0, 6)
    gap = np.abs(images["float32"].astype(float) - images["bfloat16"])
    assert 0 < gap.mean() < GREY_LEVELS
    assert images["float32"].std() > 10 * GREY_LEVELS


def test_weights_cast_once_give_the_samples_of_weights_cast_at_every_call(opened, monkeypatch):
    state, parts = lively(opened, "bfloat16")
    net, specs = state.ema.module.net, [SampleSpec(label) for label in range(6)]
    once = ImagePipeline(net, parts, opened[1])
    images = once.in_batches(specs, 0, 6)
    types = {name: weight.dtype for name, weight in once._net.named_parameters()}
    assert types["encoder.0.attn.qkv.weight"] == types["final.linear.bias"] == torch.bfloat16
    assert types["encoder.0.norm1.weight"] == types["time.frequencies"] == torch.float32
    assert {weight.dtype for weight in net.parameters()} == {torch.float32}
    monkeypatch.setattr(pipeline, "cast_products", lambda net, kind: net)
    assert np.array_equal(images, ImagePipeline(net, parts, opened[1]).in_batches(specs, 0, 6))


def test_both_branches_of_guidance_are_one_batch_while_it_acts(opened, monkeypatch):
    """Four steps of Euler; a condition that has no joint form takes two calls each."""
    state, parts = lively(opened, "float32")
    config = changed(opened[1], ["sampler.name=euler", "guidance.interval=[0, 0.6]"], ("sampler", "guidance"), "")
    sizes: list[int] = []
    state.ema.module.net.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    specs = [SampleSpec(label) for label in range(3)]
    joint = ImagePipeline(state.ema.module.net, parts, config).in_batches(specs, 0, 3)
    assert sizes == [3, 3, 6, 6]
    monkeypatch.setattr(ClassCondition, "with_null", lambda self: None)
    sizes.clear()
    apart = ImagePipeline(state.ema.module.net, parts, config).in_batches(specs, 0, 3)
    assert sizes == [3, 3, 3, 3, 3, 3]
    assert np.abs(joint.astype(int) - apart).max() <= 1


def test_products_are_bfloat16_and_the_residual_stream_is_float32(opened):
    state, parts = lively(opened, "bfloat16")
    seen: dict[type, set[torch.dtype]] = {EncoderBlock: set(), DecoderBlock: set(), nn.Linear: set()}
    for module in state.module.net.modules():
        if type(module) in seen:
            module.register_forward_hook(lambda module, given, out: seen[type(module)].add(out.dtype))
    z = torch.randn(2, *parts.derived.shape.latent_shape)
    with torch.no_grad(), precision.autocast(parts.precision, "cpu"):
        pred = state.module.net(z, torch.tensor([0.2, 0.9]), parts.conditioner([1, 2], None)).pred
    assert seen == {EncoderBlock: {torch.float32}, DecoderBlock: {torch.float32}, nn.Linear: {torch.bfloat16}}
    assert pred.dtype == torch.float32


def test_the_sampler_state_is_float32(opened):
    state, parts = lively(opened, "bfloat16")
    handed = []
    state.module.net.register_forward_pre_hook(lambda module, given: handed.extend(given[:2]))
    ImagePipeline(state.module.net, parts, opened[1]).in_batches([SampleSpec(1)], 0, 1)
    assert {tensor.dtype for tensor in handed} == {torch.float32}


@pytest.mark.parametrize("native", [True, False])
def test_auto_is_bfloat16_where_it_is_native(native, monkeypatch):
    monkeypatch.setattr(precision, "native_bfloat16", lambda device: native)
    assert precision.choose("auto", "cpu") == ("bfloat16" if native else "float32")
    assert [precision.choose(asked, "cpu") for asked in ("bfloat16", "float32")] == ["bfloat16", "float32"]


def test_a_run_keeps_the_precision_it_began_with(tmp_path, monkeypatch, capsys):
    """Continuing on another machine changes neither the losses' number type nor what the record of the run says."""
    monkeypatch.setattr(precision, "native_bfloat16", lambda device: True)
    train(tiny(2, "train.precision=auto"), tmp_path, "cpu", ["test"])
    monkeypatch.setattr(precision, "native_bfloat16", lambda device: False)
    capsys.readouterr()
    run = train(tiny(2, "train.precision=auto"), tmp_path, "cpu", ["test"])
    assert "bfloat16 on cpu" in capsys.readouterr().err
    assert run.facts["precision"] == json.loads((tmp_path / "run.json").read_text())["precision"] == "bfloat16"
    assert checkpoint.read_header(next(run.checkpoints.glob("*/ema.safetensors")))["precision"] == "bfloat16"
