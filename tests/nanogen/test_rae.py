"""Representation autoencoders: encoders as in their own library, preprocessing, decoder, statistics, wrong files."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from reference import filled, summary, wave
from safetensors.torch import save_file
from standins import WRITERS, install, randomize, released
from torch import nn

from diffusionbench.errors import CheckpointError
from nanogen.config import compose
from nanogen.latents import LATENTS, open_latent, perception, vit
from nanogen.latents.encoders import Encoder, Preprocessing, combined
from nanogen.latents.perception import PerceptionEncoder
from nanogen.latents.vit import ViTBlock, ViTDecoder, from_released, sine_cosine
from nanogen.resolve import resolve

ENCODERS = [name for name, spec in LATENTS.items() if "encoder" in spec.options]
# Those with a published decoder.
NAMES = [name for name in ENCODERS if LATENTS[name].weights[1].hub]
LIBRARY = [name for name in NAMES if LATENTS[name].options["encoder"] != "PerceptionEncoder"]
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Stand-ins of a row, written once."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            WRITERS[name](made[name])
        return made[name]

    return folder


@pytest.fixture(scope="module")
def images():
    return torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))


# ---- Decoder


def decoder_layout(channels, width, depth, hidden, patch):
    """Names and shapes of a released decoder in file order, positions left out."""

    def linear(name, inputs, outputs):
        return [(f"{name}.weight", (outputs, inputs)), (f"{name}.bias", (outputs,))]

    layout = [("trainable_cls_token", (1, 1, width)), *linear("decoder_embed", channels, width)]
    for index in range(depth):
        layer = f"decoder_layers.{index}"
        for part in ("query", "key", "value"):
            layout += linear(f"{layer}.attention.attention.{part}", width, width)
        layout += linear(f"{layer}.attention.output.dense", width, width)
        layout += linear(f"{layer}.intermediate.dense", width, hidden) + linear(f"{layer}.output.dense", hidden, width)
        for norm in ("layernorm_before", "layernorm_after"):
            layout += [(f"{layer}.{norm}.weight", (width,)), (f"{layer}.{norm}.bias", (width,))]
    layout += [("decoder_norm.weight", (width,)), ("decoder_norm.bias", (width,))]
    return layout + linear("decoder_pred", width, 3 * patch**2)


def reference_decoder():
    tensors = filled(decoder_layout(6, 24, 2, 40, 2))
    positions = torch.cat([torch.zeros(1, 24), sine_cosine(4, 24)])[None]
    return from_released(tensors | {"decoder_pos_embed": positions}, 6, num_heads=2, patch=2)


@torch.no_grad()
def test_the_decoder_has_its_reference_output():
    net = reference_decoder()
    latents = wave(0.19, 0.3, (2, 16, 6)).transpose(1, 2).unflatten(2, (4, 4))
    expected = [-0.207549, 1.264753, 1.45548, 0.26963, -2.09214, -1.46911, -1.01398]
    assert summary(net.tokens(latents)) == pytest.approx(expected, rel=1e-4)
    image = net(latents)
    assert image.shape == (2, 3, 8, 8)
    assert image.flatten()[:4].tolist() == pytest.approx([1.45548, -1.46911, 1.69054, -1.54815], rel=1e-4)


def test_positions_encode_the_column_first():
    row = sine_cosine(4, 24)[1]
    assert row[:6].tolist() == pytest.approx([0.841471, 0.213781, 0.046399, 0.010000, 0.002154, 0.000464], abs=1e-6)
    assert row[6].item() == pytest.approx(0.540302, abs=1e-6)
    assert row[12:].tolist() == [0.0] * 6 + [1.0] * 6


@pytest.mark.parametrize(
    "size, channels, parameters",
    [
        ((768, 12, 12, 3072), 768, 86_435_328),
        ((1024, 24, 16, 4096), 1024, 304_412_416),
        ((1152, 28, 16, 4096), 768, 415_352_704),
        ((1152, 28, 16, 4096), 1024, 415_647_616),
    ],
)
def test_published_decoders_have_as_many_parameters(size, channels, parameters):
    with torch.device("meta"):
        net = ViTDecoder(channels, *size)
    assert sum(map(torch.numel, net.parameters())) == parameters


@torch.no_grad()
def test_another_grid_is_resized_to_the_decoders_own():
    net = reference_decoder()
    whole = wave(0.19, 0.3, (1, 6, 4, 4))
    flat = whole[:, :, :1, :1].expand(-1, -1, 2, 2)
    torch.testing.assert_close(net(flat), net(flat[:, :, :1, :1].expand(-1, -1, 4, 4)), atol=1e-5, rtol=1e-5)


def test_a_new_decoder_starts_at_sine_cosine_positions_and_no_class_token():
    net = ViTDecoder(6, 24, 1, 2, 40, patch=2, side=4)
    assert torch.equal(net.positions[0, 1:], sine_cosine(4, 24))
    assert net.positions[0, 0].abs().max() == 0
    assert net.cls.abs().max() == 0


WRONG_DECODERS = {
    r"missing decoder_layers\.1\.output\.dense\.bias; unknown other": lambda tensors: tensors.update(
        other=tensors.pop("decoder_layers.1.output.dense.bias")
    ),
    r"decoder_embed\.weight: \[24, 5\] instead of \[24, 6\]": lambda tensors: tensors.update(
        {"decoder_embed.weight": tensors["decoder_embed.weight"][:, :5]}
    ),
    r"missing .*decoder_layers\.1\.attention": lambda tensors: [
        tensors.pop(name) for name in list(tensors) if name.startswith("decoder_layers.1.attention")
    ],
    "expected a multiple of 4 and of 2 heads": lambda tensors: tensors.update(decoder_pos_embed=torch.zeros(1, 17, 23)),
    "missing decoder_embed": lambda tensors: tensors.clear(),
}


@pytest.mark.parametrize("reason", WRONG_DECODERS)
def test_other_decoders_are_refused_with_the_names_that_differ(reason):
    tensors = filled(decoder_layout(6, 24, 2, 40, 2)) | {"decoder_pos_embed": torch.zeros(1, 17, 24)}
    WRONG_DECODERS[reason](tensors)
    with pytest.raises(CheckpointError, match=reason):
        from_released(tensors, 6, num_heads=2, patch=2)


# ---- Encoders


@pytest.mark.parametrize("name", NAMES)
def test_every_row_has_its_published_shape(name):
    channels = 1024 if "pe-l" in name else 768
    assert LATENTS[name].shape(256) == (channels, 16, 16)
    assert resolve(compose("imagenet256", name.removeprefix("rae-"), "paper").config).train_shift == pytest.approx(
        math.sqrt(channels * 256 / 4096)
    )


@pytest.mark.parametrize("name", LIBRARY)
@torch.no_grad()
def test_tokens_are_those_of_the_library(name, folders, images):
    transformers = pytest.importorskip("transformers")
    spec = replace(LATENTS[name], folder=folders(name))
    kind = spec.options["encoder"]
    model = getattr(transformers, kind).from_pretrained(folders(name) / "encoder").eval()
    if kind == "SiglipVisionModel":
        shown, skipped = (images - 0.5) / 0.5, 0
    else:
        mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
        shown, skipped = (images - mean) / std, 5
    if kind == "Dinov2WithRegistersModel":
        shown = F.interpolate(shown, size=(224, 224), mode="bicubic", align_corners=False)
    # The blocks' output before the last norm: each model's own norm is undone by leaving it out.
    norm = {"Dinov2WithRegistersModel": "layernorm", "DINOv3ViTModel": "norm", "SiglipVisionModel": "post_layernorm"}[
        kind
    ]
    if kind != "SiglipVisionModel":
        setattr(model, norm, nn.LayerNorm(768, eps=1e-5, elementwise_affine=False))
    expected = model(pixel_values=shown).last_hidden_state[:, skipped:]
    found = Encoder(spec, "cpu")(images)
    assert found.shape == (2, 256, 768)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model.safetensors"])
def test_both_names_of_convnext_s_response_norm_are_read(file, tmp_path, monkeypatch, images):
    """Older files call its gain and bias gamma and beta."""
    spec = install("rae-convnextv2-tiny", tmp_path, monkeypatch)
    stored = tmp_path / "encoder" / "pytorch_model.bin"
    tensors = torch.load(stored, weights_only=True)
    expected = Encoder(spec, "cpu")
    older = {name.replace("grn.weight", "grn.gamma").replace("grn.bias", "grn.beta"): x for name, x in tensors.items()}
    assert sum("grn.gamma" in name for name in older) == sum("grn.beta" in name for name in older) == 4
    stored.unlink()
    if file == stored.name:
        torch.save(older, stored)
    else:
        save_file(older, stored.with_name(file), {"format": "pt"})
        files = replace(spec.weights[0], names=("config.json", file))
        spec = replace(spec, weights=(files, *spec.weights[1:]))
    found = Encoder(spec, "cpu")
    assert found.digest == expected.digest
    assert torch.equal(found(images), expected(images))


FURTHER = ("rae-mae-b", "rae-mae-h", "rae-webssl-300m", "rae-tipsv2-b", "rae-dinov3-7b", "rae-convnextv2-base")


@pytest.mark.parametrize("name", FURTHER)
@torch.no_grad()
def test_tokens_of_further_encoders_are_those_of_the_library(name, tmp_path, monkeypatch, images):
    """Of a masked autoencoder: of all patches, in order, at another size than it was trained on."""
    transformers = pytest.importorskip("transformers")
    spec = install(name, tmp_path, monkeypatch)
    kind = spec.options["encoder"]
    model = getattr(transformers, kind).from_pretrained(tmp_path / "encoder").eval()
    shown, more = Preprocessing(**spec.options["preprocessing"])(images), {}
    if kind == "ViTMAEModel":
        model.config.mask_ratio = 0.0
        more = {"interpolate_pos_encoding": True, "noise": torch.arange(256.0).expand(2, -1)}
    setattr(model, "norm" if "DINO" in kind else "layernorm", nn.Identity())
    states = model(pixel_values=shown, **more).last_hidden_state
    if kind == "ConvNextV2Model":
        states = states.flatten(2).transpose(1, 2)
    else:
        skipped = {"ViTMAEModel": 1, "Dinov2Model": 1, "Tipsv2VisionModel": 2, "DINOv3ViTModel": 5}[kind]
        states = states[:, skipped:]
    expected = F.layer_norm(states, (spec.channels,), eps=1e-5)
    found = Encoder(spec, "cpu")(images)
    assert found.shape == (2, 64 if kind == "ConvNextV2Model" else 256, spec.channels)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(Encoder(spec, "cpu")(images), found)


def test_a_model_in_several_files_is_there_when_all_that_its_index_lists_are(tmp_path, monkeypatch):
    spec = install("rae-dinov3-7b", tmp_path, monkeypatch)
    folder, (encoder, *_) = tmp_path / "encoder", spec.weights
    index = folder / "model.safetensors.index.json"
    assert encoder.inside(folder) == [folder / "config.json", index]
    (folder / "model-00002-of-00003.safetensors").unlink()
    assert encoder.inside(folder) is None
    # A file that cannot be read is not missing.
    index.write_text("{")
    assert encoder.inside(folder) is not None
    with pytest.raises(CheckpointError, match=r"transformers cannot open .*Get the files again"):
        Encoder(spec, "cpu")


def test_rows_of_several_blocks_are_those_of_the_paper():
    found = {
        name: (spec.options["blocks"], spec.options["combine"])
        for name, spec in LATENTS.items()
        if "blocks" in spec.options
    }
    assert found["rae-dinov2-b-mls"] == ((2, 5, 8, 11), "mean")
    assert found["rae-dinov2-g-mls"] == ((10, 20, 30, 39), "mean")
    assert found["rae-dinov3-l-mls"] == ((5, 11, 17, 23), "mean and token")
    assert found["rae-dinov3-h-plus-mls"] == ((8, 16, 24, 31), "mean and token")
    assert found["rae-dinov3-l-k7"] == (tuple(range(11, 24, 2)), "mean and token")
    assert len(found["rae-dinov3-l-k23"][0]) == 23
    assert len(found) == 10
    assert not any(LATENTS[name].weights[1].hub for name in found)


def test_siglip_keeps_gain_and_bias_and_the_others_do_not(folders):
    for name in LIBRARY:
        norm = Encoder(replace(LATENTS[name], folder=folders(name)), "cpu")._tower.norm
        assert (norm.weight is not None) == (name == "rae-siglip2-b")
    kept = Encoder(
        replace(LATENTS["rae-dinov2-b"], folder=folders("rae-dinov2-b"), options=with_options(affine=True)), "cpu"
    )
    assert kept._tower.norm.weight is not None


def with_options(**more):
    return {**LATENTS["rae-dinov2-b"].options, **more}


@torch.no_grad()
def test_preprocessing_of_known_pixels():
    """Greys and a ramp: the colours are normalised, the size follows, and interpolation is the stated one."""
    grey = torch.full((1, 3, 256, 256), 0.6)
    for name in NAMES:
        preprocess = Preprocessing(**LATENTS[name].options["preprocessing"])
        mean, std = IMAGENET if "dino" in name else HALF
        size = 256 if name in ("rae-dinov3-b", "rae-siglip2-b") else 224
        shown = preprocess(grey)
        assert shown.shape == (1, 3, size, size)
        for colour in range(3):
            expected = (0.6 - mean[colour]) / std[colour]
            torch.testing.assert_close(shown[0, colour], torch.full((size, size), expected), atol=1e-5, rtol=1e-5)
    # One white column at 256 -> 224: place p of the result is read at (p + 0.5) 256 / 224 - 0.5, with the kernel of the
    # stated interpolation at its own width. Antialiasing would widen it.
    line = torch.zeros(1, 3, 256, 256)
    line[..., 100] = 1
    distance = ((torch.arange(224) + 0.5) * 256 / 224 - 0.5 - 100).abs()
    near = 1.25 * distance**3 - 2.25 * distance**2 + 1
    far = -0.75 * (distance**3 - 5 * distance**2 + 8 * distance - 4)
    cubic = torch.where(distance <= 1, near, torch.where(distance < 2, far, 0))
    for name, kernel in (("rae-dinov2-b", cubic), ("rae-pe-l", (1 - distance).clamp(min=0))):
        mean, std = IMAGENET if "dino" in name else HALF
        shown = Preprocessing(**LATENTS[name].options["preprocessing"])(line)[0, 0, 0]
        torch.testing.assert_close(shown, (kernel - mean[0]) / std[0], atol=1e-4, rtol=1e-4)


def test_dinov3_resizes_other_sizes_with_antialiasing():
    preprocess = Preprocessing(**LATENTS["rae-dinov3-b"].options["preprocessing"])
    image = torch.zeros(1, 3, 512, 512)
    image[..., ::2] = 1
    inner = preprocess(image)[0, 0, 8:-8, 8:-8]
    assert inner.std() < 1e-3


@torch.no_grad()
def test_features_of_several_blocks_are_normed_and_combined(folders, images):
    transformers = pytest.importorskip("transformers")
    for how in ("mean", "sum", "mean and token"):
        spec = replace(
            LATENTS["rae-dinov2-b"], folder=folders("rae-dinov2-b"), options=with_options(blocks=(0, 1), combine=how)
        )
        model = transformers.Dinov2WithRegistersModel.from_pretrained(folders("rae-dinov2-b") / "encoder").eval()
        shown = Preprocessing(**spec.options["preprocessing"])(images)
        states = model(pixel_values=shown, output_hidden_states=True).hidden_states[1:]
        first, last = (F.layer_norm(state[:, 5:], (768,), eps=1e-5) for state in states)
        expected = {
            "mean": (first + last) / 2,
            "sum": first + last,
            "mean and token": (first + last) / 2 + last.mean(1, keepdim=True),
        }[how]
        torch.testing.assert_close(Encoder(spec, "cpu")(images), expected, atol=1e-5, rtol=1e-5)
    one = torch.randn(2, 4, 3)
    assert torch.equal(combined([one], "mean"), one)


def test_a_block_that_is_not_there_is_refused(folders):
    spec = replace(LATENTS["rae-dinov2-b"], folder=folders("rae-dinov2-b"), options=with_options(blocks=(0, 2)))
    with pytest.raises(CheckpointError, match="reads block 2, and its encoder has 2 blocks"):
        Encoder(spec, "cpu")


def test_an_encoder_of_another_width_or_grid_is_refused(folders):
    spec = replace(LATENTS["rae-dinov2-b"], folder=folders("rae-dinov2-b"))
    for wrong in (replace(spec, channels=1024), replace(spec, image_size=512)):
        with pytest.raises(CheckpointError, match=r"gives 16x16 tokens of 768, expected a latent of"):
            Encoder(wrong, "cpu")


def test_missing_tensors_of_an_encoder_are_listed(tmp_path):
    pytest.importorskip("transformers")
    from safetensors.torch import load_file, save_file

    WRITERS["rae-dinov2-b"](tmp_path)
    file = tmp_path / "encoder" / "model.safetensors"
    tensors = load_file(file)
    name = next(key for key in tensors if key.endswith("norm1.bias"))
    del tensors[name]
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"holds another model: missing .*{name.split('.')[-2]}\.bias"):
        open_latent("rae-dinov2-b", "cpu", str(tmp_path))


# ---- Perception Encoder


def naive_perception(net, pixels):
    """The same network written out for one image, float64: class token first, columns before rows, from 1."""
    weights = {name: parameter.detach().double() for name, parameter in net.named_parameters()}
    width, heads, patch = net.embed.out_channels, net.blocks[0].num_heads, net.patch
    grid = pixels.shape[-1] // patch
    first = int("cls" in weights)
    table = weights["positions"][first:].T.reshape(1, width, net.side, net.side)
    table = F.interpolate(table, size=(grid, grid), mode="bilinear", align_corners=False)[0]
    tokens = [weights["cls"] + weights["positions"][0]] if first else []
    for row in range(grid):
        for column in range(grid):
            seen = pixels[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch].double()
            tokens.append((weights["embed.weight"] * seen).sum((1, 2, 3)) + table[:, row, column])
    x = F.layer_norm(torch.stack(tokens), (width,), weights["norm.weight"], weights["norm.bias"], 1e-5)
    size = width // heads

    def turn(vector, place):
        turned = vector.clone()
        row, column = (0, 0) if place < first else (1 + (place - first) // grid, 1 + (place - first) % grid)
        for pair in range(size // 2):
            axis, j = (column, pair) if pair < size // 4 else (row, pair - size // 4)
            angle = axis * 10000 ** (-2 * j / (size / 2))
            u, w = vector[2 * pair], vector[2 * pair + 1]
            turned[2 * pair] = u * math.cos(angle) - w * math.sin(angle)
            turned[2 * pair + 1] = w * math.cos(angle) + u * math.sin(angle)
        return turned

    for index in range(len(net.blocks)):
        block = {name.split(".", 2)[2]: value for name, value in weights.items() if name.startswith(f"blocks.{index}.")}
        normed = F.layer_norm(x, (width,), block["norm1.weight"], block["norm1.bias"], 1e-5)
        q, k, v = (normed @ block["qkv.weight"].T + block["qkv.bias"]).split(width, dim=1)
        mixed = torch.zeros_like(x)
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            turned_q = torch.stack([turn(q[place, part], place) for place in range(len(x))])
            turned_k = torch.stack([turn(k[place, part], place) for place in range(len(x))])
            mixed[:, part] = (turned_q @ turned_k.T / math.sqrt(size)).softmax(1) @ v[:, part]
        x = x + block.get("scale1", 1) * (mixed @ block["proj.weight"].T + block["proj.bias"])
        normed = F.layer_norm(x, (width,), block["norm2.weight"], block["norm2.bias"], 1e-5)
        hidden = F.gelu(normed @ block["fc1.weight"].T + block["fc1.bias"])
        x = x + block.get("scale2", 1) * (hidden @ block["fc2.weight"].T + block["fc2.bias"])
    return x


@pytest.mark.parametrize(
    "scaled, has_class", [(False, True), (True, True), (True, False)], ids=["core", "lang", "without a class token"]
)
@torch.no_grad()
def test_the_perception_encoder_is_what_is_written_about_it(scaled, has_class):
    net = randomize(PerceptionEncoder(32, 2, 24, 2, patch=4, places=9 + has_class, scaled=scaled))
    pixels = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(pixels)[0].double(), naive_perception(net, pixels[0]), atol=1e-5, rtol=1e-4)


def test_the_large_perception_encoders_have_their_layout():
    with torch.device("meta"):
        core = PerceptionEncoder(1024, 24, 4096, 16, 14, 577, scaled=False)
        lang = PerceptionEncoder(1024, 23, 4096, 16, 14, 1025, scaled=True)
    names = {source for name, _ in core.named_parameters() for source in perception.released_names(name)}
    assert {"conv1.weight", "class_embedding", "positional_embedding", "ln_pre.weight", "ln_pre.bias"} <= names
    assert "transformer.resblocks.23.attn.in_proj_weight" in names
    assert "transformer.resblocks.0.mlp.c_proj.bias" in names
    # Tower without pooling and projection: 12.6 M a block, 302 M in all.
    assert sum(map(torch.numel, core.parameters())) == 24 * 12_596_224 + 1024 * (3 * 196 + 1 + 577 + 2)
    assert sum(map(torch.numel, lang.parameters())) == 23 * (12_596_224 + 2048) + 1024 * (3 * 196 + 1 + 1025 + 2)


def test_other_files_than_a_vision_tower_are_refused():
    with pytest.raises(CheckpointError, match="holds no vision tower of Perception Encoder"):
        perception.from_released({"weight": torch.zeros(3)}, 16)
    net = PerceptionEncoder(32, 1, 24, 2, patch=4, places=10, scaled=True)
    tensors = released(net, perception.released_names)
    tensors["class_embedding"] = tensors["class_embedding"][:8]
    with pytest.raises(CheckpointError, match=r"class_embedding: \[8\] instead of \[32\]"):
        perception.from_released(tensors, 2)


# ---- The whole


@torch.no_grad()
def test_statistics_are_per_channel_and_position(folders, images):
    latent = open_latent("rae-dinov2-b", "cpu", str(folders("rae-dinov2-b")))
    stats = torch.load(folders("rae-dinov2-b") / "statistics" / "stats.pt", weights_only=True)
    raw = latent._encoder(images).transpose(1, 2).reshape(2, 768, 16, 16)
    expected = (raw - stats["mean"]) / (stats["var"] + 1e-5).sqrt()
    torch.testing.assert_close(latent.encode(images), expected, atol=1e-5, rtol=1e-5)
    # Back: the statistics are undone, and nothing is clamped.
    torch.testing.assert_close(latent.decode(expected), latent._decoder(raw), atol=1e-4, rtol=1e-4)
    assert latent.decode(50 * expected).abs().max() > 1
    assert latent.decode(expected).shape == (2, 3, 256, 256)


WRONG_STATISTICS = {
    r"'var' is nothing of that name, expected \[768, 16, 16\]": lambda stats: {"mean": stats["mean"]},
    r"'mean' is \[1024, 16, 16\], expected \[768, 16, 16\]": lambda stats: {
        name: torch.ones(1024, 16, 16) for name in stats
    },
    "hold a variance of 0": lambda stats: {**stats, "var": stats["var"] * (torch.arange(16) > 0)},
    "value that is not finite": lambda stats: {**stats, "mean": stats["mean"] / 0},
}


@pytest.mark.parametrize("reason", WRONG_STATISTICS)
def test_wrong_statistics_are_refused(reason, folders, tmp_path):
    (tmp_path / "statistics").mkdir()
    for part in ("encoder", "decoder"):
        (tmp_path / part).symlink_to(folders("rae-dinov2-b") / part)
    stats = torch.load(folders("rae-dinov2-b") / "statistics" / "stats.pt", weights_only=True)
    torch.save(WRONG_STATISTICS[reason](stats), tmp_path / "statistics" / "stats.pt")
    with pytest.raises(CheckpointError, match=reason):
        open_latent("rae-dinov2-b", "cpu", str(tmp_path))


def test_a_decoder_of_another_width_or_size_names_the_file(folders, tmp_path):
    (tmp_path / "decoder").mkdir()
    for part in ("encoder", "statistics"):
        (tmp_path / part).symlink_to(folders("rae-dinov2-b") / part)
    for decoder, reason in (
        (ViTDecoder(1024, 64, 1, 16, 32), r"decoder\.pt: shapes differ .*decoder_embed\.weight: \[64, 1024\] instead"),
        (ViTDecoder(768, 64, 1, 16, 32, side=8), "makes images of 128 pixels, expected 256"),
    ):
        torch.save(released(decoder, vit.released_names), tmp_path / "decoder" / "decoder.pt")
        with pytest.raises(CheckpointError, match=reason):
            open_latent("rae-dinov2-b", "cpu", str(tmp_path))


def test_a_block_with_scales_of_one_is_a_block_without():
    plain, scaled = (randomize(ViTBlock(8, 2, 12, 1e-5, scaled=flag)) for flag in (False, True))
    state = scaled.state_dict() | plain.state_dict() | {"scale1": torch.ones(8), "scale2": torch.ones(8)}
    scaled.load_state_dict(state)
    x = torch.tensor(np.random.default_rng(0).normal(size=(2, 5, 8)), dtype=torch.float32)
    torch.testing.assert_close(plain(x), scaled(x))
