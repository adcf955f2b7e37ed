"""What every reference promises, by name and by path."""

import re

import numpy as np
import pytest
from PIL import Image

from diffusionbench.errors import MissingPackageError
from diffusionbench.judges.digits import DigitsJudge
from diffusionbench.references import REFERENCES
from diffusionbench.references.opening import resolve
from diffusionbench.sample import Sample

BY_PATH = ("labelled folder", "flat folder", "labelled archive", "statistics")


def pictures(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(params=[*REFERENCES, *BY_PATH])
def reference(request, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path / "cache"))
    kind, path = request.param, tmp_path / "real"
    if kind in REFERENCES:
        try:
            return resolve(kind)
        except MissingPackageError as error:
            pytest.skip(str(error))
    if kind.endswith("folder"):
        for index, image in enumerate(pictures(20)):
            folder = path / str(index % 4) if kind.startswith("labelled") else path
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{index:02d}.png")
        return resolve(str(path))
    path = tmp_path / "real.npz"
    if kind == "statistics":
        np.savez(path, mu=np.zeros(64), sigma=np.eye(64))
    else:
        np.savez(path, arr_0=pictures(20), arr_1=np.arange(20) % 4)
    return resolve(str(path), "digits" if kind == "statistics" else None)


def test_it_says_what_it_is(reference):
    assert reference.name
    assert re.fullmatch(r"[0-9a-f]{64}", reference.digest)
    assert reference.offers
    assert reference.offers <= {"moments", "features", "pairs"}


def test_a_shorter_request_is_the_start_of_a_longer_one(reference):
    labels = reference.labels(700)
    assert len(labels) == 700
    assert reference.labels(13) == labels[:13]
    if reference.num_classes is None:
        assert set(labels) == {None}
    else:
        assert set(labels) <= set(range(reference.num_classes))
        assert all(type(label) is int for label in labels)


@pytest.mark.parametrize("count", [7, 700])
def test_anchors_have_equal_counts_and_the_classes_asked_for(reference, count):
    anchors = reference.anchors(count)
    assert len({len(source.labels) for source in anchors.values()}) <= 1
    for source in anchors.values():
        number = len(source.labels)
        assert number <= count
        assert list(source.labels) == reference.labels(number)
        images = source.images([Sample(index) for index in range(number)])
        assert images.dtype == np.uint8
        assert images.shape == (number, *(reference.image_size or source.image_size), 3)
    if "features" not in reference.offers:
        assert not anchors


def test_features_and_moments_belong_together(reference):
    judge = DigitsJudge()
    mean, cov = reference.moments(judge)
    assert mean.dtype == cov.dtype == np.float64
    assert cov.shape == (64, 64)
    if "features" in reference.offers:
        rows = reference.features(judge)
        assert rows.dtype == np.float32
        np.testing.assert_allclose(rows.mean(axis=0, dtype=np.float64), mean, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(np.cov(rows.astype(float), rowvar=False), cov, rtol=1e-6, atol=1e-7)
        np.testing.assert_array_equal(reference.features(judge), rows)
