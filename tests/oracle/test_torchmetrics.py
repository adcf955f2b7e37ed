"""PSNR and SSIM against torchmetrics."""

import pytest
import torch

from diffusionbench.metrics.reconstruction import psnr, ssim

pytestmark = pytest.mark.oracle
image = pytest.importorskip("torchmetrics.functional.image", reason="torchmetrics is not installed; `make oracle` does")


def test_values_of_pairs():
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(4, 3, 40, 33, generator=generator)
    y = x + torch.tensor([0.01, 0.1, 0.3, 1])[:, None, None, None] * torch.randn(x.shape, generator=generator)
    y = y.clamp(0, 1)
    expected = image.structural_similarity_index_measure(y, x, data_range=1.0, reduction="none")
    assert ssim(x, y).tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    expected = image.peak_signal_noise_ratio(y, x, data_range=1.0, reduction="none", dim=(1, 2, 3))
    assert psnr(x, y).tolist() == pytest.approx(expected.tolist(), abs=1e-3)
