"""What every latent space promises: shapes as declared, maps that undo each other, images apart."""

import pytest
import torch

from nanogen.latents import LATENTS

RUNNING = [name for name in LATENTS if LATENTS.load(name).create is not None]


@pytest.fixture(scope="module", params=RUNNING)
def space(request):
    spec = LATENTS.load(request.param)
    return spec, spec.create("cpu")


@pytest.fixture(scope="module")
def images():
    """Greys that rise a little from left to right, float32 [3, 3, 32, 32] in [0, 1]: every autoencoder knows these."""
    level = torch.tensor([0.25, 0.5, 0.8])[:, None, None, None]
    return (level + torch.linspace(-0.04, 0.04, 32)).expand(3, 3, 32, 32).contiguous()


@pytest.mark.parametrize("name", LATENTS)
def test_a_space_says_what_it_is_without_weights(name):
    spec = LATENTS.load(name)
    assert spec.channels > 0
    assert spec.stride > 0
    assert spec.title
    assert (spec.create is None) == (spec.unavailable is not None)


def test_latents_have_the_declared_shape_and_no_gradient(space, images):
    spec, latent = space
    side = 32 // spec.stride
    z = latent.encode(images)
    assert (z.shape, z.dtype, z.requires_grad) == ((3, spec.channels, side, side), torch.float32, False)
    back = latent.decode(z)
    assert (back.shape, back.dtype, back.requires_grad) == (images.shape, torch.float32, False)


def test_decoding_comes_back_to_the_image(space, images):
    _, latent = space
    assert (latent.decode(latent.encode(images)) - images).abs().mean() < 0.02


def test_images_of_a_batch_do_not_touch_each_other(space, images):
    _, latent = space
    together = latent.encode(images)
    torch.testing.assert_close(latent.encode(images[1:2]), together[1:2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(latent.decode(together[1:2]), latent.decode(together)[1:2], atol=1e-5, rtol=1e-5)
