"""`taef2` with its real weights: reference figures, a training on its latents, and files that are not its own."""

from __future__ import annotations

import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from standins import install
from tiny import losses

from diffusionbench.errors import CheckpointError, RequestError
from nanogen.config import compose
from nanogen.latents import LATENTS, open_latent
from nanogen.latents.taef2 import Block
from nanogen.pipeline import open_weights
from nanogen.run import read
from nanogen.sample import SampleRequest, sample_run
from nanogen.train import train


def shared(*parts: str) -> Path:
    root = Path(os.environ.get("NANOGEN_SHARED_DATA") or Path(__file__).parents[2].parent / "shared" / "data")
    path = root.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{'/'.join(parts)} is not at {path} (set NANOGEN_SHARED_DATA)")
    return path


@pytest.fixture(scope="module")
def weights():
    return str(shared("weights", "taef2"))


@pytest.fixture(scope="module")
def photographs():
    """The first 100 sample images, PIL."""
    found = []
    with tarfile.open(shared("images", "imagenet_sample_256", "imagenet_sample_256.tar")) as archive:
        for member in archive:
            if member.name.endswith(".jpg") and len(found) < 100:
                found.append(Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGB"))
    return found


@torch.no_grad()
def round_trip(weights, photographs, count):
    """Raw latents [count, 32, 32, 32] and PSNR [count] of the first photographs."""
    latent = open_latent("taef2", "cpu", weights)
    raw, psnr = [], []
    for start in range(0, count, 2):
        pixels = np.stack([np.asarray(image) for image in photographs[start : start + 2]])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
        z = latent.encode(images)
        error = (latent.decode(z) - images).square().flatten(1).mean(1)
        raw.append(F.pixel_shuffle(z, 2))
        psnr.append(-10 * error.log10())
    return torch.cat(raw), torch.cat(psnr)


def test_the_figures_of_the_first_20_photographs(weights, photographs):
    raw, psnr = round_trip(weights, photographs, 20)
    assert raw[0, 0, 0, :3].tolist() == pytest.approx([1.1207, 2.0188, 0.9962], abs=1e-3)
    assert raw[0, 1, 0, :3].tolist() == pytest.approx([-0.5576, -0.4542, -0.5198], abs=1e-3)
    assert (raw.mean().item(), raw.std().item()) == pytest.approx((0.0076, 0.8509), abs=1e-3)
    assert psnr.mean().item() == pytest.approx(30.10, abs=0.05)
    assert (psnr.min().item(), psnr.max().item()) == pytest.approx((20.25, 38.24), abs=0.05)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_figures_of_the_first_100_photographs(weights, photographs):
    raw, psnr = round_trip(weights, photographs, 100)
    assert (raw.mean().item(), raw.std().item()) == pytest.approx((0.0174, 0.8408), abs=1e-3)
    assert (raw.min().item(), raw.max().item()) == pytest.approx((-5.53, 7.01), abs=0.01)
    assert psnr.mean().item() == pytest.approx(28.46, abs=0.05)
    packed = F.pixel_unshuffle(raw, 2).transpose(0, 1).flatten(1)
    assert (packed.mean(1).min().item(), packed.mean(1).max().item()) == pytest.approx((-0.18, 0.26), abs=0.01)
    assert (packed.std(1).min().item(), packed.std(1).max().item()) == pytest.approx((0.61, 1.16), abs=0.01)


def test_a_network_of_laptop_width_trains_on_its_latents_and_samples_decode(weights, photographs, tmp_path):
    pictures = tmp_path / "pictures"
    for place, image in enumerate(photographs[:8]):
        path = pictures / f"class{place % 2}" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.resize((64, 64)).save(path)
    words = ["data.image_size=64", f"data.path={pictures}", f"latent.weights={weights}", "data.workers=0"]
    words += ["train.duration=40 steps", "train.batch_size=8", "optim.warmup=5 steps", "sampler.num_steps=4"]
    composed = compose("imagefolder", "taef2", "laptop", overrides=[*words, "sample.every=never", "log.every=1 steps"])
    assert composed.config.model.encoder_hidden_size == 128
    train(composed, tmp_path / "run", "cpu", [])
    flow = losses(tmp_path / "run")
    assert np.mean(flow[-10:]) < 0.8 * np.mean(flow[:10])
    assert read(tmp_path / "run").facts["latent_digest"] == open_latent("taef2", "cpu", weights).digest
    out = tmp_path / "samples.npz"
    sample_run(tmp_path / "run", [], SampleRequest("0,1", [], 4, 0, None), out)
    made = np.load(out)["arr_0"]
    assert (made.shape, made.dtype) == ((4, 64, 64, 3), np.uint8)
    assert made.std() > 10
    loaded = open_weights(tmp_path / "run", "cpu")
    assert loaded.components.derived.shape.latent_shape == (128, 4, 4)


def test_the_latent_is_packed_as_that_of_flux2(tmp_path, monkeypatch):
    spec = install("taef2", tmp_path, monkeypatch)
    latent = open_latent("taef2", "cpu", str(spec.folder))
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        raw, packed = latent._encoder(images), latent.encode(images)
    assert (raw.shape, packed.shape) == ((1, 32, 4, 4), (1, 128, 2, 2))
    assert torch.equal(packed[0, 4 * 5 + 2 * 1 + 0], raw[0, 5, 1::2, 0::2])
    with torch.no_grad():
        assert latent.decode(100 * packed).min() >= 0
        assert latent.decode(100 * packed).max() <= 1


def test_a_gated_block_replaces_its_input():
    """The branch joins the input before the convolutions, and what they are added to."""
    torch.manual_seed(0)
    block = Block(gated=True)
    x = torch.randn(1, 64, 4, 4)
    with torch.no_grad():
        u = x + block.pool(x)
        torch.testing.assert_close(block(x), torch.relu(block.conv(u) + u))


def test_parameters_are_as_many_as_the_files_hold(tmp_path, monkeypatch):
    latent = open_latent("taef2", "cpu", str(install("taef2", tmp_path, monkeypatch).folder))
    counts = [sum(map(torch.numel, net.parameters())) for net in (latent._encoder, latent._decoder)]
    assert counts == [1_338_528, 1_338_499]


def test_other_files_than_the_pinned_ones_are_refused(tmp_path, monkeypatch):
    row = LATENTS["taef2"]
    install("taef2", tmp_path, monkeypatch)
    monkeypatch.setitem(LATENTS._rows, "taef2", row)
    with pytest.raises(CheckpointError, match=r"taef2_encoder\.pth has SHA-256 .*, expected 10a4e1021e"):
        open_latent("taef2", "cpu", str(tmp_path))


def test_a_folder_of_the_user_that_does_not_hold_the_files_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
    with pytest.raises(RequestError, match=rf"its autoencoder, latent.weights {tmp_path} does not hold it\. Get "):
        open_latent("taef2", "cpu", str(tmp_path))
    with pytest.raises(RequestError, match=r"its autoencoder, latent.weights .*absent is no folder\. Get "):
        open_latent("taef2", "cpu", str(tmp_path / "absent"))
    with pytest.raises(RequestError, match=r"its autoencoder\. Get "):
        open_latent("taef2", "cpu")


def test_files_that_hold_code_or_other_layers_are_refused(tmp_path, monkeypatch):
    install("taef2", tmp_path, monkeypatch)
    file = tmp_path / "taef2_encoder.pth"
    tensors = torch.load(file, weights_only=True)
    torch.save(
        {name: tensor for name, tensor in tensors.items() if name != "14.bias"} | {"15.bias": torch.zeros(2)}, file
    )
    with pytest.raises(CheckpointError, match=r"missing 14\.bias \[32\]; unknown 15\.bias \[2\]"):
        open_latent("taef2", "cpu", str(tmp_path))
    torch.save({"code": replace(LATENTS["taef2"])}, file)
    with pytest.raises(CheckpointError, match=r"cannot be read as plain tensors: they are pickled, and hold more"):
        open_latent("taef2", "cpu", str(tmp_path))
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="cannot be read as plain tensors"):
        open_latent("taef2", "cpu", str(tmp_path))
