"""What every feature extractor promises."""

import contextlib

import numpy as np
import pytest
import torch

from diffusionbench.errors import UserError
from diffusionbench.extractors import EXTRACTORS


def pictures(size, count=5):
    return np.random.default_rng(0).integers(0, 256, (count, *(size or (16, 16)), 3), dtype=np.uint8)


@pytest.fixture(params=sorted(EXTRACTORS))
def made(request):
    """An extractor with its weights."""
    found = EXTRACTORS.load(request.param)
    try:
        found.check()
    except UserError as error:
        pytest.skip(str(error))
    with torch.random.fork_rng():
        return found("cpu")


@pytest.mark.parametrize("name", sorted(EXTRACTORS))
def test_what_a_check_needs_is_known_without_weights(name):
    found = EXTRACTORS.load(name)
    assert found.name == name
    assert found.dim >= 0
    assert found.image_size is None or len(found.image_size) == 2
    with contextlib.suppress(UserError):
        found.check()


def test_one_row_of_finite_numbers_for_each_image(made):
    outputs = made(pictures(made.image_size))
    assert outputs
    assert all(len(rows) == 5 for rows in outputs.values())
    if "features" in outputs:
        assert outputs["features"].shape == (5, made.dim)
    for name in {"features", "logits"} & set(outputs):
        assert outputs[name].dtype == np.float32
        assert outputs[name].ndim == 2
        assert np.isfinite(outputs[name]).all()


def test_an_image_is_judged_alone(made):
    images = pictures(made.image_size)
    whole = made(images)
    parts = [made(images[index : index + 1]) for index in range(5)]
    for name, rows in whole.items():
        apart = np.concatenate([part[name] for part in parts])
        np.testing.assert_allclose(rows.astype(float), apart.astype(float), rtol=1e-4, atol=1e-4)


def test_the_same_images_give_the_same_rows_and_stay_as_they_are(made):
    images = pictures(made.image_size)
    first, second = made(images), made(images)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert np.array_equal(images, pictures(made.image_size))


def test_the_digest_belongs_to_the_weights_not_to_the_object(made):
    assert len(made.digest) == 64
    with torch.random.fork_rng():
        assert type(made)("cpu").digest == made.digest
