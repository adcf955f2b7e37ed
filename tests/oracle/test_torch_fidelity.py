"""Our metrics against torch-fidelity: the network on the same weights, the maths on the same features."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffusionbench.judges.inception import Inception, InceptionNet
from diffusionbench.metrics.frechet import frechet_distance, frechet_from_features
from diffusionbench.metrics.inception_score import inception_score
from diffusionbench.metrics.kid import kid
from diffusionbench.metrics.precision_recall import precision_recall
from diffusionbench.moments import moments
from diffusionbench.schema import file_digest

pytestmark = pytest.mark.oracle
torch_fidelity = pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed; `make oracle` does")


@pytest.fixture(scope="module")
def features() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(300, 24, generator=generator), torch.randn(260, 24, generator=generator) * 1.2 + 0.3


def test_frechet(features):
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    a, b = (fid_features_to_statistics(part) for part in features)
    expected = fid_statistics_to_metric(a, b, False)["frechet_inception_distance"]
    # The reference averages in float32.
    assert frechet_distance(*moments(features[0]), *moments(features[1])) == pytest.approx(expected, rel=1e-5)


def test_frechet_of_fewer_samples_than_dimensions():
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    generator = torch.Generator().manual_seed(2)
    a, b = torch.rand(20, 48, generator=generator), torch.rand(24, 48, generator=generator) * 1.2
    statistics = (fid_features_to_statistics(part) for part in (a, b))
    expected = fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]
    assert frechet_from_features(a, b) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert frechet_distance(*moments(a), *moments(b)) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_kid(features):
    from torch_fidelity.metric_kid import kid_features_to_metric

    options = {"kid_subsets": 20, "kid_subset_size": 100, "rng_seed": 2020, "verbose": False}
    found = kid_features_to_metric(*features, **options)
    ours = kid(*features, subsets=20, subset_size=100)
    assert ours[0] == pytest.approx(found["kernel_inception_distance_mean"], abs=1e-5)
    assert ours[1] == pytest.approx(found["kernel_inception_distance_std"], abs=1e-5)


def test_inception_score():
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = torch.randn(500, 12, generator=torch.Generator().manual_seed(1)) * 2
    found = isc_features_to_metric(logits, splits=10, shuffle=True, rng_seed=2020)
    expected = (found["inception_score_mean"], found["inception_score_std"])
    assert inception_score(logits, "torch_fidelity") == pytest.approx(expected, rel=1e-5)


def test_precision_and_recall(features):
    from torch_fidelity.metric_prc import prc_features_to_metric

    found = prc_features_to_metric(*features, prc_neighborhood=3, prc_batch_size=100, verbose=False)
    # Equal counts: the reference divides in float32, and one image more would be 0.003.
    assert precision_recall(*features) == pytest.approx((found["precision"], found["recall"]), abs=1e-6)


def test_inception_network(tmp_path):
    """The same random weight file through both networks."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.manual_seed(0)
    net = InceptionNet()
    for name, value in net.state_dict().items():
        # Statistics that are not those of a fresh batch norm, so that every one of them matters.
        if name.endswith(("running_mean", "bn.bias")):
            value.normal_(0, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    path = (tmp_path / "w.pth").rename(tmp_path / f"w-{file_digest(tmp_path / 'w.pth')[:8]}.pth")
    taps = ["64", "192", "768", "2048", "logits_unbiased", "logits"]
    reference = FeatureExtractorInceptionV3("inception-v3-compat", taps, feature_extractor_weights_path=str(path))
    images = np.random.default_rng(0).integers(0, 256, (2, 37, 50, 3), dtype=np.uint8)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = dict(zip(taps, reference(pixels), strict=True))
        found = net.eval()(pixels)
    for tap in taps:
        torch.testing.assert_close(found[tap], expected[tap].float(), rtol=1e-4, atol=1e-5)
    ours = Inception(weights=path)(images)
    np.testing.assert_allclose(ours["features"], expected["2048"].numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours["logits"], expected["logits_unbiased"].numpy(), rtol=1e-4, atol=1e-4)
