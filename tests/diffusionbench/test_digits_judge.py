"""The shipped judge of digits: accurate, small, and the same on every machine."""

import numpy as np
import pytest

from diffusionbench.judges import digits as judge
from diffusionbench.judges.digits import CARD, WEIGHTS, DigitsJudge, card
from diffusionbench.references import digits
from diffusionbench.schema import file_digest


def test_the_judge_knows_digits_it_has_not_seen():
    images, labels = digits.read("held_out")
    accuracy = (DigitsJudge()(images)["logits"].argmax(1) == labels).mean()
    assert accuracy >= 0.98
    assert accuracy == pytest.approx(card()["accuracy"]["held_out"], abs=1 / 359)


def test_the_weights_are_small_and_those_of_the_card():
    assert WEIGHTS.stat().st_size <= 1_000_000
    assert file_digest(WEIGHTS) == card()["sha256"]
    assert CARD.stat().st_size < 50_000


def test_this_machine_gives_the_shipped_features():
    assert DigitsJudge().self_test() < 1e-4


def test_other_weights_fail_the_self_test(monkeypatch, tmp_path):
    from safetensors.torch import load_file, save_file

    weights = load_file(WEIGHTS)
    weights["hidden.bias"] = weights["hidden.bias"] + 0.1
    save_file(weights, tmp_path / "other.safetensors")
    monkeypatch.setattr(judge, "WEIGHTS", tmp_path / "other.safetensors")
    monkeypatch.setattr(judge, "card", lambda: card() | {"sha256": file_digest(tmp_path / "other.safetensors")})
    assert DigitsJudge().self_test() > 1e-3


def test_grey_is_the_mean_of_the_channels():
    image = np.zeros((1, 8, 8, 3), np.uint8)
    image[..., 0] = 255
    assert float(judge.to_grey(image).max()) == pytest.approx(1 / 3)
    painted, grey = np.zeros((1, 8, 8, 3), np.uint8), np.full((1, 8, 8, 3), 60, np.uint8)
    painted[..., 2] = 180
    np.testing.assert_allclose(DigitsJudge()(painted)["features"], DigitsJudge()(grey)["features"], rtol=1e-5)


@pytest.mark.parametrize("times", [2, 3])
def test_a_digit_of_repeated_pixels_is_the_same_digit(times):
    images = digits.read("held_out")[0][:20]
    large = images.repeat(times, axis=1).repeat(times, axis=2)
    np.testing.assert_allclose(judge.to_grey(large), judge.to_grey(images), atol=1e-6)
    noise = np.random.default_rng(0).integers(0, 256, large.shape, dtype=np.uint8)
    means = noise.reshape(20, 8, times, 8, times, 3).mean(axis=(2, 4, 5)) / 255
    np.testing.assert_allclose(judge.to_grey(noise)[:, 0], means, atol=1e-6)
    assert judge.to_grey(np.zeros((1, 9, 9, 3), np.uint8)).shape == (1, 1, 8, 8)
