"""Rows from outside: an objective leaves the options of the one it replaces; a codec keeps the shape of its row."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import tiny

from diffusionbench.errors import ConfigError
from diffusionbench.schema import Strict
from nanogen.build import build_components
from nanogen.config import compose, reload
from nanogen.data import Batch
from nanogen.latents import Latent
from nanogen.objectives import OBJECTIVES, ObjectiveSpec
from nanogen.train import latents_of


class Options(Strict):
    name: str
    power: float = 1.0


@pytest.fixture
def early(monkeypatch):
    spec = ObjectiveSpec(title="early", options=Options, load="nanogen.objectives.flow:Flow")
    monkeypatch.setitem(OBJECTIVES._rows, "early", spec)


@pytest.mark.usefixtures("early")
def test_another_objective_leaves_the_options_of_the_first_and_is_read_back():
    composed = compose("digits", overrides=["objective.name=early", "objective.power=2"])
    assert composed.config.objective == {"name": "early", "power": 2}
    assert "objective.predict" not in composed.origins
    assert reload(composed.config.model_dump(mode="json"), "run").objective == composed.config.objective


@pytest.mark.usefixtures("early")
@pytest.mark.parametrize("order", [1, -1])
def test_an_option_that_was_typed_is_refused_in_either_order(order):
    with pytest.raises(ConfigError, match=r"unknown key 'objective\.predict'"):
        compose("digits", overrides=["objective.name=early", "objective.predict=v"][::order])


class Halved(Latent):
    def __init__(self):
        pass

    def encode(self, images):
        return images[..., ::2, :]


def test_a_codec_that_makes_another_shape_than_its_row_states_is_refused():
    components = replace(build_components(tiny(1).config, "cpu", "float32"), latent=Halved())
    batch = Batch(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), None, None, [0, 1])
    with pytest.raises(ConfigError, match=r"states latents of shape \[3, 8, 8\], its codec made \[3, 4, 8\]"):
        latents_of(batch, components)
