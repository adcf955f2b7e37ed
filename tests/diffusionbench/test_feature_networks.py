"""The five feature networks of FDr and MIND: small networks of the same classes, saved and read back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from feature_folders import save_network

from diffusionbench.available import judge_facts
from diffusionbench.errors import DataError
from diffusionbench.judges import JUDGES, NETWORKS
from diffusionbench.writing import model_folder

NAMES = tuple(row.name for row in NETWORKS)


@pytest.fixture(params=NAMES)
def judge(request, networks_installed):
    return JUDGES.load(request.param)("cpu")


def pictures(side: int = 256, count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_features_are_those_of_the_librarys_own_forward_pass(judge):
    """Where no position table is resampled and nothing padded, the network is the library's."""
    if judge.name in ("dinov2", "clip", "siglip"):
        pytest.skip("resamples its position table; compared with timm in tests/oracle")
    x = torch.from_numpy(pictures(224)).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in judge.colours)
    with torch.no_grad():
        if judge.name == "mae":
            tokens = judge._net((x - mean) / std).last_hidden_state[:, 0]
        else:
            tokens = judge._net((x - mean) / std).last_hidden_state.mean((2, 3))
    np.testing.assert_allclose(judge(pictures(224))["features"], tokens.numpy(), rtol=1e-4, atol=1e-5)


def test_images_of_another_size_are_resized_with_antialiasing(judge):
    images = pictures(300)
    x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in judge.colours)
    wanted = F.interpolate(x, (judge.side, judge.side), mode="bicubic", antialias=True)
    prepared = judge._prepared(torch.from_numpy(images))
    torch.testing.assert_close(prepared[:, :, : judge.side, : judge.side], (wanted - mean) / std)
    assert prepared.shape[2:] == ((266, 266) if judge.name in ("dinov2", "clip") else (224, 224))
    assert not prepared[:, :, judge.side :].any()
    assert not prepared[:, :, :, judge.side :].any()


def test_a_copy_in_the_cache_folder_is_read_and_another_model_is_refused_with_what_it_lacks():
    assert not judge_facts(JUDGES["mae"])["present"]
    save_network("mae", model_folder("facebook/vit-mae-large"))
    assert judge_facts(JUDGES["mae"])["present"]
    JUDGES.load("mae").check()
    assert JUDGES.load("mae")("cpu")(pictures(64))["features"].shape == (3, JUDGES["mae"].dim)
    save_network("mae", model_folder("google/siglip2-so400m-patch16-256"))
    with pytest.raises(DataError, match=r"judge 'siglip': .* tensors are missing"):
        JUDGES.load("siglip")("cpu")
