"""What every reference promises: those of the table, and each kind that is opened by path."""

import numpy as np
import pytest
from PIL import Image

from diffusionbench.axes import Sample
from diffusionbench.extractors.digits import DigitsJudge
from diffusionbench.references import REFERENCES, resolve


def path_of(kind, folder):
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    if kind == "statistics":
        np.savez(folder / "s.npz", mu=np.zeros(64), sigma=np.eye(64))
        return folder / "s.npz"
    if kind == "archive":
        np.savez(folder / "a.npz", arr_0=images, arr_1=np.arange(24) % 4)
        return folder / "a.npz"
    for index, image in enumerate(images):
        place = folder / "images" / (f"{index % 4}" if kind == "labelled folder" else ".")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{index:02d}.png")
    return folder / "images"


@pytest.fixture(params=[*sorted(REFERENCES), "folder", "labelled folder", "archive", "statistics"])
def reference(request, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
    if request.param in REFERENCES:
        found = resolve(request.param)
        assert found.name == request.param
        return found
    return resolve(str(path_of(request.param, tmp_path)))


def test_it_says_what_it_is(reference):
    assert len(reference.digest) == 64
    assert reference.digest == reference.digest
    assert reference.offers <= {"moments", "features"}
    assert reference.image_size is None or len(reference.image_size) == 2


def test_a_shorter_order_of_labels_begins_a_longer_one(reference):
    long = reference.labels(1000)
    assert len(long) == 1000
    assert reference.labels(10) == long[:10]
    known = [label for label in long if label is not None]
    assert (reference.num_classes is None) == (known == [])
    assert all(type(label) is int and 0 <= label < reference.num_classes for label in known)


@pytest.mark.parametrize("count", [1, 20, 500])
def test_anchors_have_one_count_and_the_order_of_the_labels(reference, count):
    anchors = reference.anchors(count)
    sizes = {len(source.labels) for source in anchors.values()}
    assert len(sizes) <= 1
    for source in anchors.values():
        assert len(source.labels) <= count
        assert list(source.labels) == reference.labels(len(source.labels))
        images = source.images([Sample(index, label) for index, label in enumerate(source.labels)])
        assert images.dtype == np.uint8
        assert images.shape == (len(source.labels), *reference.image_size, 3)
        assert source.image_size == reference.image_size
    if "class_means" in anchors:
        source = anchors["class_means"]
        images = source.images([Sample(index, label) for index, label in enumerate(source.labels)])
        assert len(np.unique(images, axis=0)) <= reference.num_classes


def test_what_it_offers_fits_together(reference):
    judge = DigitsJudge()
    mean, cov = reference.moments(judge)
    assert (mean.shape, cov.shape) == ((64,), (64, 64))
    assert mean.dtype == cov.dtype == np.float64
    if "features" in reference.offers:
        features = reference.features(judge)
        assert features.dtype == np.float32
        np.testing.assert_allclose(mean, features.astype(np.float64).mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(cov, np.cov(features.astype(np.float64), rowvar=False), rtol=1e-4, atol=1e-5)
