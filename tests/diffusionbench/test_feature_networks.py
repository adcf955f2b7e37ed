"""The five feature networks of FDr and MIND: small networks of the same classes, saved and read back."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from feature_folders import save_network
from safetensors.torch import load_file, save_file

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
    prepared = judge._prepared(judge.pixels(images))
    torch.testing.assert_close(prepared[:, :, : judge.side, : judge.side], (wanted - mean) / std)
    assert prepared.shape[2:] == ((266, 266) if judge.name in ("dinov2", "clip") else (224, 224))
    assert not prepared[:, :, judge.side :].any()
    assert not prepared[:, :, :, judge.side :].any()


@pytest.mark.parametrize("name", ["convnext", "siglip"])
def test_the_upstream_mode_differs_where_autocast_acts_and_there_alone(name, networks_installed, monkeypatch):
    """On a CPU, with its own autocast in the place of CUDA's."""
    plain, upstream = JUDGES.load(name)(), JUDGES.load(f"{name}_upstream")()
    exact = plain(pictures())["features"]
    np.testing.assert_array_equal(upstream(pictures())["features"], exact)
    assert upstream.digest != plain.digest
    autocast = torch.autocast
    monkeypatch.setattr(torch, "autocast", lambda device, *given, **options: autocast("cpu", torch.bfloat16, **options))
    for judge in (plain, upstream):
        judge._autocast = not judge.is_float32
    half, other = plain(pictures())["features"], upstream(pictures())["features"]
    assert np.abs(half - exact).max() > 1e-4 * np.abs(exact).max()
    if name == "convnext":
        np.testing.assert_array_equal(other, exact)
        return
    assert np.abs(other - exact).max() > 0
    assert np.abs(other - half).max() > 0
    # The pool is exact on what the trunk gives.
    kept = []
    upstream._net.head.register_forward_pre_hook(lambda module, given: kept.append(given[0]))
    found = upstream(pictures())["features"]
    with torch.no_grad():
        wanted = upstream._net.head(kept[-1].float())
    assert kept[-2].dtype == kept[-1].dtype == torch.float32
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5, atol=1e-6)


def test_both_names_of_convnext_s_response_norm_are_read(network_folders):
    """Older files call its gain and bias gamma and beta."""
    folder = model_folder(JUDGES["convnext"].hub[0])
    shutil.copytree(network_folders["convnext"], folder)
    expected = JUDGES.load("convnext")()
    tensors = load_file(folder / "model.safetensors")
    older = {name.replace("grn.weight", "grn.gamma").replace("grn.bias", "grn.beta"): x for name, x in tensors.items()}
    assert older.keys() != tensors.keys()
    save_file(older, folder / "model.safetensors", {"format": "pt"})
    found = JUDGES.load("convnext")()
    assert found.digest == expected.digest
    np.testing.assert_array_equal(found(pictures(64))["features"], expected(pictures(64))["features"])


def test_a_copy_in_the_cache_folder_is_read_and_another_model_is_refused_with_what_it_lacks():
    assert not judge_facts(JUDGES["mae"])["present"]
    save_network("mae", model_folder("facebook/vit-mae-large"))
    assert judge_facts(JUDGES["mae"])["present"]
    JUDGES.load("mae").check()
    assert JUDGES.load("mae")("cpu")(pictures(64))["features"].shape == (3, JUDGES["mae"].dim)
    save_network("mae", model_folder("google/siglip2-so400m-patch16-256"))
    with pytest.raises(DataError, match=r"judge 'siglip': .* tensors are missing"):
        JUDGES.load("siglip")("cpu")
