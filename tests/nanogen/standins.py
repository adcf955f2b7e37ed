"""Weight files small enough for a test: random weights of the real classes, saved as the originals are."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from diffusionbench.judges import lpips
from diffusionbench.schema import file_digest
from nanogen.latents import LATENTS, LatentSpec, perception, vit
from nanogen.latents.perception import PerceptionEncoder
from nanogen.latents.taef2 import decoder, encoder
from nanogen.latents.vit import ViTDecoder


def write_taef2(folder: Path) -> None:
    torch.manual_seed(0)
    for name, net in (("taef2_encoder.pth", encoder()), ("taef2_decoder.pth", decoder())):
        torch.save({key: tensor.half() for key, tensor in net.state_dict().items()}, folder / name)


# What the repositories state of shift and scale; where they state none the row has a preset.
STATED = {
    "sd3.5-vae": {"shift_factor": 0.0609, "scaling_factor": 1.5305},
    "flux1-vae": {"shift_factor": 0.1159, "scaling_factor": 0.3611},
    "e2e-vavae": {"latents_mean": [0.1 * c for c in range(32)], "latents_std": [1 + 0.1 * c for c in range(32)]},
}


def write_vae(name: str, folder: Path) -> None:
    """A model of the row's class with a few thousand weights, saved by the library."""
    import diffusers

    spec = LATENTS[name]
    torch.manual_seed(0)
    if spec.options["model"] == "AutoencoderKLQwenImage":
        net = diffusers.AutoencoderKLQwenImage(base_dim=4, z_dim=spec.channels, num_res_blocks=1)
    else:
        packed = spec.options.get("packed")
        halvings = int(math.log2(spec.stride // 2 if packed else spec.stride))
        net = getattr(diffusers, spec.options["model"])(
            block_out_channels=(4,) * (halvings + 1),
            down_block_types=("DownEncoderBlock2D",) * (halvings + 1),
            up_block_types=("UpDecoderBlock2D",) * (halvings + 1),
            layers_per_block=1,
            norm_num_groups=2,
            latent_channels=spec.channels // 4 if packed else spec.channels,
            **STATED.get(name, {}),
        )
        if packed:
            net.bn.running_mean = torch.linspace(-1, 1, spec.channels)
            net.bn.running_var = torch.linspace(0.5, 2, spec.channels)
    net.save_pretrained(folder)


def released(net, names) -> dict[str, torch.Tensor]:
    """The parameters of a network under released names; what is stacked here is apart there."""
    pieces = {}
    for name, parameter in net.named_parameters():
        sources = names(name)
        pieces |= dict(zip(sources, parameter.detach().clone().chunk(len(sources)), strict=True))
    return pieces


def randomize(net, seed: int = 0):
    """Fill with small random numbers; gains stay near 1."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in net.named_parameters():
        gain = "norm" in name and name.endswith("weight")
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator) + gain
    return net


def write_encoder(name: str, folder: Path) -> None:
    """A few blocks of the row's width, in the layout of the original files."""
    spec = LATENTS[name]
    depth = max(spec.options.get("blocks", (1,))) + 1
    if spec.options["encoder"] == "PerceptionEncoder":
        # The largest models have no class token.
        heads, places = spec.options["heads"], 24**2 + (not name.endswith("-g"))
        patch = spec.options["preprocessing"]["size"] // 16
        net = PerceptionEncoder(spec.channels, 1, 64, heads, patch, places, scaled="lang" in name)
        tensors = released(randomize(net), perception.released_names)
        # As in the originals: what is not needed lies beside it, and Core has a text tower.
        tensors |= {"proj": torch.zeros(4, 4), "ln_post.weight": torch.ones(4), "attn_pool.probe": torch.zeros(1, 1, 4)}
        prefix = "visual." if name == "rae-pe-l" else ""
        tensors = {f"{prefix}{key}": tensor for key, tensor in tensors.items()}
        torch.save(tensors | ({"logit_scale": torch.ones(1)} if prefix else {}), folder / spec.weights[0].names[0])
        return
    import transformers

    kind = spec.options["encoder"].removesuffix("Model")
    patch = spec.options["preprocessing"]["size"] // 16
    size = {"Dinov2WithRegisters": {"image_size": 518, "mlp_ratio": 1, "num_register_tokens": 4}}
    size["Dinov2"] = {"image_size": 224, "mlp_ratio": 1}
    size["DINOv3ViT"] = {"intermediate_size": 64, "num_register_tokens": 4}
    size["SiglipVision"] = {"image_size": 256, "intermediate_size": 64}
    size["Tipsv2Vision"] = {"image_size": 448, "mlp_ratio": 1}
    size["ViTMAE"] = {"image_size": 224, "intermediate_size": 64}
    if kind == "ConvNextV2":
        config = transformers.ConvNextV2Config(hidden_sizes=[4, 8, 12, spec.channels], depths=[1] * 4)
    else:
        config = getattr(transformers, f"{kind}Config")(
            hidden_size=spec.channels, num_hidden_layers=depth, num_attention_heads=12, patch_size=patch, **size[kind]
        )
    net = randomize(getattr(transformers, spec.options["encoder"])(config))
    config.save_pretrained(folder)
    tensors = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    file = spec.weights[0].names[1]
    if file.endswith(".bin"):
        torch.save(tensors, folder / file)
    elif name.endswith("-7b"):
        # In several files, as the index says.
        parts = [f"model-0000{place}-of-00003.safetensors" for place in (1, 2, 3)]
        where = {key: parts[place % len(parts)] for place, key in enumerate(tensors)}
        for part in parts:
            save_file({key: tensors[key] for key in where if where[key] == part}, folder / part, {"format": "pt"})
        (folder / f"{file}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    else:
        net.save_pretrained(folder)


def write_rae(name: str, folder: Path) -> None:
    """Encoder, decoder and statistics, each in a folder of its part."""
    spec = LATENTS[name]
    for weights in spec.weights:
        (folder / weights.part).mkdir(exist_ok=True)
    write_encoder(name, folder / "encoder")
    _, side, _ = spec.shape(256)
    decoder = randomize(ViTDecoder(spec.channels, 64, 2, 16, 32, patch=256 // side, side=side))
    torch.save(released(decoder, vit.released_names), folder / "decoder" / "decoder.pt")
    generator = torch.Generator().manual_seed(1)
    shape = spec.shape(256)
    torch.save(
        {"mean": torch.randn(shape, generator=generator), "var": torch.rand(shape, generator=generator) + 0.5},
        folder / "statistics" / "stats.pt",
    )


# Latent spaces whose weights do not ship -> what writes stand-ins for them into a folder.
WRITERS: dict[str, Callable[[Path], None]] = {
    "taef2": write_taef2,
    **{name: partial(write_vae, name) for name, spec in LATENTS.items() if "model" in spec.options},
    **{
        name: partial(write_rae, name)
        for name, spec in LATENTS.items()
        if "encoder" in spec.options and not spec.weights[0].bundled
    },
}


def tiny(spec: LatentSpec) -> LatentSpec:
    """The row without the hashes of its real files; an encoder without a published decoder gets a small width."""
    if "encoder" in spec.options and not spec.weights[1].hub:
        spec = replace(spec, channels=4 * spec.options.get("heads", 12))
    return replace(spec, weights=tuple(replace(one, sha256={}) for one in spec.weights))


def install(name: str, folder: Path, monkeypatch) -> LatentSpec:
    """Write stand-ins for a latent space into a folder and give its row, which no longer asks for the real hashes."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = tiny(LATENTS[name])
    monkeypatch.setitem(LATENTS._rows, name, spec)
    WRITERS[name](folder)
    return replace(spec, folder=folder)


def write_lpips(folder: Path, monkeypatch) -> None:
    """Random weights of a narrow LPIPS in the layout of the two published files, where it looks for them."""
    monkeypatch.setenv("DIFFUSIONBENCH_CACHE", str(folder))
    monkeypatch.setattr(lpips, "_GROUPS", tuple((4,) * len(group) for group in lpips._GROUPS))
    torch.manual_seed(0)
    net = lpips.LPIPS()
    torch.save({f"features.{name}": tensor for name, tensor in net.features.state_dict().items()}, folder / "new.pth")
    heads = {f"lin{i}.model.1.weight": torch.rand(1, 4, 1, 1) for i in range(len(net.heads))}
    torch.save(heads, folder / lpips.HEADS)
    trunk = f"vgg16-{file_digest(folder / 'new.pth')[:8]}.pth"
    (folder / "new.pth").rename(folder / trunk)
    monkeypatch.setattr(lpips, "_ORIGINS", {trunk: lpips._ORIGINS[lpips.TRUNK], lpips.HEADS: "a page"})
    monkeypatch.setattr(lpips, "TRUNK", trunk)
    monkeypatch.setattr(lpips, "HEADS_MD5", hashlib.md5((folder / lpips.HEADS).read_bytes()).hexdigest())


def install_frozen(folder: Path, monkeypatch) -> None:
    """Put stand-ins for the frozen networks of extra losses where their rows look for them."""
    write_lpips(folder, monkeypatch)
    encoder = folder / "latents" / "rae-dinov2-b" / "encoder"
    encoder.mkdir(parents=True)
    write_encoder("rae-dinov2-b", encoder)
