"""What a training costs, before it starts: against the layers, against `nanogen bench`, and in closed form."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from typer.testing import CliRunner

from diffusionbench.errors import ConfigError, DataError, RequestError
from nanogen import calibration, costs
from nanogen.bench import Kept, bench
from nanogen.calibration import Rates, fit
from nanogen.cli import app
from nanogen.config import Config, compose, to_yaml
from nanogen.model import layers
from nanogen.model.layers import DecoderBlock, EncoderBlock, rotary_table
from nanogen.model.shape import block_parameters, swiglu_width
from nanogen.objectives import MeanFlowOptions
from nanogen.plan import DEVICES, Machine, plan, read_config
from nanogen.resolve import resolve

H200 = Machine(name="h200")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))


def config(task: str, *overrides: str, method: str | None = None, scale: str | None = None) -> Config:
    return compose(task, method, scale, overrides=overrides).config


SMALL = [
    *("model.encoder_depth=3", "model.encoder_hidden_size=96", "model.encoder_num_heads=4"),
    *("model.decoder_depth=2", "model.decoder_hidden_size=160", "model.decoder_num_heads=4"),
    *("train.compile=false", "train.batch_size=4"),
]


@pytest.mark.parametrize("task", ["imagenet256", "t2i256"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("more", [[], ["model.decoder_depth=0"], ["train.accumulation=2"]])
def test_operations_parameters_and_memory_are_what_bench_finds(task, precision, more):
    asked = config(task, *SMALL, f"train.precision={precision}", *more, scale="single-gpu")
    found = bench(asked, True, steps=1, warmup=0, num_text_tokens=64)
    shape = resolve(asked).shape
    assert costs.num_trainable(asked, shape) == found["parameters"]
    assert costs.training_flops(asked, shape, 64) == pytest.approx(1e9 * found["model_gflops_per_image"])
    kind = costs.kind(precision, "cpu")
    images = asked.train.batch_size // asked.train.accumulation
    expected = costs.memory(asked, shape, kind, images=images, text_tokens=64)
    measured = found["memory_bytes"]
    for part in ("weights", "gradients", "optimizer", "ema"):
        assert getattr(expected, part) == pytest.approx(measured[part], rel=0.01), part
    assert expected.copies + expected.activations == pytest.approx(measured["activations"], rel=0.1)


@pytest.mark.parametrize("method", ["toy-meanflow", "toy-meanflow-k0"])
def test_a_step_with_a_derivative_is_benched(method):
    # Forward mode saves zero derivatives, which have no memory to count.
    asked = config("digits", *SMALL, "objective.fm_ratio=0", method=method)
    found = bench(asked, True, steps=1, warmup=0)
    assert found["parameters"] == costs.num_trainable(asked, resolve(asked).shape)
    assert found["memory_bytes"]["activations"] > 0


@pytest.mark.parametrize("block, modulated", [(EncoderBlock, False), (DecoderBlock, True)])
def test_fused_attention_keeps_no_scores(monkeypatch, block, modulated):
    monkeypatch.setattr(layers, "attend", lambda q, k, v, mask: F.scaled_dot_product_attention(q, k, v))
    width, heads, tokens, images = 128, 4, 100, 3
    layer, rows = costs._KEPT["bfloat16"], rotary_table(10, 10, width // heads)
    net, x = block(width, heads), torch.randn(images, tokens, width, requires_grad=True)
    assert sum(weight.numel() for weight in net.parameters()) == block_parameters(width, heads, modulated)
    with torch.autocast("cpu", torch.bfloat16), Kept(net) as kept:
        c = (x * 1).bfloat16()
        net(x * 1, *([c, rows] if modulated else [rows, None]))
    per_token = (layer.decoder if modulated else layer.encoder) * width
    per_token += layer.hidden * swiglu_width(width) + heads * layer.heads + 8
    copies = 2 * sum(weight.numel() for weight in net.parameters() if weight.ndim == 2)
    assert kept.num_bytes - copies == pytest.approx(images * tokens * per_token, rel=0.05)


@pytest.mark.parametrize(
    "task, method, parameters",
    [
        ("imagenet256", "sd-vae-ema", 611_304_996),
        ("t2i256", "sd-vae-ema", 611_324_452),
        ("imagenet256", "flux2-vae", 611_892_884),
        ("t2i256", "dinov2-b", 615_271_700),
    ],
)
def test_parameters_are_the_published_ones(task, method, parameters):
    assert plan(config(task, method=method), H200).parameters == parameters


def test_an_alignment_loss_adds_its_map():
    asked = config("imagenet256", "losses.repa.weight=0.5")
    assert plan(asked, H200).parameters == 611_304_996 + 885_504
    assert plan(config("imagenet256", "losses.repa.weight=0"), H200).parameters == 611_304_996


def test_a_derivative_and_guidance_cost_further_passes():
    def passes(**options) -> float:
        return MeanFlowOptions(name="meanflow", predict="v", **options).passes()

    assert passes(fm_ratio=1.0) == 3
    assert passes(fm_ratio=0.0) == 4
    assert passes(fm_ratio=0.75, omega=2.0) == 0.75 * 4 + 0.25 * 5
    assert passes(fm_ratio=0.5, kappa=0.5) == 0.5 * 4 + 0.5 * 6


def test_time_at_a_stated_share_of_the_peak():
    # methods.md and performance.md: 996.6 GFLOP an image; 100,080 steps are 80 epochs of 1,251.
    asked = config("imagenet256", "eval.metrics=[]")
    found = plan(asked, Machine(devices=8, name="h200", utilisation=0.5, price=2.0), num_images=1_281_167)
    assert found.steps == 80 * 1251
    rate = 8 * 0.5 * DEVICES["h200"].peak / found.training_flops
    assert found.images_per_second == pytest.approx(rate)
    assert found.training_hours == pytest.approx(found.steps * 1024 / rate / 3600)
    assert found.money == pytest.approx(16 * found.training_hours)
    assert "stated 50% of its peak" in found.lines()[0]


def test_epochs_of_unknown_data_are_not_guessed():
    found = plan(config("imagenet256"), H200)
    assert (found.steps, found.training_hours, found.money) == (None, None, None)
    assert "unknown number of steps" in found.lines()[0]


def test_guidance_in_an_interval_costs_a_second_pass_there():
    plain = config("imagenet256", "sampler.num_steps=10", "sampler.shift=1")
    half = config(
        "imagenet256", "sampler.num_steps=10", "sampler.shift=1", "guidance.scale=2", "guidance.interval=[0,0.5]"
    )
    one = resolve(plain).shape.forward_flops()
    assert costs.sampling_flops(plain, resolve(plain)) == 10 * one
    # Of the times 1, 0.9, ... 0.1 five are at most 0.5.
    assert costs.sampling_flops(half, resolve(half)) == 15 * one
    assert costs.sampling_flops(config("imagenet256", "sampler.name=heun"), resolve(plain)) > costs.sampling_flops(
        config("imagenet256"), resolve(plain)
    )


def test_what_does_not_fit_is_told_with_the_setting_that_makes_it_fit():
    asked = config("t2i256")
    found = plan(asked, Machine(devices=8, name="h200"))
    assert found.memory.total > DEVICES["h200"].memory
    (remedy,) = [one for one in found.remedies if "device has" in one]
    assert "train.accumulation=2" in remedy
    again = plan(config("t2i256", "train.accumulation=2"), Machine(devices=8, name="h200"))
    assert again.memory.total < DEVICES["h200"].memory
    assert not [one for one in again.remedies if "device has" in one]
    assert "No setting makes it fit" in "".join(plan(asked, Machine(devices=8, name="h200", memory=1e9)).remedies)
    little = plan(asked, Machine(devices=8, name="h200", memory=1.2e10)).remedies
    assert any("train.shard=full" in one for one in little)


def test_sharding_leaves_a_share_and_checkpointing_little():
    shape, asked = resolve(config("imagenet256")).shape, config("imagenet256")
    whole = costs.memory(asked, shape, "bfloat16", images=8, text_tokens=0)
    shared = costs.memory(asked, shape, "bfloat16", images=8, text_tokens=0, group=8)
    for part in ("weights", "gradients", "optimizer", "ema"):
        assert getattr(shared, part) == pytest.approx(getattr(whole, part) / 8)
    once = costs.activation_bytes(shape, "bfloat16", 0)
    assert costs.activation_bytes(shape, "bfloat16", 0, checkpointing=True) < 0.2 * once


def test_disk_counts_checkpoints_caches_and_evaluations():
    asked = config("digits", "eval.every=100 steps", "train.keep=2", "latent.cache=cache")
    found = plan(asked, H200)
    parameters = found.parameters
    assert found.disk["checkpoints"] == 3 * 16 * parameters
    assert found.disk["evaluations"] == 6 * 359 * 3 * 8 * 8
    few = plan(config("digits", "eval.every=100 steps", "eval.keep_images=first 24"), H200)
    assert few.disk["evaluations"] == (359 + 6 * 24) * 3 * 8 * 8, "all of one until it is scored"
    assert found.disk["latents"] == 2 * 1438 * 3 * 8 * 8


RATES = Rates(
    device="a processor",
    kind="cpu",
    precision="float32",
    compile=False,
    threads=1,
    memory=2**30,
    date="2026-12-01",
    commit=None,
    per_flop=1e-11,
    per_byte=1e-9,
    per_parameter=1e-8,
    per_step=0.01,
    error=0.1,
)


def test_a_calibrated_machine_is_used():
    assert plan(config("digits")).images_per_second is None
    calibration.keep(RATES)
    calibration.keep(RATES.model_copy(update={"per_step": 0.02}))
    assert [one.per_step for one in calibration.read()] == [0.02]
    found, shape = plan(config("digits")), resolve(config("digits")).shape
    kept = costs.activation_bytes(shape, "float32", 64)
    seconds = 64 * (1e-11 * found.training_flops + 1e-9 * kept) + 1e-8 * found.parameters + 0.02
    assert found.images_per_second == pytest.approx(64 / seconds)
    assert "measured 2026-12-01" in found.lines()[0]
    assert len(found.lines()) == 3


def test_a_measured_step_is_trusted_above_any_calibration():
    calibration.keep(RATES.model_copy(update={"error": 0.78}))
    found = plan(config("digits"), Machine(step_seconds=0.25))
    assert found.images_per_second == pytest.approx(64 / 0.25)
    assert found.training_hours == pytest.approx(found.steps * 0.25 / 3600)
    drawn = 360 * found.sampling_flops / found.training_flops
    assert found.evaluation_hours == pytest.approx(drawn * 0.25 / 64 / 3600, rel=0.01)
    assert found.lines()[0].endswith("on 1 x this machine, by its first steps")


def test_the_lines_say_what_is_not_known_and_what_is_doubtful():
    unknown = plan(config("digits")).lines()
    assert re.search(r"^time unknown, disk .* MB; once `nanogen bench --calibrate` has measured this", unknown[2])
    calibration.keep(RATES)
    assert plan(config("digits")).lines()[0].endswith("to within 10%")
    calibration.keep(RATES.model_copy(update={"error": 0.78}))
    assert plan(config("digits")).lines()[0].endswith("to within 78%; measure again on an idle machine")


def test_a_damaged_calibration_is_refused():
    calibration.place().parent.mkdir(parents=True)
    calibration.place().write_text("{")
    with pytest.raises(RequestError, match="nanogen bench --calibrate"):
        plan(config("digits"))


def test_the_fit_finds_rates_and_none_below_zero():
    drawn = np.random.default_rng(0)
    rows = drawn.uniform(0.5, 2, (8, 3)) * np.array([1e10, 1e8, 1e6])
    rates = np.array([1e-11, 1e-9, 2e-8, 0.03])
    seconds = rows @ rates[:3] + rates[3]
    found, error = fit([(*row, second) for row, second in zip(rows.tolist(), seconds.tolist(), strict=True)])
    assert found == pytest.approx(rates, rel=1e-6)
    assert error < 1e-6
    # A step that gets quicker with its parameters says nothing about parameters.
    odd, _ = fit([(*row, row[0] * 1e-11 - row[2] * 1e-10) for row in rows.tolist()])
    assert odd.min() == odd[2] == 0


def test_a_run_folder_is_planned_as_it_was_composed(tmp_path):
    from nanogen.config import to_yaml

    asked = config("digits", "train.batch_size=32")
    (tmp_path / "config.yaml").write_text(to_yaml(asked))
    one, other = (plan(config, H200).as_dict() for config in (read_config(tmp_path), asked))
    # Others write to the disk meanwhile.
    assert one | {"free": 0} == other | {"free": 0}
    with pytest.raises(ConfigError, match="not a run folder"):
        read_config(tmp_path / "nothing")


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="3 devices"):
        plan(config("digits"), Machine(devices=3, name="h200"))
    with pytest.raises(RequestError, match=r"unknown.*h200"):
        Machine(name="h20")
    with pytest.raises(RequestError, match="Name one with --device"):
        Machine(utilisation=0.3)
    with pytest.raises(DataError, match="10 images, fewer than one batch of 64"):
        plan(config("digits"), H200, num_images=10)
    with pytest.raises(ConfigError, match="no step at all"):
        plan(config("digits", "train.duration=0 steps"), H200)


def test_nothing_beside_a_run_folder_is_ignored(tmp_path):
    (tmp_path / "config.yaml").write_text(to_yaml(config("digits")))
    for words in (["optim.lr=1"], ["--task", "digits"], ["--data", "x"]):
        done = CliRunner().invoke(app, ["plan", str(tmp_path), *words])
        assert "whose own config is planned" in str(done.exception)
    assert CliRunner().invoke(app, ["plan", str(tmp_path)]).exit_code == 0


def test_the_plan_as_plain_data():
    found = json.loads(json.dumps(plan(config("digits"), H200).as_dict()))
    assert found["memory"]["total"] == pytest.approx(sum(v for k, v in found["memory"].items() if k != "total"))
    assert found["disk"]["total"] > 0
    assert found["remedies"] == []
