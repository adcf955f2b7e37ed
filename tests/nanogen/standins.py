"""Weight files small enough for a test: random weights of the real classes, saved as the originals are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from nanogen.latents import LATENTS, LatentSpec
from nanogen.latents.taef2 import decoder, encoder


def write_taef2(folder: Path) -> None:
    torch.manual_seed(0)
    for name, net in (("taef2_encoder.pth", encoder()), ("taef2_decoder.pth", decoder())):
        torch.save({key: tensor.half() for key, tensor in net.state_dict().items()}, folder / name)


# Latent spaces whose weights do not ship -> what writes stand-ins for them into a folder.
WRITERS: dict[str, Callable[[Path], None]] = {"taef2": write_taef2}


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
