"""The contract of every latent space: shapes as declared, maps that undo each other, images apart."""

from dataclasses import replace

import pytest
import torch

from diffusionbench.errors import RequestError
from nanogen import resolve as resolving
from nanogen.config import compose
from nanogen.latents import LATENTS, open_latent

# Images that each space is known to reconstruct, as (levels, rise from left to right); a space that runs needs a line.
EXAMPLES = {"pixel": ((0.25, 0.5, 0.8), 0.04), "toy-ae": ((0.25, 0.5, 0.8), 0.04)}


@pytest.fixture(scope="module", params=[name for name, spec in LATENTS.items() if spec.load is not None])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def latent(name):
    return open_latent(name, "cpu")


@pytest.fixture(scope="module")
def images(name):
    """Greys that rise a little from left to right, float32 [3, 3, 32, 32] in [0, 1]."""
    assert name in EXAMPLES, f"give latent space '{name}' an example"
    levels, rise = EXAMPLES[name]
    return (torch.tensor(levels)[:, None, None, None] + torch.linspace(-rise, rise, 32)).expand(3, 3, 32, 32)


@pytest.mark.parametrize("name", LATENTS)
def test_a_row_describes_its_space_without_weights(name):
    spec = LATENTS[name]
    assert spec.name == name
    assert spec.channels > 0
    assert spec.stride > 0
    assert spec.title
    assert (spec.load is None) == (spec.unavailable is not None)
    # Weights of others are named with their licence, and used at a pinned commit only.
    if spec.hub:
        assert spec.licence
        assert spec.revision or spec.load is None


@pytest.mark.parametrize("name", [name for name, spec in LATENTS.items() if spec.load is None])
def test_a_space_that_cannot_run_is_refused_with_the_reason(name):
    with pytest.raises(RequestError, match=f"latent space '{name}' cannot run: "):
        open_latent(name, "cpu")


def test_latents_have_the_declared_shape_and_no_gradient(name, latent, images):
    z = latent.encode(images)
    assert (z.shape, z.dtype, z.requires_grad) == ((3, *LATENTS[name].shape(32)), torch.float32, False)
    back = latent.decode(z)
    assert (back.shape, back.dtype, back.requires_grad) == (images.shape, torch.float32, False)


def test_decoding_comes_back_to_the_image(latent, images):
    assert (latent.decode(latent.encode(images)) - images).abs().mean() < 0.02


def test_images_of_a_batch_do_not_touch_each_other(latent, images):
    together = latent.encode(images)
    torch.testing.assert_close(latent.encode(images[1:2]), together[1:2], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(latent.decode(together[1:2]), latent.decode(together)[1:2], atol=1e-5, rtol=1e-5)


def test_the_digest_is_that_of_the_weights(name, latent):
    """A space whose maps hold tensors says which; one that holds none has no digest."""
    held = [value for value in vars(latent).values() if isinstance(value, torch.nn.Module | torch.Tensor)]
    assert len(latent.digest) == (64 if held else 0)
    assert open_latent(name, "cpu").digest == latent.digest


def test_a_latent_may_have_other_rows_than_columns(monkeypatch):
    spec = replace(LATENTS["toy-ae"], grid=(2, 4))
    monkeypatch.setattr(resolving, "LATENTS", {"toy-ae": spec})
    assert spec.shape(32) == (16, 2, 4)
    shape = resolving.resolve(compose("shapes").config).shape
    assert (shape.latent_shape, shape.grid) == ((16, 2, 4), (2, 4))
