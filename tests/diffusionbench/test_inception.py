import math

import numpy as np
import pytest
import torch

from diffusionbench.errors import RequestError
from diffusionbench.extractors.inception import (
    WEIGHTS_FILE,
    WEIGHTS_URL,
    Inception,
    InceptionNet,
    Mixed,
    find_weights,
    resize_tf1,
)
from diffusionbench.schema import file_digest

WIDTHS = {"64": 64, "192": 192, "768": 768, "2048": 2048, "logits_unbiased": 1008, "logits": 1008}


def pixels(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights that keep activations of order one, named by its hash."""
    state = InceptionNet().state_dict()
    generator = torch.Generator().manual_seed(0)
    for key, value in state.items():
        if key.endswith("conv.weight"):
            value.normal_(0, math.sqrt(2 / value[0].numel()), generator=generator)
    folder = tmp_path_factory.mktemp("weights")
    torch.save(state, folder / "new.pth")
    return (folder / "new.pth").rename(folder / f"random-{file_digest(folder / 'new.pth')[:8]}.pth")


@pytest.fixture(scope="module")
def extractor(weights):
    return Inception("cpu", weights)


@pytest.mark.parametrize("height, width, size", [(4, 7, 5), (3, 3, 7), (9, 5, 4), (6, 6, 6)])
def test_resize_against_an_explicit_loop(height, width, size):
    image = np.random.default_rng(1).uniform(0, 255, (height, width)).astype(np.float32)

    def neighbours(index, length):
        position = np.float32(index) * (np.float32(length) / np.float32(size))
        low = math.floor(position)
        return low, min(low + 1, length - 1), position - low

    expected = np.empty((size, size))
    for i in range(size):
        top, bottom, y = neighbours(i, height)
        for j in range(size):
            left, right, x = neighbours(j, width)
            upper, lower = (image[row, left] + (image[row, right] - image[row, left]) * x for row in (top, bottom))
            expected[i, j] = upper + (lower - upper) * y
    found = resize_tf1(torch.from_numpy(image)[None, None], size)[0, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_resize_by_two_repeats_the_last_pixel():
    row = torch.tensor([0.0, 10.0, 30.0]).expand(1, 1, 3, 3)
    assert resize_tf1(row, 6)[0, 0, 0].tolist() == [0, 5, 10, 20, 30, 30]


def identity_pool(pool):
    """A block whose pooling branch shows the pooled input as it is."""
    block = Mixed(2, {"branch1x1": [(1, 1)]}, 2, pool).eval().requires_grad_(False)
    block.branch_pool.conv.weight.data = torch.eye(2)[:, :, None, None]
    return block


def test_average_pool_leaves_the_padding_out():
    ones = torch.ones(1, 2, 4, 4)
    # A divisor of nine everywhere would give 4/9 in the corners.
    pooled = identity_pool("avg")(ones)[:, 1:]
    torch.testing.assert_close(pooled, ones / math.sqrt(1 + 1e-3))


def test_the_last_block_pools_by_maximum():
    net = InceptionNet()
    assert (net.Mixed_7b._pool, net.Mixed_7c._pool) == ("avg", "max")
    spot = torch.zeros(1, 2, 5, 5)
    spot[..., 2, 2] = 1
    pooled = identity_pool("max")(spot)[0, 1]
    assert (pooled[1:4, 1:4] > 0.99).all()
    assert float(pooled.sum()) == pytest.approx(9, rel=1e-3)


def test_parameter_names_and_shapes_are_the_published_ones():
    state = InceptionNet().state_dict()
    # 94 convolutions with batch norm (weight, four vectors, a counter), and the last layer.
    assert len(state) == 94 * 6 + 2
    shapes = {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Conv2d_1a_3x3.bn.running_var": (32,),
        "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_5b.branch_pool.bn.bias": (32,),
        "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
        "Mixed_6b.branch7x7dbl_2.conv.weight": (128, 128, 7, 1),
        "Mixed_6e.branch7x7_3.conv.weight": (192, 192, 7, 1),
        "Mixed_7a.branch7x7x3_4.conv.weight": (192, 192, 3, 3),
        "Mixed_7b.branch3x3_2a.conv.weight": (384, 384, 1, 3),
        "Mixed_7c.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "fc.weight": (1008, 2048),
        "fc.bias": (1008,),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    assert not any(key.endswith("conv.bias") for key in state)


def test_outputs_do_not_depend_on_the_batch(extractor):
    images = pixels(2, 3, 20, 24, 3)
    together = extractor(images)
    assert {name: (value.dtype, value.shape) for name, value in together.items()} == {
        "features": (np.float32, (3, 2048)),
        "logits": (np.float32, (3, 1008)),
    }
    assert together["features"].std() > 0.01
    alone = extractor(images[1:2])
    for name, value in alone.items():
        np.testing.assert_allclose(value[0], together[name][1], rtol=0, atol=1e-4 * np.abs(together[name]).max())


def test_taps_of_the_network(weights):
    net = InceptionNet()
    net.load_state_dict(torch.load(weights, weights_only=True))
    taps = net(torch.from_numpy(pixels(3, 1, 3, 8, 8)))
    assert {name: value.shape[1] for name, value in taps.items()} == WIDTHS
    torch.testing.assert_close(taps["logits"] - taps["logits_unbiased"], net.fc.bias[None], rtol=0, atol=1e-5)


def test_the_digest_follows_the_weights(extractor, tmp_path):
    state = InceptionNet().state_dict()
    torch.save(state, tmp_path / "other.pth")
    other = (tmp_path / "other.pth").rename(tmp_path / f"other-{file_digest(tmp_path / 'other.pth')[:8]}.pth")
    assert len(extractor.digest) == 64
    assert Inception("cpu", str(other)).digest != extractor.digest


def test_weights_are_looked_up_in_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path))
    with pytest.raises(RequestError) as refusal:
        Inception("cpu")
    assert WEIGHTS_URL in str(refusal.value)
    assert str(tmp_path / WEIGHTS_FILE) in str(refusal.value)
    (tmp_path / WEIGHTS_FILE).write_bytes(b"damaged")
    assert find_weights() == tmp_path / WEIGHTS_FILE
    with pytest.raises(RequestError, match="first 8 digits of the file's SHA-256"):
        Inception("cpu")


def save_named(folder, content):
    torch.save(content, folder / "new.pth")
    return (folder / "new.pth").rename(folder / f"x-{file_digest(folder / 'new.pth')[:8]}.pth")


@pytest.mark.parametrize("content", [{"fc.weight": torch.zeros(2)}, [1, 2], math.sqrt], ids=["keys", "list", "pickle"])
def test_other_files_are_refused(tmp_path, content):
    with pytest.raises(RequestError, match="not those of the 2015 Inception network"):
        Inception("cpu", save_named(tmp_path, content))


@pytest.mark.parametrize(
    "images", [np.zeros((1, 3, 8, 8), np.uint8), np.zeros((1, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8)]
)
def test_images_must_be_8_bit_rgb(extractor, images):
    with pytest.raises(RequestError, match=r"uint8 images \[B, H, W, 3\]"):
        extractor(images)
