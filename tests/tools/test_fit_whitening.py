"""The tool that fits the whitening of text states, with a tiny encoder."""

import json

import pytest
import torch
from encoders import save_encoder

import fit_whitening
from diffusionbench.schema import file_digest
from nanogen.text import open_spec
from nanogen.text.encoder import whitening_card

pytest.importorskip("transformers", reason="text encoders need the extra t2i")


def test_whitened_states_have_no_direction_that_hides_the_others():
    generator = torch.Generator().manual_seed(0)
    deviations = torch.tensor([100.0, 5.0, 2.0, 1.0])
    turn = torch.linalg.qr(torch.randn(4, 4, generator=generator)).Q
    states = torch.randn(20_000, 4, generator=generator) * deviations @ turn + 7
    white = fit_whitening.fit(states, floor=0.01)(states)
    assert white.mean(0).abs().max() < 1e-3
    covariance = white.T @ white / len(white)
    # The floor, 0.01 of the largest deviation, equals the smallest deviation: half of that variance is left.
    expected = torch.diag(deviations.square() / (deviations.square() + 1))
    torch.testing.assert_close(covariance, expected, atol=0.02, rtol=0)


def test_the_shipped_whitening_is_of_this_recipe():
    card = whitening_card("minilm_l6_shapes")
    assert card["sha256"] == file_digest(fit_whitening.WEIGHTS)
    assert card["recipe"] == fit_whitening.RECIPE
    assert fit_whitening.WEIGHTS.stat().st_size < 300_000


def test_the_tool_fits_a_whitening_and_writes_its_card(tmp_path, monkeypatch):
    monkeypatch.setattr(fit_whitening, "RECIPE", {"captions": 40, "floor": 0.1})
    spec = open_spec(str(save_encoder(tmp_path / "encoder", "qwen3")))
    made = fit_whitening.main(tmp_path, spec)
    assert made["sha256"] == file_digest(tmp_path / fit_whitening.WEIGHTS.name)
    assert json.loads((tmp_path / fit_whitening.CARD.name).read_text()) == made
