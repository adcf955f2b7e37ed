"""The loss by time on fixed images and noise: its value in closed form, and where it stands in the log of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny

from nanogen.build import build_components
from nanogen.data.memory import CachedLatents
from nanogen.model.dit import Output
from nanogen.pipeline import open_weights
from nanogen.timeloss import NUM_IMAGES, LossByTime
from nanogen.train import fixed_images, open_data, train, training_source

BINS = ["0-0.2", "0.2-0.4", "0.4-0.6", "0.6-0.8", "0.8-1"]
SCORED = ("eval.metrics=[accuracy_digits]", "eval.every=2 steps", "eval.num_samples=4")


def measured(net: Any, *overrides: str) -> dict[str, float]:
    data, config = open_data(tiny(1, *overrides).config)
    components = build_components(config, "cpu", "float32")
    return LossByTime(components, lambda: fixed_images(data, components))(net)


@pytest.mark.parametrize("overrides", [("objective.predict=v",), ("objective.name=meanflow", "guidance.scale=1")])
def test_each_bin_has_the_error_of_the_velocity_at_its_middle(overrides):
    seen: list[tuple] = []

    def ones(z, t, condition, r=None, taps=()):
        seen.append((z, t, condition.labels, r))
        return Output(torch.ones_like(z))

    found = measured(ones, *overrides)
    assert list(found) == BINS
    data = open_data(tiny(1).config)[0]
    stride = len(data) // NUM_IMAGES
    images = torch.stack([torch.from_numpy(data[stride * place].image) for place in range(NUM_IMAGES)])
    x = 2 * images.permute(0, 3, 1, 2).float() / 255 - 1
    labels = [data.label(stride * place) for place in range(NUM_IMAGES)]
    noises = []
    for (z, t, told, r), value in zip(seen, found.values(), strict=True):
        assert t.unique().numel() == 1
        assert r is None or r.equal(t)
        assert told.tolist() == labels
        eps = (z - (1 - t[0]) * x) / t[0]
        noises.append(eps)
        assert value == pytest.approx((1 - (eps - x)).square().mean().item(), rel=1e-4)
    assert [round(t[0].item(), 6) for _, t, *_ in seen] == [0.1, 0.3, 0.5, 0.7, 0.9]
    assert all(torch.allclose(eps, noises[0], atol=1e-4) for eps in noises)
    assert noises[0].std().item() == pytest.approx(1, abs=0.05)


def test_a_network_that_knows_the_velocity_has_no_error():
    data, config = open_data(tiny(1, "objective.predict=x").config)
    components = build_components(config, "cpu", "float32")
    x, _ = fixed_images(data, components)
    found = LossByTime(components, lambda: fixed_images(data, components))(lambda *given, **more: Output(x))
    assert max(found.values()) < 1e-9


def test_an_objective_says_what_the_clean_states_are(monkeypatch):
    data, config = open_data(tiny(1, "objective.predict=x").config)
    components = build_components(config, "cpu", "float32")
    monkeypatch.setattr(type(components.objective), "state", lambda self, x, batch: x + len(batch.label))
    x, _ = fixed_images(data, components)
    found = LossByTime(components, lambda: fixed_images(data, components))(lambda *given, **more: Output(x + len(x)))
    assert max(found.values()) < 1e-6


def told(run: Path) -> dict[int, dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [(line.pop("step"), line) for line in lines if f"fixed_loss/{BINS[0]}" in line]
    assert len({step for step, _ in found}) == len(found)
    return {step: {key: value for key, value in line.items() if key != "time"} for step, line in found}


def test_the_log_has_it_of_each_evaluation_once(tmp_path):
    asked = tiny(4, *SCORED)
    train(asked, tmp_path / "run", "cpu", [])
    found = told(tmp_path / "run")
    assert [*found] == [2, 4]
    loaded = open_weights(tmp_path / "run", "cpu")
    data = open_data(asked.config)[0]
    again = LossByTime(loaded.components, lambda: fixed_images(data, loaded.components))(loaded.net)
    assert found[4] == pytest.approx({f"fixed_loss/{name}": value for name, value in again.items()})
    train(asked, tmp_path / "run", "cpu", [])
    assert told(tmp_path / "run") == found


def test_a_run_that_was_stopped_before_an_evaluation_makes_it_up(tmp_path, monkeypatch):
    asked = tiny(4, *SCORED, "eval.every=never")
    with monkeypatch.context() as patch:
        patch.setattr(LossByTime, "__call__", lambda self, net: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            train(asked, tmp_path / "run", "cpu", [])
    assert told(tmp_path / "run") == {}
    train(asked, tmp_path / "run", "cpu", [])
    assert [*told(tmp_path / "run")] == [4]


def test_cached_latents_are_measured_as_images_are():
    data, config = open_data(tiny(20, "latent.cache_mb=64", "train.batch_size=100").config)
    components = build_components(config, "cpu", "float32")
    source = training_source(data, config, components)
    assert isinstance(source, CachedLatents)
    x, batch = fixed_images(source, components)
    y, other = fixed_images(data, components)
    assert x.equal(y)
    assert batch.label.equal(other.label)
