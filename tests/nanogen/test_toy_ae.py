"""The shipped autoencoder: what it keeps of an image, under noise too, and the script that trains it."""

import json
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
import torch

import train_toy_ae
from diffusionbench.errors import RequestError
from diffusionbench.judges.digits import WEIGHTS as JUDGE
from diffusionbench.schema import file_digest
from nanogen import log
from nanogen.latents import open_latent, toy
from nanogen.latents.toy import CARD, WEIGHTS, card
from nanogen.tokenizer.reconstruction import Reconstruction, detail


@pytest.fixture(scope="module", autouse=True)
def one_process():
    """Rendering a few scenes takes less than starting a process that imports torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_toy_ae, "ProcessPoolExecutor", lambda mp_context: ThreadPoolExecutor(1))
        yield


@pytest.fixture(scope="module")
def held_out(one_process):
    """128 scenes that it was not trained on, float32 [128, 3, 32, 32] in [0, 1]."""
    return train_toy_ae.scenes(2 * train_toy_ae.RECIPE["scenes"], 128).float() / 255


def psnr(found, wanted):
    return -10 * (found.clamp(0, 1) - wanted).square().mean().log10().item()


def test_the_weights_are_small_and_those_of_the_card():
    assert WEIGHTS.stat().st_size <= 2_000_000
    assert file_digest(WEIGHTS) == card()["sha256"]
    assert card()["recipe"] == train_toy_ae.RECIPE
    assert file_digest(WEIGHTS) != file_digest(JUDGE)


def test_reconstructions_are_as_good_as_the_card_says(held_out):
    latent = open_latent("toy-ae", "cpu")
    assert psnr(latent.decode(latent.encode(held_out)), held_out) == pytest.approx(card()["psnr"]["scenes"], abs=0.5)
    digits = train_toy_ae.handwritten("held_out").float() / 255
    assert psnr(latent.decode(latent.encode(digits)), digits) == pytest.approx(card()["psnr"]["digits"], abs=0.1)


def test_latents_are_normalised_and_noise_on_them_is_forgiven(held_out):
    latent = open_latent("toy-ae", "cpu")
    z = latent.encode(held_out)
    assert z.mean((0, 2, 3)).abs().max() < 0.25
    assert (z.std((0, 2, 3)) - 1).abs().max() < 0.25
    noisy = latent.decode(z + 0.4 * torch.randn(z.shape, generator=torch.Generator().manual_seed(0)))
    assert psnr(noisy, held_out) > card()["psnr"]["scenes"] - 2


def test_missing_or_other_weights_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(toy, "WEIGHTS", tmp_path / "toy_ae.safetensors")
    with pytest.raises(RequestError, match=r"'toy-ae' needs its weights .* which are missing\. Reinstall"):
        open_latent("toy-ae", "cpu")
    (tmp_path / "toy_ae.safetensors").write_bytes(WEIGHTS.read_bytes()[:-1] + b"x")
    with pytest.raises(RequestError, match=r"do not have the SHA-256 that their card names"):
        open_latent("toy-ae", "cpu")


def test_the_script_learns_and_writes_weights_with_their_card(tmp_path, monkeypatch):
    recipe = train_toy_ae.RECIPE
    small = {
        "scenes": 64,
        "batch": 8,
        "digits": 1,
        "noise": 0.0,
        "rate": 3 * recipe["rate"],
        "muon": 3 * recipe["muon"],
    }
    digits = train_toy_ae.handwritten("held_out")[:32]
    monkeypatch.setattr(train_toy_ae, "RECIPE", recipe | small)
    monkeypatch.setattr(train_toy_ae, "handwritten", lambda split: digits)
    monkeypatch.setattr(train_toy_ae, "HELD_OUT", 16)
    before = train_toy_ae.main(tmp_path, tmp_path / "one", steps=1)
    made = train_toy_ae.main(tmp_path, tmp_path / "run", steps=50)
    assert [line["step"] for line in log.read(tmp_path / "run" / "metrics.jsonl")] == [50]
    assert made["psnr"]["scenes"] > before["psnr"]["scenes"] + 0.3
    assert json.loads((tmp_path / CARD.name).read_text()) == made
    assert file_digest(tmp_path / WEIGHTS.name) == made["sha256"]


@pytest.mark.slow
def test_processes_render_the_scenes_of_one(monkeypatch):
    alone = train_toy_ae.scenes(7, 20)
    monkeypatch.setattr(train_toy_ae, "ProcessPoolExecutor", ProcessPoolExecutor)
    assert torch.equal(train_toy_ae.scenes(7, 20), alone)


def test_the_loss_sees_a_faint_pattern_and_no_shade():
    flat = torch.zeros(2, 3, 16, 16)
    pattern = 0.1 * (torch.arange(16) % 2 * 2.0 - 1).expand(2, 3, 16, 16)
    assert detail(flat + 0.3).abs().max() < 1e-6
    terms = Reconstruction(noise=0.0, coloured=3.0, detail=1.5).terms(pattern, flat)
    assert terms["pixels"].tolist() == pytest.approx([0.11] * 2)
    assert terms["detail"].min() > 0.7 * 1.5 * 0.1
    # A colour counts threefold.
    red = torch.tensor([0.5, -0.5, -0.5])[None, :, None, None].expand(2, 3, 16, 16)
    assert Reconstruction(0.0, 3.0, 1.5).terms(flat, red)["pixels"].tolist() == pytest.approx([3 * 0.75] * 2)


@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (30, 5, 1, 1)], ids=["wide", "tall"])
def test_a_step_of_muon_is_nearly_orthogonal(shape):
    kernel = torch.zeros(shape, requires_grad=True)
    kernel.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    muon = train_toy_ae.Muon([kernel])
    muon.param_groups[0]["lr"] = 1.0
    muon.found_inf = torch.ones(())
    muon.step()
    assert kernel.abs().max() == 0
    assert muon.state[kernel]["mean"].abs().max() == 0
    muon.found_inf = torch.zeros(())
    muon.step()
    rows, columns = kernel.flatten(1).shape
    values = torch.linalg.svdvals(kernel.detach().flatten(1)) / max(1, rows / columns) ** 0.5
    assert values.min() > 0.6
    assert values.max() < 1.3
    assert (kernel.detach() * kernel.grad).sum() < 0
