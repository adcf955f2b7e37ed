"""The page that samples in the browser: its numbers are those of the Python sampler, under node and in Chromium."""

import json
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny, words

from nanogen.build import build_components, build_network
from nanogen.conditions import SampleSpec
from nanogen.config import compose
from nanogen.live import live_data, why_not, write_live
from nanogen.pipeline import Loaded

# Unlike widths of encoder and decoder, a patch at the edge of the grid, two blocks of which one skips tokens.
SHAPES = {
    "v": ("digits", "pixel-v", ["model.encoder_depth=2", "guidance.interval=[0.2, 1.0]"]),
    "x": ("digits", "pixel-x", ["model.decoder_hidden_size=16", "model.decoder_depth=2", "sampler.shift=0.5"]),
}
NODE = """
const fs = require("fs"), Live = require(process.argv[2]);
const network = new Live.Network(JSON.parse(fs.readFileSync(process.argv[3])));
const found = JSON.parse(process.argv[4]).map((asked) => {
  let last;
  for (const state of Live.sample(network, asked)) last = state;
  return Array.from(Live.pixels(last.z, network.shape.latent));
});
console.log(JSON.stringify(found));
"""
MEANFLOW = ("objective.name=meanflow", "sampler.num_steps=1", "guidance.scale=1")
ASKED = [
    {"label": 3, "guidance": 1, "seed": 0, "steps": 3},
    {"label": 9, "guidance": 2.5, "seed": 31, "steps": 5},
    {"label": 0, "guidance": 4, "seed": 7, "steps": 1},
]


@pytest.fixture(scope="module", params=SHAPES)
def loaded(request):
    """A network whose output is far from 0: each weight is drawn anew."""
    task, method, more = SHAPES[request.param]
    config = compose(task, method, overrides=words(1, *more)).config
    components = build_components(config, "cpu", "float32")
    net = build_network(components).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, weight in net.named_parameters():
        scale = 0.02 if name == "final.linear.weight" else 0.3
        weight.copy_(scale * torch.randn(weight.shape, generator=generator) + (1.0 if "norm" in name else 0.0))
    return Loaded(config, net, components, 1, Path("tiny"))


def python_pixels(loaded, asked):
    made = loaded.pipeline([f"guidance.scale={asked['guidance']}", f"sampler.num_steps={asked['steps']}"])
    return made.in_batches([SampleSpec(label=asked["label"])], 0, 1, first=asked["seed"])[0]


def same(found, loaded):
    """To one level of 256."""
    wanted = [python_pixels(loaded, asked) for asked in ASKED]
    assert len({image.tobytes() for image in wanted}) == len(wanted)
    assert all(len(np.unique(image[(image > 0) & (image < 255)])) > 8 for image in wanted)
    for one, other in zip(found, wanted, strict=True):
        assert np.abs(np.array(one).astype(int) - other.astype(int).ravel()).max() <= 1


def test_node_samples_what_python_samples(loaded, tmp_path):
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    (tmp_path / "data.json").write_text(json.dumps(live_data(loaded)))
    (tmp_path / "run.js").write_text(NODE)
    script = files("nanogen") / "templates" / "live.js"
    words = ["node", tmp_path / "run.js", script, tmp_path / "data.json", json.dumps(ASKED)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    same(json.loads(done.stdout), loaded)


@pytest.mark.browser
def test_the_page_samples_what_python_samples_without_a_network(loaded, tmp_path, browser):
    write_live(loaded, tmp_path / "live.html")
    problems = []
    page = browser.new_page()
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: problems.append(request.url) if "live.html" not in request.url else None)
    page.goto((tmp_path / "live.html").as_uri())
    found = [
        page.evaluate(
            "(asked) => { let last; for (const one of Live.sample(network, asked)) last = one;"
            " return Array.from(Live.pixels(last.z, network.shape.latent)); }",
            asked,
        )
        for asked in ASKED
    ]
    # The controls ask for the same: what is on the canvas is what was sampled.
    page.get_by_label("9", exact=True).check(force=True)
    for name in ("guidance", "seed", "steps"):
        page.locator(f"[name={name}]").fill(str(ASKED[1][name]))
    page.wait_for_function("document.getElementById('told').dataset.done == turn")
    shown = page.evaluate("""() => { const c = document.getElementById("state");
        return Array.from(c.getContext("2d").getImageData(0, 0, c.width, c.height).data); }""")
    page.close()
    assert problems == []
    same(found, loaded)
    assert [value for place, value in enumerate(shown) if place % 4 < 3] == found[1]


def test_what_the_page_cannot_sample_is_named():
    assert why_not(tiny(1).config) is None
    for change, reason in {
        "condition.kind=text": "conditioned on text",
        "sampler.name=heun": "its sampler is heun",
        "model.decoder_depth=0": "no decoder",
        "objective.early_depth=1": "an early output",
        "model.encoder_hidden_size=1024": "more than 4,000,000 parameters",
    }.items():
        more = ["condition.encoder=minilm-l6"] if "text" in change else []
        assert reason in str(why_not(tiny(1, change, *more).config))
    assert "its latent space is toy-ae" in str(why_not(compose("digits", "toy-ae").config))
    assert "its objective is meanflow" in str(why_not(tiny(1, *MEANFLOW).config))
