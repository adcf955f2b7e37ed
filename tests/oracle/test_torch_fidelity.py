"""Our metrics and our Inception network against torch-fidelity, on the same features and the same weight file."""

import numpy as np
import pytest
import torch

from diffusionbench.extractors.inception import InceptionNet, load_net
from diffusionbench.metrics.frechet import frechet_distance, frechet_from_features, moments
from diffusionbench.metrics.inception_score import inception_score
from diffusionbench.metrics.kid import kid
from diffusionbench.metrics.precision_recall import f_score, precision_recall
from diffusionbench.schema import file_digest

pytestmark = pytest.mark.oracle

pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed; run `make oracle`")


@pytest.fixture
def features():
    """Two overlapping sets: positive like pooled activations, correlated, float32."""
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((48, 48)) / 7
    generated = np.abs(rng.standard_normal((1500, 48)) @ mix + 0.3)
    reference = np.abs(rng.standard_normal((1300, 48)) @ mix + 0.35)
    return generated.astype(np.float32), reference.astype(np.float32)


def fid(mean_a, cov_a, mean_b, cov_b):
    from torch_fidelity import metric_fid

    first, second = ({"mu": mean, "sigma": cov} for mean, cov in ((mean_a, cov_a), (mean_b, cov_b)))
    return metric_fid.fid_statistics_to_metric(first, second, False)["frechet_inception_distance"]


def test_frechet_distance_of_the_same_moments(features):
    a, b = (moments(rows) for rows in features)
    assert frechet_distance(*a, *b) == pytest.approx(fid(*a, *b), rel=1e-6)


def test_frechet_distance_of_singular_covariances(features):
    a, b = moments(features[0][:30]), moments(features[1][:20])
    expected = fid(*a, *b)
    assert frechet_distance(*a, *b) == pytest.approx(expected, abs=1e-5)
    assert frechet_from_features(features[0][:30], features[1][:20]) == pytest.approx(expected, abs=1e-5)


def test_kid_draws_the_same_subsets(features):
    from torch_fidelity import metric_kid

    theirs = metric_kid.kid_features_to_metric(
        *(torch.from_numpy(rows) for rows in features),
        kid_subsets=20,
        kid_subset_size=400,
        rng_seed=2020,
        verbose=False,
    )
    mean, std = kid(*features, subsets=20, subset_size=400)
    assert mean == pytest.approx(theirs["kernel_inception_distance_mean"], abs=1e-5)
    assert std == pytest.approx(theirs["kernel_inception_distance_std"], abs=1e-5)


def test_inception_score_of_the_same_logits():
    from torch_fidelity import metric_isc

    logits = np.random.default_rng(1).standard_normal((1234, 1008)).astype(np.float32) * 3
    theirs = metric_isc.isc_features_to_metric(torch.from_numpy(logits), splits=10, shuffle=True, rng_seed=2020)
    mean, std = inception_score(logits, "torch_fidelity")
    assert mean == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    assert std == pytest.approx(theirs["inception_score_std"], rel=1e-5)


def test_precision_and_recall_of_the_same_features(features):
    from torch_fidelity import metric_prc

    generated, reference = (torch.from_numpy(rows.astype(np.float64)) for rows in features)
    theirs = metric_prc.prc_features_to_metric(
        generated, reference, prc_neighborhood=3, prc_batch_size=500, verbose=False
    )
    precision, recall = precision_recall(*features, k=3)
    assert 0.1 < recall < precision < 0.99, "the case must be able to tell a wrong radius"
    # Theirs are float32 shares: compare counts.
    assert round(precision * 1500) == round(float(theirs["precision"]) * 1500)
    assert round(recall * 1300) == round(float(theirs["recall"]) * 1300)
    assert f_score(precision, recall) == pytest.approx(float(theirs["f_score"]), rel=1e-6)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A weight file of random numbers that keep activations of order one, named by its own hash."""
    generator = torch.Generator().manual_seed(0)
    state = InceptionNet().state_dict()
    for key, value in state.items():
        if key.endswith("conv.weight"):
            value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=generator)
        elif key.endswith(("bn.weight", "running_var")):
            value.uniform_(0.5, 1.5, generator=generator)
        elif key.endswith(("bn.bias", "running_mean")):
            value.normal_(0, 0.1, generator=generator)
        elif key.startswith("fc."):
            value.normal_(0, 0.05, generator=generator)
    folder = tmp_path_factory.mktemp("weights")
    torch.save(state, folder / "random.pth")
    path = folder / f"random-{file_digest(folder / 'random.pth')[:8]}.pth"
    (folder / "random.pth").rename(path)
    return path


def test_inception_taps_of_the_same_weight_file(weights):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    names = ["64", "192", "768", "2048", "logits_unbiased", "logits"]
    theirs = FeatureExtractorInceptionV3("inception-v3-compat", names, feature_extractor_weights_path=str(weights))
    ours, _ = load_net(weights)
    for size in ((64, 48), (300, 311)):
        images = torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = dict(zip(names, theirs(images), strict=True))
            found = ours(images)
        assert set(found) == set(names)
        for name in names:
            scale = expected[name].abs().max()
            assert scale > 1e-2
            assert (found[name] - expected[name]).abs().max() <= 1e-4 * scale, (name, size)
