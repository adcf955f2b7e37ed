"""The contract of every latent space: shapes as declared, maps that undo each other, images apart."""

from dataclasses import replace

import pytest
import torch
from standins import WRITERS, install

from diffusionbench.commits import COMMITS
from diffusionbench.errors import ConfigError, RequestError
from nanogen import resolve as resolving
from nanogen.config import compose
from nanogen.latents import LATENTS, open_latent
from nanogen.latents.rows import OWN
from nanogen.synthetic import SyntheticLatent

# Images that each space is known to reconstruct, as (levels, rise from left to right). A space needs a line here, or,
# where its weights do not ship, stand-ins in `standins.py`.
EXAMPLES = dict.fromkeys(("pixel", "toy-ae", "toy-vae", "toy-rae"), ((0.25, 0.5, 0.8), 0.04))


@pytest.fixture(scope="module", params=list(LATENTS))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def opened(name, tmp_path_factory):
    """Opens the space, with stand-ins where its weights do not ship."""
    with pytest.MonkeyPatch.context() as patch:
        folder = None
        if name in WRITERS:
            folder = str(install(name, tmp_path_factory.mktemp("weights"), patch).folder)
        yield lambda: open_latent(name, "cpu", folder)


@pytest.fixture(scope="module")
def latent(opened):
    return opened()


@pytest.fixture(scope="module")
def images(name):
    """Greys that rise a little from left to right, float32 [3, 3, 32, 32] in [0, 1], or of the space's own size."""
    assert name in EXAMPLES or name in WRITERS, (
        f"give latent space '{name}' an entry in EXAMPLES of this test (levels of grey that it reconstructs, and their "
        "rise), or, where its weights do not ship, in WRITERS of tests/nanogen/standins.py"
    )
    levels, rise = EXAMPLES.get(name, ((0.25, 0.5, 0.8), 0.04))
    size = LATENTS[name].image_size or 32
    return (torch.tensor(levels)[:, None, None, None] + torch.linspace(-rise, rise, size)).expand(3, 3, size, size)


@pytest.mark.parametrize("name", LATENTS)
def test_a_row_describes_its_space_without_weights(name):
    spec = LATENTS[name]
    assert spec.name == name
    if spec.image_size is not None:
        assert spec.shape(spec.image_size)[0] == spec.channels
    assert spec.channels > 0
    assert spec.stride > 0
    assert spec.title
    assert len({weights.part for weights in spec.weights}) == len(spec.weights)
    for weights in spec.weights:
        # Weights of others are named with their licence and origin, and pinned by commit or hash.
        assert weights.licence
        assert weights.names
        assert weights.hub or weights.address
        pinned = weights.revision or set(weights.sha256) == set(weights.names)
        unpinned = weights.hub and weights.hub not in COMMITS
        assert bool(pinned) == (weights.licence != OWN and not unpinned)
        assert ("none is pinned" in weights.origin) == bool(unpinned)


@pytest.mark.parametrize("task", ["imagenet256", "t2i256"])
@pytest.mark.parametrize("name", LATENTS)
def test_a_network_and_synthetic_latents_need_no_weights(name, task):
    size = LATENTS[name].image_size or 256
    config = compose(task, overrides=[f"latent={name}", f"data.image_size={size}"]).config
    derived = resolving.resolve(config)
    made = SyntheticLatent(derived.latent, "cpu").encode(torch.zeros(2, 3, size, size))
    assert made.shape == (2, *derived.shape.latent_shape)
    assert derived.shape.num_image_tokens >= min(256, (size // LATENTS[name].stride) ** 2)


@torch.no_grad()
def test_latents_have_the_declared_shape_and_no_gradient(name, latent, images):
    z = latent.encode(images)
    assert (z.shape, z.dtype, z.requires_grad) == ((3, *LATENTS[name].shape(images.shape[-1])), torch.float32, False)
    back = latent.decode(z)
    assert (back.shape, back.dtype, back.requires_grad) == (images.shape, torch.float32, False)
    assert z.isfinite().all()
    assert back.isfinite().all()


def test_decoding_comes_back_to_the_image(name, latent, images):
    if name not in EXAMPLES:
        pytest.skip("stand-ins have random weights; tests of the codec compare them with the model itself")
    error = (latent.decode(latent.encode(images)) - images).abs().mean()
    assert error < 0.02, f"the images of EXAMPLES come back with a mean error of {error:.3f}, allowed is 0.02"


def test_maps_are_deterministic(latent, images):
    z = latent.encode(images)
    assert torch.equal(latent.encode(images), z)
    assert torch.equal(latent.decode(z), latent.decode(z))


def test_images_of_a_batch_do_not_touch_each_other(latent, images):
    together = latent.encode(images)
    torch.testing.assert_close(latent.encode(images[1:2]), together[1:2], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(latent.decode(together[1:2]), latent.decode(together)[1:2], atol=1e-4, rtol=1e-4)


def test_the_digest_is_that_of_the_weights(latent, opened):
    """A space whose maps hold tensors says which; one that holds none has no digest."""
    held = [value for value in vars(latent).values() if isinstance(value, torch.nn.Module | torch.Tensor)]
    wanted = "the SHA-256 of its weights" if held else "empty: it holds no tensors"
    assert len(latent.digest) == (64 if held else 0), f"digest '{latent.digest}' should be {wanted}"
    assert opened().digest == latent.digest


@pytest.mark.parametrize("name", list(WRITERS))
def test_missing_weights_are_one_sentence_with_origin_and_licence(name, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    needed = LATENTS[name].weights[0]
    with pytest.raises(RequestError, match=f"latent space '{name}' needs its {needed.part}") as refused:
        open_latent(name, "cpu", str(tmp_path / "absent"))
    sentence = str(refused.value)
    assert f"licence {needed.licence}" in sentence
    assert (needed.hub or needed.address) in sentence
    assert "latent.weights" in sentence
    assert ("gated" in sentence) == needed.gated
    assert list(tmp_path.iterdir()) == []


def test_a_space_of_one_image_size_refuses_others():
    spec = replace(LATENTS["toy-ae"], image_size=64)
    assert spec.shape(64) == (16, 8, 8)
    with pytest.raises(ConfigError, match=r"takes images of 64 pixels, data\.image_size is 32"):
        spec.shape(32)


def test_a_latent_may_have_other_rows_than_columns(monkeypatch):
    spec = replace(LATENTS["toy-ae"], grid=(2, 4))
    monkeypatch.setattr(resolving, "LATENTS", {"toy-ae": spec})
    assert spec.shape(32) == (16, 2, 4)
    shape = resolving.resolve(compose("shapes").config).shape
    assert (shape.latent_shape, shape.grid) == ((16, 2, 4), (2, 4))
