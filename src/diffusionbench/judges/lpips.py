"""LPIPS: the distance of two images in the features of a VGG-16 network, with learned weights per channel.

The trunk is torchvision's ImageNet network, the weights are those of version 0.1 that VQGAN published; both are read by
their parameter names without importing either package.

Sources: Zhang et al. 2018 (arXiv 1801.03924); Simonyan and Zisserman 2014 (arXiv 1409.1556).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from diffusionbench.errors import RequestError
from diffusionbench.judges.hub import UNREADABLE, unreadable
from diffusionbench.schema import file_digest
from diffusionbench.shown import few
from diffusionbench.writing import cache_folder

# The digits in the name are the first of the file's SHA-256.
TRUNK: Final = "vgg16-397923af.pth"
HEADS: Final = "vgg.pth"
HEADS_MD5: Final = "d507d7349b931f0638a25a48a722f98a"
_ORIGINS: Final = {
    TRUNK: f"https://download.pytorch.org/models/{TRUNK} (licence BSD-3-Clause, 553 MB)",
    HEADS: "https://heibox.uni-heidelberg.de/f/607503859c864bc1b30b/?dl=1 (taming-transformers, licence MIT, 7 kB)",
}
# Widths of the convolutions between one pooling and the next; the last activation of each group is compared.
_GROUPS: Final = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# Four poolings leave one pixel of this many.
_SMALLEST: Final = 16


class LPIPS(nn.Module):
    """The distance, frozen; gradients flow into the images. Parameter names of `features` are torchvision's."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.taps: list[int] = []
        channels = 3
        for group in _GROUPS:
            for width in group:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            self.taps.append(len(layers) - 1)
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers[:-1])
        self.heads = nn.ParameterList(torch.ones(1, group[-1], 1, 1) for group in _GROUPS)
        for name, values in (("shift", (-0.030, -0.088, -0.188)), ("scale", (0.458, 0.448, 0.450))):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the distance of images [B, 3, H, W] in [-1, 1] and their partners, [B].

        Raises:
            RequestError: if the images are too small.
        """
        if min(x.shape[2:]) < _SMALLEST:
            raise RequestError(f"LPIPS needs images of {_SMALLEST} pixels a side or more, got {list(x.shape[2:])}.")
        both = (torch.cat([x, y]) - self.shift) / self.scale
        distance = x.new_zeros(len(x))
        for index, layer in enumerate(self.features):
            both = layer(both)
            if index in self.taps:
                first, second = (both / (both.norm(dim=1, keepdim=True) + 1e-10)).chunk(2)
                weighted = (first - second).square() * self.heads[self.taps.index(index)]
                distance = distance + weighted.sum(1).mean((1, 2))
        return distance


def missing_weights() -> str | None:
    """Return which of the two files is not in the cache folder and how to get it, or None where both are there."""
    absent = [name for name in _ORIGINS if not (cache_folder() / name).is_file()]
    if not absent:
        return None
    fetch = " and ".join(f"{name} from {_ORIGINS[name]}" for name in absent)
    return f"LPIPS needs {' and '.join(absent)} in {cache_folder()}. Fetch {fetch}."


def open_lpips(device: str) -> LPIPS:
    """Return the network with the published weights of the cache folder, on a device.

    Raises:
        RequestError: if a file is missing or another one; says how to get it.
    """
    if missing := missing_weights():
        raise RequestError(f"{missing} As a metric, pd_efflite0 needs neither.")
    trunk, heads = cache_folder() / TRUNK, cache_folder() / HEADS
    whole = {
        trunk: file_digest(trunk).startswith(TRUNK[-12:-4]),
        heads: hashlib.md5(heads.read_bytes()).hexdigest() == HEADS_MD5,
    }
    for path in (path for path, right in whole.items() if not right):
        raise RequestError(f"LPIPS: {path} is damaged or another file. Fetch {_ORIGINS[path.name]} again.")
    net = LPIPS()
    state = {name: tensor for name, tensor in _tensors(trunk).items() if name.startswith("features.")}
    state |= {f"heads.{name[3]}": tensor for name, tensor in _tensors(heads).items() if name.startswith("lin")}
    wanted = {name: tensor.shape for name, tensor in net.state_dict().items()}
    if {name: tensor.shape for name, tensor in state.items()} != wanted:
        odd = [name for name in {*wanted, *state} if name not in state or state[name].shape != wanted.get(name)]
        raise RequestError(f"LPIPS: {trunk} and {heads} lack or add {few(sorted(odd))}. Fetch both again.")
    net.load_state_dict(state)
    return net.to(device)


def _tensors(path: Path) -> Mapping[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (*UNREADABLE, EOFError) as error:
        raise RequestError(f"LPIPS: {path} cannot be read: {unreadable(error)}. Fetch it again.") from None
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise RequestError(f"LPIPS: {path} holds no tensors by name. Fetch it again.")
    return content
