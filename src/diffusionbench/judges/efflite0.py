"""EfficientNet-Lite0: features and ImageNet classes of any natural picture, from weights that install as a package.

Its distances are named `fd_efflite0` and so on; none of them is an FID. Batch norms are folded into the convolutions.
Sources: Tan and Le 2019 (arXiv 1905.11946); the Lite variant of 2020 has no squeeze-excitation, ReLU6 in place of
Swish, and a stem and head of fixed width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from diffusionbench.available import find_file
from diffusionbench.errors import MissingPackageError
from diffusionbench.judges import EFFLITE0
from diffusionbench.judges.float32 import PRECISION
from diffusionbench.judges.judge import Needs
from diffusionbench.judges.network import ArrayJudge
from diffusionbench.registry import install_command
from diffusionbench.sample import Item
from diffusionbench.schema import verify_bundled_weights

# Shorter side of the picture, and side of the crop from its middle.
_SIDE, _CROP = 256, 224
# Changes whenever the same weights would give other features; part of the digest.
_PREPROCESSING: Final = "uint8, Pillow bicubic to shorter side 256, centre crop 224, (x - 127) / 128"
# Expansion, width, repeats, stride of the first repeat, kernel.
_STAGES: Final = (
    (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)  # fmt: skip
# 1e-3 is TensorFlow's value, not torch's 1e-5.
_EPSILON: Final = 1e-3


class Conv(NamedTuple):
    """A convolution with the batch norm behind it folded in.

    Attributes:
        weight: [out, in / groups, k, k]; bias: [out].
    """

    weight: Tensor
    bias: Tensor
    stride: int = 1
    groups: int = 1

    def __call__(self, x: Tensor) -> Tensor:
        """Convolve [B, in, H, W] with TensorFlow's SAME padding, which has more at the end where it is uneven."""
        kernel = self.weight.shape[2]
        if self.stride == 1:
            return F.conv2d(x, self.weight, self.bias, padding=kernel // 2, groups=self.groups)
        pads = []
        for length in (x.shape[3], x.shape[2]):
            total = max((-(-length // self.stride) - 1) * self.stride + kernel - length, 0)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads), self.weight, self.bias, stride=self.stride, groups=self.groups)


def fold(weights: Mapping[str, Tensor], conv: str, norm: str, stride: int = 1, depthwise: bool = False) -> Conv:
    """Return a convolution with its batch norm, from tensors by name; formed in float64, kept in their own type."""
    kernel = weights[f"{conv}.weight"].double()
    scale = weights[f"{norm}.weight"].double() / (weights[f"{norm}.running_var"].double() + _EPSILON).sqrt()
    bias = weights[f"{norm}.bias"].double() - weights[f"{norm}.running_mean"].double() * scale
    kernel = (kernel * scale[:, None, None, None]).to(memory_format=torch.channels_last)
    kind = weights[f"{conv}.weight"].dtype
    return Conv(kernel.to(kind), bias.to(kind), stride, len(kernel) if depthwise else 1)


class Network:
    """The graph from a crop to features and logits.

    Args:
        weights: the published state dict.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._stem = fold(weights, "_conv_stem", "_bn0", stride=2)
        # Of each stage its inverted bottlenecks: expansion but in the first stage, depthwise, projection.
        self._stages: list[list[list[Conv]]] = []
        number = 0
        for expansion, _, repeats, stride, _ in _STAGES:
            self._stages.append([])
            for repeat in range(repeats):
                at = f"_blocks.{number + repeat}"
                expand = [fold(weights, f"{at}._expand_conv", f"{at}._bn0")] if expansion > 1 else []
                own = 1 if repeat else stride
                depthwise = fold(weights, f"{at}._depthwise_conv", f"{at}._bn1", own, depthwise=True)
                self._stages[-1].append([*expand, depthwise, fold(weights, f"{at}._project_conv", f"{at}._bn2")])
            number += repeats
        self._head = fold(weights, "_conv_head", "_bn1")
        self._classifier = weights["_fc.weight"], weights["_fc.bias"]

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return features [B, 1280] and logits [B, 1000] of crops [B, 3, 224, 224]."""
        features = F.relu6(self._head(self.map(x)), inplace=True).mean(dim=(2, 3))
        return features, F.linear(features, *self._classifier)

    def map(self, x: Tensor) -> Tensor:
        """Return the output of the last block [B, 320, 7, 7] for crops [B, 3, 224, 224]."""
        x = F.relu6(self._stem(x), inplace=True)
        for blocks in self._stages:
            x = _through(blocks, x)
        return x

    def stages(self, x: Tensor) -> list[Tensor]:
        """Return the last map [B, C, H, W] of each of the seven stages for crops [B, 3, 224, 224]."""
        x = F.relu6(self._stem(x), inplace=True)
        return [x := _through(blocks, x) for blocks in self._stages]


def _through(blocks: Sequence[Sequence[Conv]], x: Tensor) -> Tensor:
    """Return the output of a stage; all its blocks but the first add their input."""
    for repeat, (*inner, project) in enumerate(blocks):
        y = x
        for conv in inner:
            y = F.relu6(conv(y), inplace=True)
        y = project(y)
        x = y.add_(x) if repeat else y
    return x


def prepare(images: np.ndarray) -> Tensor:
    """Return crops float32 [B, 3, 224, 224] of images uint8 [B, H, W, 3]; small pictures are enlarged."""
    height, width = images.shape[1:3]
    short = min(height, width)
    if short != _SIDE:
        height, width = (_SIDE if side == short else int(_SIDE * side / short) for side in (height, width))
        way = Image.Resampling.BICUBIC
        images = np.stack([np.asarray(Image.fromarray(image).resize((width, height), way)) for image in images])
    top, left = (height - _CROP) // 2, (width - _CROP) // 2
    crops = np.ascontiguousarray(images[:, top : top + _CROP, left : left + _CROP])
    # Rows of pixels as they lie in memory: the layout in which these convolutions are fastest.
    return torch.from_numpy(crops).permute(0, 3, 1, 2).float().sub_(127).div_(128)


def find_weights() -> Path:
    """Return the weight file of the installed package, whose code is not run; its content is not looked at.

    Raises:
        MissingPackageError: if the package is not installed, with the command that installs it.
    """
    path = find_file(EFFLITE0)
    if path is None:
        raise MissingPackageError(
            f"judge 'efflite0' comes with the package {EFFLITE0.package}, which is not installed. Run: "
            f"{install_command(EFFLITE0.extra or '')}"
        )
    return path


def open_network(device: str) -> Network:
    """Return the network with the weights of the installed package, on a device."""
    weights = torch.load(find_weights(), map_location="cpu", weights_only=True)
    return Network({name: tensor.to(device) for name, tensor in weights.items()})


class EfficientNetLite0(ArrayJudge):
    """Judge `efflite0`: "features" are the 1,280 pooled ones, "logits" those of the 1,000 classes of ImageNet.

    Raises:
        UserError: if the weights are missing or wrong.
    """

    spec = EFFLITE0
    preprocessing = _PREPROCESSING
    shipped = Path(__file__).with_name("efflite0_selftest.json")
    # More are no faster, and an array of 96 x 112 x 112 numbers is held for each.
    at_once = 8

    def __init__(self, device: str = "cpu", options: Mapping[str, Any] | None = None) -> None:
        super().__init__(device, options)
        self.check()
        self._net = open_network(device)
        self.digest = self.digest_of({"weights": EFFLITE0.sha256, "input": _PREPROCESSING, "precision": PRECISION})

    @classmethod
    def check(cls) -> Needs:
        """See `Judge.check`."""
        path = find_weights()
        verify_bundled_weights("judge 'efflite0'", path, EFFLITE0.sha256 or "")
        return Needs(files=(path,), packages=(EFFLITE0.package or "",))

    def outputs(self, images: np.ndarray, items: Sequence[Item]) -> Mapping[str, Tensor]:
        """Return features [B, 1280] and logits [B, 1000]."""
        features, logits = self._net(prepare(images).to(self.device))
        return {"features": features, "logits": logits}
