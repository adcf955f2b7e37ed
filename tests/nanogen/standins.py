"""Weight files small enough for a test: random weights of the real classes, saved as the originals are."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from nanogen.latents import LATENTS, LatentSpec
from nanogen.latents.taef2 import decoder, encoder


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


# Latent spaces whose weights do not ship -> what writes stand-ins for them into a folder.
WRITERS: dict[str, Callable[[Path], None]] = {
    "taef2": write_taef2,
    **{name: partial(write_vae, name) for name, spec in LATENTS.items() if "model" in spec.options},
}


def unpinned(spec: LatentSpec) -> LatentSpec:
    """The row without the hashes of its real files."""
    return replace(spec, weights=tuple(replace(one, sha256={}) for one in spec.weights))


def install(name: str, folder: Path, monkeypatch) -> LatentSpec:
    """Write stand-ins for a latent space into a folder and give its row, which no longer asks for the real hashes."""
    folder.mkdir(parents=True, exist_ok=True)
    WRITERS[name](folder)
    spec = unpinned(LATENTS[name])
    monkeypatch.setitem(LATENTS._rows, name, spec)
    return replace(spec, folder=folder)
