"""What every feature extractor promises."""

import re

import numpy as np
import pytest

from diffusionbench.errors import UserError
from diffusionbench.judges import EXTRACTORS


# One of width 0 makes no features: it hands on the images.
@pytest.fixture(params=[name for name in EXTRACTORS if EXTRACTORS.load(name).dim])
def kind(request, inception_installed):
    found = EXTRACTORS.load(request.param)
    try:
        found.check()
    except UserError as error:
        pytest.skip(f"extractor '{request.param}' is not installed: {error}")
    return request.param, found


def pictures(kind, count: int) -> np.ndarray:
    height, width = kind.image_size or (32, 32)
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def test_the_class_says_its_name_width_and_size_without_weights(kind):
    name, found = kind
    assert found.name == name
    assert found.dim > 0
    assert found.image_size is None or len(found.image_size) == 2


def test_features_and_logits_depend_on_the_image_alone(kind):
    _, found = kind
    extractor = found("cpu")
    images = pictures(found, 3)
    before = images.copy()
    together = extractor(images)
    assert together["features"].shape == (3, found.dim)
    assert {rows.dtype for rows in together.values()} == {np.dtype(np.float32)}
    assert all(np.isfinite(rows).all() and len(rows) == 3 for rows in together.values())
    np.testing.assert_array_equal(images, before)
    assert np.abs(together["features"][0] - together["features"][1]).max() > 0
    alone = extractor(images[1:2])
    for name, rows in together.items():
        np.testing.assert_allclose(alone[name][0], rows[1], rtol=1e-4, atol=1e-4 * np.abs(rows).max())


def test_the_digest_is_that_of_the_weights(kind):
    _, found = kind
    first, second = found("cpu"), found("cpu")
    assert re.fullmatch(r"[0-9a-f]{64}", first.digest)
    assert first.digest == second.digest


def test_digests_differ(inception_installed):
    digests = [EXTRACTORS.load(name)("cpu").digest for name in ("digits", "inception")]
    assert len(set(digests)) == 2
