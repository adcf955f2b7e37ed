"""One network, four uses: the grids of a training, its evaluation, `nanogen sample` and `nanogen eval`.

In each of them the config's sampler and guidance act, and the network is the averaged one.
"""

from __future__ import annotations

import hashlib
import json
from itertools import count, pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import tiny
from watch import Sampling, sampling

from diffusionbench.record import Tuning
from diffusionbench.sample import noise_seed
from nanogen import checkpoint, evaluate
from nanogen.build import build_components
from nanogen.evaluate import evaluate_run
from nanogen.run import read
from nanogen.sample import SampleRequest, sample_run
from nanogen.samplers import time_grid
from nanogen.train import build, open_data, train

SETTINGS = ["sampler.name=heun", "sampler.num_steps=4", "sampler.shift=2", "guidance.scale=3"]
SETTINGS += ["guidance.interval=[0.3, 0.7]"]
# Times 1, 0.86, 0.67, 0.4, 0: the conditional velocity is asked for at each, and by Heun twice but at the last.
TIMES = time_grid(4, 2.0).tolist()
STEPS = [early - late for early, late in pairwise(TIMES)]
# Guided at 0.67 and 0.4: Heun takes the mean of both ends of a step, and the last step is Euler's.
ENDS = [3.0 if 0.3 <= time <= 0.7 else 1.0 for time in TIMES]
DRIFT = sum(step * (a + b) / 2 for step, a, b in zip(STEPS[:-1], ENDS, ENDS[1:], strict=False)) + STEPS[-1] * ENDS[-2]
PLAIN = ["sampler.name=euler", "sampler.num_steps=2", "sampler.shift=1", "guidance.scale=1"]
SCORED = ["eval.metrics=[accuracy_digits]", "eval.reference=digits", "eval.num_samples=12", "eval.batch_size=5"]
AVERAGE = ["train.ema_ramp=false", "train.ema_decay=0.5", "optim.lr=0.05"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run whose weights and their average lie far apart, trained with other settings than those asked for later."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(tiny(3, *PLAIN, *SCORED, *AVERAGE), folder, "cpu", ["test"])
    return folder


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    newest, _ = checkpoint.newest(run / "checkpoints")
    return load_file(newest.weights)


def grid(folder: Path, trained: Path) -> tuple[Sampling, Path]:
    with sampling() as seen:
        train(tiny(3, *AVERAGE, *SETTINGS, "eval.seed=4", "sample.num=12"), folder, "cpu", ["test"])
    return seen, folder


def scored_in_training(folder: Path, trained: Path) -> tuple[Sampling, Path]:
    def none(*given: object) -> None:
        pass

    with pytest.MonkeyPatch.context() as patch, sampling() as seen:
        patch.setattr("nanogen.evaluate.sample_grid", none)
        train(tiny(3, *AVERAGE, *SETTINGS, *SCORED, "eval.seed=4"), folder, "cpu", ["test"])
    return seen, folder


def sampled(folder: Path, trained: Path) -> tuple[Sampling, Path]:
    with sampling() as seen:
        sample_run(trained, SETTINGS, SampleRequest(num=12, seed=4, batch_size=5), folder / "images.npz")
    return seen, trained


def evaluated(folder: Path, trained: Path) -> tuple[Sampling, Path]:
    with sampling() as seen:
        evaluate_run(trained, [*SETTINGS, "eval.seed=4"], False, folder / "record.json")
    return seen, trained


@pytest.fixture(scope="module", params=[grid, scored_in_training, sampled, evaluated])
def use(request, tmp_path_factory, trained) -> tuple[Sampling, Path]:
    return request.param(tmp_path_factory.mktemp("use"), trained)


def test_sampler_and_guidance_act(use):
    seen, _ = use
    assert seen.drift
    # Both ends of a step, but of the last its beginning alone.
    calls = [time for step in pairwise(TIMES[:-1]) for time in step] + [TIMES[-2]]
    assert seen.times == pytest.approx(calls * len(seen.drift))
    assert seen.drift == pytest.approx([DRIFT] * len(seen.drift), rel=1e-5)


def test_noise_belongs_to_the_seed_and_the_place(use):
    seen, _ = use
    streams = (torch.Generator().manual_seed(noise_seed(4, "sample", place)) for place in range(12))
    wanted = torch.stack([torch.randn(3, 8, 8, generator=stream) for stream in streams])
    assert torch.equal(torch.cat(seen.noise), wanted)


def test_the_network_is_the_averaged_one(use):
    seen, run = use
    stored = weights_of(run)
    assert seen.nets
    for net in seen.nets:
        made = dict(net.named_parameters())
        assert all(torch.equal(made[name], stored[name]) for name in stored)
        assert not net.training


def build_like(run: Path) -> torch.nn.Module:
    data, config = open_data(read(run).config)
    return build(config, build_components(config, "cpu", "float32"), len(data)).module.net


def test_the_file_of_weights_holds_the_average_and_the_state_both(trained):
    data, config = open_data(tiny(3, *PLAIN, *SCORED, *AVERAGE).config)
    state = build(config, build_components(config, "cpu", "float32"), len(data))
    newest, _ = checkpoint.newest(trained / "checkpoints")
    checkpoint.restore(newest, state)
    stored = load_file(newest.weights)
    averaged, raw = dict(state.ema.module.net.named_parameters()), dict(state.module.net.named_parameters())
    assert all(torch.equal(averaged[name], stored[name]) for name in stored)
    assert not state.ema.module.net.training
    apart = (stored["final.linear.weight"] - raw["final.linear.weight"]).abs().mean()
    assert apart > 0.1 * raw["final.linear.weight"].abs().mean()


def test_the_record_says_how_the_images_were_made(trained, tmp_path):
    settings = [*SETTINGS, "eval.seed=4", "eval.num_samples=11"]
    protocol = evaluate_run(trained, settings, False, tmp_path / "record.json").protocol
    said = protocol.model_dump(include={"sampler", "num_steps", "shift", "seed", "count", "axis"})
    assert said == {
        "sampler": "heun",
        "num_steps": 4,
        "shift": 2.0,
        "seed": 4,
        "count": 11,
        "axis": "class_conditional",
    }
    assert protocol.guidance is not None
    assert (protocol.guidance.scale, protocol.guidance.interval) == (3.0, (0.3, 0.7))
    assert (protocol.ema, protocol.precision, protocol.quantisation) == (True, "float32", "truncate")


def test_a_record_names_its_network(trained, tmp_path):
    """By a hash of the averaged weights, so that other weights never share its images."""
    first = evaluate_run(trained, ["eval.num_samples=11"], False, tmp_path / "one.json").provenance
    stored = weights_of(trained)
    sha = hashlib.sha256()
    for name, _ in build_like(trained).named_parameters():
        sha.update(name.encode())
        sha.update(stored[name].numpy().tobytes())
    assert (first.checkpoint_digest, first.step) == (sha.hexdigest(), 3)


def test_the_tuned_scale_acts_on_its_interval(trained, tmp_path):
    overrides = ["eval.tuned_scale=5", "sampler.num_steps=2", "guidance.scale=2"]
    with sampling() as seen:
        record = evaluate_run(trained, overrides, True, tmp_path / "record.json")
    assert seen.drift
    # Time 1 lies beyond 0.9, time 0.5 inside.
    assert seen.drift == pytest.approx([0.5 * 1 + 0.5 * 5] * len(seen.drift))
    assert record.protocol.tuning == Tuning(split="not stated (eval.tuned_scale)")


def test_images_are_cut_to_8_bits(trained, tmp_path):
    """Truncated, as records say, never rounded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nanogen.latents.pixel.Pixel.decode", lambda self, z: torch.full_like(z, 100.9 / 255))
        sample_run(trained, [], SampleRequest(num=3), tmp_path / "images.npz")
    assert set(np.load(tmp_path / "images.npz")["arr_0"].flatten().tolist()) == {100}


def test_what_a_run_says_of_a_step_is_what_happened(tmp_path):
    train(
        tiny(3, "optim.warmup=2 steps", "optim.lr=1e-2", "optim.decay_start=100 %"), tmp_path / "run", "cpu", ["test"]
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["lr"] for line in lines if "lr" in line] == [5e-3, 1e-2, 1e-2]
    assert [line["step"] for line in lines if "lr" in line] == [1, 2, 3]
    header = checkpoint.read_weights(checkpoint.newest(tmp_path / "run" / "checkpoints")[0].weights)[1]
    assert (header["step"], header["precision"]) == ("3", "float32")


def test_speed_counts_the_images_since_the_last_line(tmp_path, monkeypatch):
    # A clock that goes on by one second with each look.
    monkeypatch.setattr("nanogen.outputs.time", SimpleNamespace(perf_counter=count().__next__))
    train(tiny(6, "log.every=2 steps"), tmp_path / "run", "cpu", ["test"])
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["images_per_second"] for line in lines if "lr" in line] == [16.0, 16.0, 16.0]


def test_the_record_of_a_training_tells_its_precision_and_its_config(tmp_path):
    train(tiny(1, *PLAIN, *SCORED, "train.precision=auto"), tmp_path / "run", "cpu", ["test"])
    run = read(tmp_path / "run")
    (record,) = evaluate.records_of(run.path)
    assert record.protocol.precision == run.facts["precision"] != "auto"
    assert record.provenance.config_hash == run.config.hash


def test_an_archive_says_of_each_image_what_it_shows(trained, tmp_path):
    with sampling() as seen:
        sample_run(trained, [], SampleRequest("3,1", num=5, batch_size=2), tmp_path / "images.npz")
    assert [label for labels in seen.labels for label in labels] == [3, 1, 3, 1, 3]
    assert np.load(tmp_path / "images.npz")["arr_1"].tolist() == [3, 1, 3, 1, 3]
