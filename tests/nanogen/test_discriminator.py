"""The discriminator: reference outputs, counts, its file, spectral norm, augmentation, the balance of gradients."""

from __future__ import annotations

import pytest
import torch
from reference import filled, wave

from diffusionbench.errors import CheckpointError
from nanogen.rng import PositionalNoise
from nanogen.tokenizer import discriminator
from nanogen.tokenizer.discriminator import (
    CriticHead,
    Discriminator,
    FrozenViT,
    adaptive_weight,
    augmented,
    hinge,
    open_trunk,
    quantised,
)


def fill(module):
    module.load_state_dict(filled([(name, tuple(p.shape)) for name, p in module.named_parameters()]), strict=True)
    return module


def test_reference_outputs():
    trunk = fill(FrozenViT(12, 4, 2, 56, (0, 1, 3))).without_key_bias()
    net = Discriminator(trunk, spectral=False)
    fill(net.heads)
    logits = net(wave(0.17, 0.6, (2, 3, 32, 32)))
    assert logits.shape == (2, 64)
    found = [logits.mean(), logits.std(correction=0), *logits[0, :4], logits[-1, -1], hinge(logits, -logits).mean()]
    expected = [0.063986, 0.459547, -0.09673, -0.22152, -0.37941, -0.77907, 0.50613, 0.942076]
    assert [value.item() for value in found] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_counts_are_those_of_the_published_network():
    with torch.device("meta"):
        trunk = FrozenViT(384, 12, 6, 8, (2, 5, 8, 11))
        net = Discriminator(trunk)
    assert sum(weight.numel() for weight in trunk.parameters()) == 21_670_272
    trained = [weight for weight in net.parameters() if weight.requires_grad]
    assert sum(weight.numel() for weight in trained) == 7_386_245


def timm_file(path, width=64, depth=4, patch=56, **changes):
    """Write a small network in the layout of the published file."""
    torch.manual_seed(0)
    block = {
        **{f"norm{i}.{kind}": (width,) for i in (1, 2) for kind in ("weight", "bias")},
        "attn.qkv.weight": (3 * width, width),
        "attn.qkv.bias": (3 * width,),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "mlp.fc1.weight": (4 * width, width),
        "mlp.fc1.bias": (4 * width,),
        "mlp.fc2.weight": (width, 4 * width),
        "mlp.fc2.bias": (width,),
    }
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + (224 // patch) ** 2, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        **{f"blocks.{i}.{name}": shape for i in range(depth) for name, shape in block.items()},
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    tensors = {name: torch.randn(shape) * 0.1 for name, shape in shapes.items()} | changes
    torch.save({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)
    return tensors


def test_a_file_in_the_published_layout_is_read(tmp_path, monkeypatch):
    tensors = timm_file(tmp_path / discriminator.FILE)
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path))
    net = open_trunk()
    assert net.taps == (0, 1, 2, 3)
    assert torch.equal(net.blocks[1].fc1.weight, tensors["blocks.1.mlp.fc1.weight"])
    bias = net.blocks[2].qkv.bias.unflatten(0, (3, 64))
    assert bias[1].abs().max() == 0
    assert torch.equal(bias[2], tensors["blocks.2.attn.qkv.bias"][128:])
    assert not any(weight.requires_grad for weight in net.parameters())


def test_absent_damaged_and_other_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"needs dino_vit.* in .*\. Get it from https://huggingface.co/nyu-"):
        open_trunk()
    path = tmp_path / discriminator.FILE
    timm_file(path, **{"blocks.1.mlp.fc1.weight": None, "extra": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"missing blocks\.1\.mlp\.fc1\.weight; unknown extra"):
        open_trunk()
    torch.save({"weight": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="holds no vision transformer"):
        open_trunk()


def test_spectral_norm_takes_one_iteration_per_training_pass_and_none_otherwise():
    torch.manual_seed(0)
    head = CriticHead(8, spectral=True)
    x = torch.randn(2, 8, 16)
    vectors = [buffer for name, buffer in head.named_buffers() if name.endswith("_u")]
    assert len(vectors) == 3
    head.eval()
    before = [vector.clone() for vector in vectors]
    head(x)
    assert all(map(torch.equal, before, vectors))
    head.train()
    matrix = head.wide.parametrizations.weight.original.detach().flatten(1)
    u = before[1]
    v = torch.nn.functional.normalize(matrix.T @ u, dim=0, eps=1e-12)
    u = torch.nn.functional.normalize(matrix @ v, dim=0, eps=1e-12)
    head(x)
    torch.testing.assert_close(vectors[1], u)
    for _ in range(100):
        head(x)
    head.eval()
    assert torch.linalg.svdvals(head.wide.weight.flatten(1))[0].item() == pytest.approx(1, rel=1e-3)


def test_augmentation_moves_and_colours_as_stated():
    count, size = 4000, 16
    noise = PositionalNoise(0, list(range(count)))
    images = torch.zeros(count, 3, size, size)
    images[:, :, 8, 8] = 1.0
    # Moved: the point lies within two pixels, each place as often as any other; nothing moves in.
    moved = augmented(images, PositionalNoise(1, list(range(count))), "x")
    assert moved.shape == images.shape
    places = (moved - moved.amin((2, 3), keepdim=True))[:, 0].flatten(1).argmax(1)
    down, right = places // size - 8, places % size - 8
    counts = torch.bincount((down + 2) * 5 + right + 2, minlength=25)
    assert counts.sum() == count
    assert len(counts) == 25
    assert counts.min() > 0.6 * count / 25
    # Colours of a flat image: only brightness shows, uniform in [-0.5, 0.5] -- but for the zeros that moved in.
    flat = augmented(torch.full((count, 3, 1, 1), 0.25), noise, "x")[:, 0, 0, 0] - 0.25
    assert flat.min() >= -0.5 - 1e-6
    assert flat.max() <= 0.5 + 1e-6
    assert flat.mean().abs() < 0.02
    assert flat.std().item() == pytest.approx(12**-0.5, rel=0.05)
    # One pixel of pure colour: its distance to grey is scaled by saturation in [0, 2] and contrast in [0.5, 1.5].
    colour = torch.tensor([0.6, 0.0, -0.6])[:, None, None].expand(count, 3, 1, 1)
    spread = augmented(colour, noise, "x").std((1, 2, 3), correction=0) / colour[0].std(correction=0)
    assert spread.mean().item() == pytest.approx(1, abs=0.05)
    assert spread.max() < 3
    assert spread.square().mean().item() == pytest.approx(4 / 3 * (1 + 1 / 12), rel=0.1)
    # Two purposes are two augmentations.
    assert not torch.equal(augmented(images, noise, "x"), augmented(images, noise, "y"))


def test_gradients_flow_through_the_augmentation():
    images = torch.rand(3, 3, 16, 16, requires_grad=True)
    augmented(images, PositionalNoise(0, [0, 1, 2]), "x").square().sum().backward()
    assert (images.grad.abs().sum((1, 2, 3)) > 0).all()


def test_the_weight_is_the_ratio_of_two_gradients():
    weight = torch.tensor([3.0, 4.0], requires_grad=True)
    reconstruction, adversarial = (weight * torch.tensor([6.0, 8.0])).sum(), weight.square().sum() / 2
    assert adaptive_weight(reconstruction, adversarial, weight).item() == pytest.approx(10 / 5)
    assert not adaptive_weight(reconstruction, adversarial, weight).requires_grad
    assert adaptive_weight(reconstruction, 1e-9 * adversarial, weight).item() == 1e4
    reconstruction.backward()
    assert weight.grad.tolist() == [6.0, 8.0]


def test_quantised_images_are_8_bit_images():
    x = torch.linspace(-1.2, 1.2, 1000)
    levels = (quantised(x) + 1) * 127.5
    torch.testing.assert_close(levels, levels.round())
    assert (quantised(x) - x.clamp(-1, 1)).abs().max() <= 0.5 / 127.5 + 1e-6
