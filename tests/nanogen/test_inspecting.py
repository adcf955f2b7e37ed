"""`nanogen latents inspect`, and the page about a first stage."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from diffusionbench.errors import ConfigError, RequestError
from nanogen.cli import app
from nanogen.tokenizer.inspecting import as_text, spectrum
from nanogen.tokenizer.measure import COLUMNS, Measured, _rows


def test_the_spectrum_of_known_latents():
    # Three channels of variances 4, 1 and 1 in orthogonal directions that are no axes, and a mean.
    generator = torch.Generator().manual_seed(0)
    turned, _ = torch.linalg.qr(torch.randn(3, 3, generator=generator))
    z = torch.randn(500, 3, 8, 8, generator=generator) * torch.tensor([2.0, 1.0, 1.0])[:, None, None]
    found = spectrum(iter((torch.einsum("ij,bjhw->bihw", turned, z) + 5).split(100)))
    assert found["shape"] == [3, 8, 8]
    assert found["spectrum"] == pytest.approx([4 / 6, 1 / 6, 1 / 6], abs=0.01)
    assert found["effective_dimension"] == pytest.approx(36 / 18, rel=0.02)
    assert found["mean"] == pytest.approx(5, abs=0.05)
    flat = spectrum(iter([torch.randn(200, 1, 4, 4)]))
    assert (flat["spectrum"], flat["effective_dimension"]) == ([1.0], 1.0)
    with pytest.raises(ConfigError, match="never vary"):
        spectrum(iter([torch.ones(8, 2, 2, 2)]))


def test_a_judge_without_features_is_refused():
    with pytest.raises(RequestError, match="judge 'pixels' gives no features to compare"):
        Measured(["pixels"], "cpu")


@pytest.mark.parametrize(("latent", "size"), [("toy-rae", 64), ("toy-vae", 2)])
def test_images_of_a_size_that_the_space_does_not_take_are_refused(latent, size):
    words = ("latents", "inspect", latent, "--judges", "", f"data.image_size={size}")
    with pytest.raises(ConfigError, match=f"data.image_size is {size}"):
        CliRunner().invoke(app, words, catch_exceptions=False)


def run(*words):
    result = CliRunner().invoke(app, [*map(str, words)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_latent_space_is_measured_and_probed(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
    small = ("model.encoder_depth=1", "model.decoder_depth=1", "train.duration=2 steps", "eval.num_samples=20")
    words = ("latents", "inspect", "toy-ae", "--num", 40, "--judges", "", "--probe", tmp_path / "probe", "--json")
    found = json.loads(run(*words, *small, "eval.metrics=[accuracy_digits]", "train.checkpoint_every=never"))
    assert found["images"] == 40
    assert found["reconstruction"].keys() == {"psnr", "ssim"}
    assert found["reconstruction"]["psnr"] > 35
    assert found["latents"]["shape"] == [16, 4, 4]
    score = found["probe"]["accuracy_digits"]
    assert score["interval"][0] <= score["value"] <= score["interval"][1]
    assert score["images"] == 20
    assert (tmp_path / "probe" / "config.yaml").exists()
    text = as_text(found)
    assert "effective dimension" in text
    assert "probe accuracy_digits" in text


def test_the_report_of_a_first_stage_shows_pairs_scores_and_recipe(tmp_path, monkeypatch):
    monkeypatch.setattr("nanogen.datasets.shapes.CAPTIONS", 280)
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
    small = ("train.batch_size=8", "train.duration=2 steps", "eval.num=8", "eval.judges=[]", "net.width=8")
    folder = tmp_path / "first"
    assert str(folder) in run("tokenizer", "train", "toy-vae", "--run", folder, *small)
    page = (tmp_path / "page.html", run("report", folder, "--out", tmp_path / "page.html"))[0].read_text()
    assert "each row above that of its reconstructions, after 2 steps" in page
    assert page.count("data:image/png") == 1
    assert page.count("<code>psnr</code>") == 2
    assert "held_out" in page
    assert "<svg" in page


def test_each_image_stands_above_its_reconstruction():
    images = np.arange(40, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    rows = _rows(images, images + 100)[:, 0, 0, 0].reshape(-1, COLUMNS)
    assert (rows[1] == rows[0] + 100).all()
    assert (rows[3] == rows[2] + 100).all()
    assert rows[2, 0] == COLUMNS
