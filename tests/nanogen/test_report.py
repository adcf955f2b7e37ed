"""The report's parts: curves, numbers for readers, pictures with their prompts, and a sample on its way."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import words

from diffusionbench.images import grid, save_png
from nanogen.build import build_components, build_network
from nanogen.chart import line_chart, smooth, ticks
from nanogen.conditions import SampleSpec
from nanogen.config import compose
from nanogen.pipeline import ImagePipeline
from nanogen.report import FRAMES, _newest_grid, _tiles, filmstrip, number, title


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.12345, "0.123"),
        (6.939e-18, "0.000"),
        (-1e-9, "0.000"),
        (12.5, "12.500"),
        (1234.567, "1235"),
        (-0.5, "-0.500"),
    ],
)
def test_numbers_are_for_readers(value, shown):
    assert number(value) == shown


def test_scores_have_names_for_readers():
    assert title("accuracy_digits") == "Accuracy (digits)"
    assert title("simpleeval_shapes_v1_colour") == "colour"
    assert title("my_metric") == "my metric"


def test_a_smoothed_curve_keeps_a_constant_and_halves_its_noise():
    flat = smooth([(step, 3.0) for step in range(90)])
    assert flat == [(step, pytest.approx(3.0)) for step in range(90)]
    noisy = [(step, 1.0 + (-1) ** step) for step in range(300)]
    assert np.std([y for _, y in smooth(noisy)[50:]]) < 0.15


def test_ticks_are_round_and_lie_inside():
    assert ticks(0, 600) == [0, 200, 400, 600]
    assert ticks(0.13, 0.42) == pytest.approx([0.2, 0.3, 0.4])


def test_a_chart_holds_each_line_twice_in_the_colours_of_the_page():
    lines = {"flow": [(step, 1 / step) for step in range(1, 50)], "<b>": [(1, 2.0), (2, float("nan")), (3, 1.0)]}
    drawn = line_chart(lines, "step", "loss")
    assert drawn.count("<polyline") == 4
    assert "var(--series-1)" in drawn
    assert "&lt;b&gt;" in drawn
    assert "nan" not in drawn
    # Steps run from left to right, and a falling loss runs down, which is up in the numbers of SVG.
    places = re.search('points="([^"]*)" class="smooth"', drawn)[1].split()
    first, last = (tuple(map(float, place.split(","))) for place in (places[0], places[-1]))
    assert first[0] < last[0]
    assert first[1] < last[1]
    assert line_chart({}, "step", "loss") == line_chart({"a": [(1, float("inf"))]}, "step", "loss") == ""


def test_pictures_of_a_grid_stand_above_their_prompts(tmp_path):
    images = np.stack([np.full((32, 32, 3), 20 * place, np.uint8) for place in range(12)])
    file = tmp_path / "samples" / "step-00000004.png"
    save_png(grid(images, 10), file, {"prompts": [f"picture {place}" for place in range(12)]})
    tiles = _tiles(_newest_grid(tmp_path, [{"step": 4}]))
    assert [tile["prompt"] for tile in tiles] == [f"picture {place}" for place in range(8)]
    for place, tile in enumerate(tiles):
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(tile["uri"].split(",")[1]))))
        assert (shown == 20 * place).all()
    save_png(grid(images, 10), file, {"labels": [0] * 12})
    assert _tiles(_newest_grid(tmp_path, [{"step": 4}])) == []


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_a_filmstrip_runs_from_the_noise_to_the_sample(sampler):
    config = compose("digits", overrides=words(1, "sampler.num_steps=12", f"sampler.name={sampler}")).config
    components = build_components(config, "cpu", "float32")
    net = build_network(components).eval().requires_grad_(False)
    torch.manual_seed(0)
    net.final.linear.weight.normal_()
    pipeline, spec = ImagePipeline(net, components, config), SampleSpec(label=3)
    frames = filmstrip(pipeline, spec, 5)
    assert len(frames) == FRAMES
    assert [t for t, _ in frames] == sorted((t for t, _ in frames), reverse=True)
    assert (frames[0][0], frames[-1][0]) == (1, 0)
    sample = pipeline.in_batches([spec], 5, 1)[0]
    assert np.array_equal(frames[-1][1], sample)
    apart = [np.abs(image.astype(int) - sample).mean() for _, image in frames]
    assert apart == sorted(apart, reverse=True)
