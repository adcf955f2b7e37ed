"""PSNR and SSIM against closed forms and an explicit window; LPIPS against plain loops over random weights."""

from __future__ import annotations

import hashlib
import math

import pytest
import torch
import torch.nn.functional as F

from diffusionbench.errors import RequestError
from diffusionbench.judges import lpips
from diffusionbench.metrics.reconstruction import psnr, ssim


def pair(size=(12, 15), count=3):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(count, 3, *size, generator=generator)
    return x, (x + 0.1 * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def test_psnr_of_known_errors():
    x = torch.full((3, 3, 8, 8), 0.25)
    y = x + torch.tensor([0.0, 0.1, 0.5])[:, None, None, None]
    assert psnr(x, y).tolist() == pytest.approx([100, 20, 20 * math.log10(2)], abs=1e-4)
    # The darkest 8-bit images are on the same scale as others.
    dark = torch.ones(1, 3, 8, 8, dtype=torch.uint8)
    assert psnr(dark, 0 * dark).item() == pytest.approx(20 * math.log10(255))


def test_ssim_of_flat_images_is_that_of_their_means():
    x, y = torch.full((1, 3, 9, 9), 0.2), torch.full((1, 3, 9, 9), 0.6)
    assert ssim(x, y).item() == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), abs=1e-7)
    assert ssim(*(pair()[0],) * 2).tolist() == pytest.approx([1.0] * 3)


def test_ssim_is_that_of_an_explicit_window():
    x, y = (images.double() for images in pair((7, 9), 1))
    weights = torch.tensor([math.exp(-(i * i) / (2 * 1.5**2)) for i in range(-5, 6)], dtype=torch.float64)
    window = torch.outer(weights, weights) / weights.sum() ** 2
    padded_x, padded_y = (F.pad(images, (5, 5, 5, 5), mode="reflect") for images in (x, y))
    values = []
    for colour in range(3):
        for row in range(7):
            for column in range(9):
                a, b = (p[0, colour, row : row + 11, column : column + 11] for p in (padded_x, padded_y))
                mean_a, mean_b = (window * a).sum(), (window * b).sum()
                var_a, var_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
                both = (window * (a - mean_a) * (b - mean_b)).sum()
                light = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
                values.append(light * (2 * both + 9e-4) / (var_a + var_b + 9e-4))
    assert ssim(x, y).item() == pytest.approx(torch.stack(values).mean().item(), abs=1e-10)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_values_are_per_image_and_bad_pairs_are_refused(metric):
    x, y = pair()
    assert metric(x, y)[1:2].tolist() == pytest.approx(metric(x[1:2], y[1:2]).tolist())
    with pytest.raises(RequestError, match=r"each image needs a partner of its size"):
        metric(x, y[..., :-1])
    with pytest.raises(RequestError, match=r"SSIM needs images of 6 pixels"):
        ssim(x[..., :5], y[..., :5])


def test_lpips_is_that_of_plain_loops(lpips_installed):
    installed, files = lpips_installed, lpips_installed.parent
    net = lpips.open_lpips("cpu")
    x, y = (2 * images - 1 for images in pair((20, 16), 2))
    trunk, heads = torch.load(installed), torch.load(files / "vgg.pth")
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    total = torch.zeros(2)
    states = [(images - shift[:, None, None]) / scale[:, None, None] for images in (x, y)]
    index = 0
    for layer, count in enumerate((2, 2, 3, 3, 3)):
        for _ in range(count):
            kernel, bias = (trunk[f"features.{index}.{kind}"] for kind in ("weight", "bias"))
            states = [F.conv2d(state, kernel, bias, padding=1).relu() for state in states]
            index += 2
        a, b = (state / (state.square().sum(1, keepdim=True).sqrt() + 1e-10) for state in states)
        total += (heads[f"lin{layer}.model.1.weight"] * (a - b) ** 2).sum(1).mean((1, 2))
        if layer < 4:
            states = [F.max_pool2d(state, 2) for state in states]
        index += 1
    torch.testing.assert_close(net(x, y), total, rtol=1e-4, atol=1e-7)
    assert net(x, x).tolist() == [0, 0]
    leaf = y.clone().requires_grad_()
    net(x, leaf).sum().backward()
    assert leaf.grad.abs().sum() > 0
    assert leaf.grad.isfinite().all()
    assert not any(weight.requires_grad for weight in net.parameters())
    with pytest.raises(RequestError, match=r"LPIPS needs images of 16 pixels"):
        net(x[..., :15], y[..., :15])


def test_absent_damaged_or_other_files_are_refused(lpips_installed, tmp_path, monkeypatch):
    installed, files = lpips_installed, lpips_installed.parent
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path))
    with pytest.raises(RequestError, match=r"needs vgg16-.* and vgg\.pth in .* from there and vgg\.pth from here"):
        lpips.open_lpips("cpu")
    (tmp_path / installed.name).write_bytes(installed.read_bytes())
    (tmp_path / "vgg.pth").write_bytes((files / "vgg.pth").read_bytes()[:-1] + b"x")
    with pytest.raises(RequestError, match=r"vgg\.pth is damaged or another file\. Fetch here again"):
        lpips.open_lpips("cpu")
    torch.save({"lin0.model.1.weight": torch.rand(1, 64, 1, 1)}, tmp_path / "vgg.pth")
    monkeypatch.setattr(lpips, "HEADS_MD5", hashlib.md5((tmp_path / "vgg.pth").read_bytes()).hexdigest())
    with pytest.raises(RequestError, match=r"lack or add heads\.1, heads\.2"):
        lpips.open_lpips("cpu")
