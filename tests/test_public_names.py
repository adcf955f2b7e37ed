"""The Python names that users build on: they may gain optional arguments, and keep their place and meaning."""

import importlib
import inspect
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
NAMES = {
    "diffusionbench": {"evaluate": "source metrics reference", "compare": "first second", "load": "path"},
    "nanogen": {"load": "path device"},
    "diffusionbench.metrics.frechet": {
        "moments": "features",
        "frechet_distance": "mean_a cov_a mean_b cov_b",
        "frechet_from_features": "a b",
        "load_moments": "path",
        "Moments": "",
    },
    "diffusionbench.metrics.inception_score": {"inception_score": "logits variant"},
    "diffusionbench.metrics.kid": {"kid": "generated reference subsets subset_size seed"},
    "diffusionbench.metrics.precision_recall": {"precision_recall": "generated reference k"},
    "diffusionbench.images": {"to_uint8": "images rule", "center_crop": "image size"},
    "diffusionbench.study.correlate": {"pearson": "x y", "spearman": "x y", "kendall": "x y"},
    "nanogen.samplers": {
        "time_grid": "num_steps shift",
        "euler": "velocity noise times",
        "heun": "velocity noise times",
    },
    "nanogen.guidance": {
        "classifier_free": "conditional null scale interval",
        "internal": "full early scale interval",
    },
    "nanogen.times": {
        "logit_normal": "n mean std generator",
        "shift_time": "t shift",
        "time_shift": "latent_shape base",
    },
}


@pytest.mark.parametrize("module, name", [(module, name) for module, names in NAMES.items() for name in names])
def test_a_public_name_keeps_its_place_and_its_arguments(module, name):
    wanted = NAMES[module][name].split()
    found = list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
    assert found[: len(wanted)] == wanted


@pytest.mark.parametrize("package", ["nanogen", "diffusionbench"])
def test_the_reference_has_every_public_name(package):
    """By its last name: the page names the module in which it is defined."""
    text = (ROOT / "docs" / "api" / f"{package}.md").read_text(encoding="utf-8")
    shown = {name.rpartition(".")[2] for name in re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE)}
    wanted = {name for module, names in NAMES.items() if module.partition(".")[0] == package for name in names}
    assert wanted <= shown


def test_the_grid_and_the_draws_are_tensors_of_the_cpu():
    from nanogen.samplers import euler, time_grid
    from nanogen.times import logit_normal

    times = time_grid(4, 2.0)
    assert times.dtype == torch.float32
    assert times[0] == 1
    assert times[-1] == 0
    assert torch.equal(euler(lambda z, t, r: torch.ones_like(z), torch.zeros(2), times), -torch.ones(2))
    drawn = logit_normal(3, 0.0, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(drawn, torch.sigmoid(torch.randn(3, generator=torch.Generator().manual_seed(0))))


def test_moments_merge():
    from diffusionbench.metrics.frechet import Moments, moments

    rows = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).double().numpy()
    left, right = Moments(3), Moments(3)
    left.update(rows[:7])
    right.update(rows[7:])
    left.merge(right)
    for found, wanted in zip(left.compute(), moments(rows), strict=True):
        assert abs(found - wanted).max() < 1e-12
