"""The judge of digits against its layers written out in NumPy, in double precision."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from diffusionbench.judges import digits as judge


def silu(x):
    return x / (1 + np.exp(-x))


def convolved(x, weight, bias):
    """3x3 cross-correlation of [C, H, W] with zero padding."""
    height, width = x.shape[1:]
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
    windows = np.stack([padded[:, i : i + height, j : j + width] for i in range(3) for j in range(3)])
    return np.einsum("kchw,dck->dhw", windows, weight.reshape(*weight.shape[:2], 9)) + bias[:, None, None]


def halved(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


@pytest.mark.parametrize("seed", range(3))
def test_features_and_logits_are_those_of_the_layers(seed):
    w = {name: array.astype(np.float64) for name, array in load_file(judge.WEIGHTS).items()}
    image = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    x = image.astype(np.float64).mean(axis=-1)[None] / 255
    x = silu(convolved(x, w["conv1.weight"], w["conv1.bias"]))
    x = halved(silu(convolved(x, w["conv2.weight"], w["conv2.bias"])))
    x = halved(silu(convolved(x, w["conv3.weight"], w["conv3.bias"])))
    features = silu(w["hidden.weight"] @ x.reshape(-1) + w["hidden.bias"])
    logits = w["out.weight"] @ features + w["out.bias"]
    found = judge.DigitsJudge()(image[None])
    np.testing.assert_allclose(found["features"][0], features, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found["logits"][0], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_the_card_states_the_accuracy_that_is_measured(split):
    from diffusionbench.references import digits

    images, labels = digits.read(split)
    found = (judge.DigitsJudge()(images)["logits"].argmax(axis=1) == labels).mean()
    # One image may fall on the other side on another machine.
    assert found == pytest.approx(judge.card()["accuracy"][split], abs=1.5 / len(labels))
