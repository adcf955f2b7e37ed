"""The compact Inception network: its parts against explicit loops, and the handling of its weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from diffusionbench.errors import RequestError
from diffusionbench.judges import inception
from diffusionbench.schema import file_digest


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Random weights in a file that is named as the published one is: by its own hash."""
    torch.manual_seed(0)
    net = inception.InceptionNet()
    path = tmp_path_factory.mktemp("weights") / "weights.pth"
    torch.save(net.state_dict(), path)
    return path.rename(path.with_name(f"weights-{file_digest(path)[:8]}.pth"))


def test_resize_follows_the_2015_graph():
    image = torch.arange(2 * 3 * 5 * 7, dtype=torch.float32).reshape(2, 3, 5, 7).square() % 251
    found = inception.resize_tf1(image, 11)
    for row in range(11):
        for column in range(11):
            y, x = np.float32(row) * np.float32(5 / 11), np.float32(column) * np.float32(7 / 11)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, 4), min(left + 1, 6)
            dy, dx = float(y - top), float(x - left)
            above = image[..., top, left] * (1 - dx) + image[..., top, right] * dx
            below = image[..., bottom, left] * (1 - dx) + image[..., bottom, right] * dx
            torch.testing.assert_close(found[..., row, column], above * (1 - dy) + below * dy, rtol=1e-4, atol=1e-2)


def test_names_and_size_are_those_of_the_published_file():
    names = inception.InceptionNet().state_dict()
    for name in ("Conv2d_1a_3x3.conv.weight", "Mixed_5b.branch1x1.bn.running_var", "Mixed_7c.branch_pool.conv.weight"):
        assert name in names
    assert names["fc.weight"].shape == (1008, 2048)
    assert not any(name.endswith("conv.bias") for name in names)


def test_features_do_not_depend_on_the_batch(weights):
    net = inception.Inception(weights=weights)
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 24, 3), dtype=np.uint8)
    whole = net(images)
    assert whole["features"].shape == (3, 2048)
    assert whole["logits"].shape == (3, 1008)
    for index in range(3):
        part = net(images[index : index + 1])
        np.testing.assert_allclose(part["features"][0], whole["features"][index], rtol=1e-3, atol=1e-5)
    matrix = net._net.fc.weight.detach().numpy()
    np.testing.assert_allclose(whole["logits"], whole["features"] @ matrix.T, rtol=1e-3, atol=1e-4)


def test_average_pooling_leaves_the_padding_out():
    """The corner of a 3x3 average has four pixels, not nine."""
    pooled = F.avg_pool2d(torch.ones(1, 1, 4, 4), 3, stride=1, padding=1, count_include_pad=False)
    assert torch.equal(pooled, torch.ones(1, 1, 4, 4))
    torch.manual_seed(0)
    block = inception._mixed_5(192, 32).eval()
    constant = block(torch.ones(1, 192, 5, 5))[0, -32:]
    # With the padding counted, the border of the pooling branch would differ from its middle.
    torch.testing.assert_close(constant[:, 0, 0], constant[:, 2, 2])


# The pooling branch of each block, as the frozen graph has it: the very last one takes the maximum.
POOLS = dict.fromkeys(("5b", "5c", "5d", "6b", "6c", "6d", "6e", "7b"), F.avg_pool2d) | {"7c": F.max_pool2d}


@pytest.mark.parametrize("name", POOLS)
def test_each_block_pools_as_the_graph_does(name):
    torch.manual_seed(0)
    block = inception.InceptionNet().get_submodule(f"Mixed_{name}")
    x = torch.rand(1, block.branch_pool.conv.in_channels, 5, 5)
    options = {"count_include_pad": False} if POOLS[name] is F.avg_pool2d else {}
    wanted = block.branch_pool(POOLS[name](x, 3, stride=1, padding=1, **options))
    torch.testing.assert_close(block(x)[:, -wanted.shape[1] :], wanted)


def test_weights_that_are_missing_or_wrong_are_refused(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path))
    with pytest.raises(RequestError, match=r"needs its weights at .*which is not there\. Fetch https://"):
        inception.Inception()
    other = tmp_path / "weights-00000000.pth"
    other.write_bytes(weights.read_bytes())
    with pytest.raises(RequestError, match="name must end in the first 8 digits"):
        inception.Inception(weights=other)
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pth")
    named = (tmp_path / "a.pth").rename(tmp_path / f"a-{file_digest(tmp_path / 'a.pth')[:8]}.pth")
    with pytest.raises(RequestError, match="not those of the 2015 Inception network"):
        inception.Inception(weights=named)


def test_other_arrays_are_refused(weights):
    with pytest.raises(RequestError, match="uint8"):
        inception.Inception(weights=weights)(np.zeros((1, 8, 8, 3), np.float32))


def test_spatial_features_are_rows_columns_and_then_channels(weights):
    images = np.random.default_rng(0).integers(0, 256, (2, 20, 24, 3), dtype=np.uint8)
    judge = inception.InceptionSpatial(weights=weights)
    seen = []
    handle = judge._net.Mixed_6d.branch1x1.register_forward_hook(lambda module, given, output: seen.append(output))
    found = judge(images)["features"]
    handle.remove()
    assert found.shape == (2, 17 * 17 * 7)
    for row, column, channel in ((0, 0, 0), (3, 11, 6), (16, 16, 2)):
        place = (row * 17 + column) * 7 + channel
        np.testing.assert_array_equal(found[:, place], seen[0][:, channel, row, column].numpy())
    assert judge.digest != inception.Inception(weights=weights).digest
