"""Five feature networks of FDr and MIND: ConvNeXt V2, DINOv2, MAE, SigLIP 2 and CLIP, through transformers.

Their published statistics were made with timm's definitions, which these follow where the library's differ: bicubic
resize with antialiasing, position tables resampled likewise, GELU in CLIP, an epsilon of 1e-6 in MAE. Nothing of timm
or torchvision is needed. The statistics are of bfloat16, which is used on CUDA.
Source: FD-loss (arXiv 2604.28190).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusionbench.judges import JUDGES, clip, hub
from diffusionbench.judges.float32 import PRECISION
from diffusionbench.judges.network import ArrayJudge
from diffusionbench.sample import Item

Colours = tuple[float, float, float]

_IMAGENET: Final[tuple[Colours, Colours]] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_HALF: Final[tuple[Colours, Colours]] = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class FeatureNetwork(ArrayJudge):
    """A frozen network of transformers: images uint8 [B, H, W, 3] to "features" float32 [B, dim].

    Attributes:
        model: its class there.
        changed: settings of the stored configuration that are others here.
        side: to which images are resized; grids of patches that do not divide it are padded with zeros.
        colours: mean and deviation of images in [0, 1].
        is_float32: whether it runs in float32 on CUDA too.

    Raises:
        MissingPackageError: if transformers is not installed.
        RequestError: if the weights are not there.
        DataError: if they are those of another model.
    """

    model: ClassVar[str]
    changed: ClassVar[Mapping[str, Any]] = {}
    side: ClassVar[int] = 224
    colours: ClassVar[tuple[Colours, Colours]] = _IMAGENET
    is_float32: ClassVar[bool] = False
    at_once = 25

    def __init__(self, device: str = "cpu", options: Mapping[str, Any] | None = None) -> None:
        super().__init__(device, options)
        net = hub.load(self.spec, self.model, "cpu", **self.changed)
        patch = net.config.patch_size
        # ConvNeXt has patches too, and no table of positions.
        self._grid = 0 if _table(net) is None else -(-self.side // patch)
        self._padded = self._grid * patch or self.side
        if self._grid:
            _fit_positions(net, self._grid, self._padded)
        weights_sha = hub.weights_digest(net)
        self._net = net.to(device)
        self._autocast = torch.device(device).type == "cuda" and not self.is_float32
        self.digest = self.digest_of(
            {
                "weights": weights_sha,
                "model": [self.model, {**self.changed}],
                "preprocessing": self.preprocessing,
                "precision": "bfloat16 autocast" if self._autocast else PRECISION,
            }
        )

    def __init_subclass__(cls) -> None:
        mean, deviation = map(list, cls.colours)
        cls.preprocessing = (
            f"uint8 / 255, bicubic with antialiasing to {cls.side} x {cls.side}, (x - {mean}) / {deviation}, padded "
            "with zeros to whole patches"
        )

    def outputs(self, images: np.ndarray, items: Sequence[Item]) -> Mapping[str, Tensor]:
        """Return features [B, dim]."""
        x = self._prepared(self.pixels(images))
        with torch.autocast("cuda", torch.bfloat16, enabled=self._autocast):
            return {"features": self._pooled(x).float()}

    def _prepared(self, pixels: Tensor) -> Tensor:
        x = pixels.float() / 255
        if x.shape[2:] != (self.side, self.side):
            x = F.interpolate(x, (self.side, self.side), mode="bicubic", antialias=True, align_corners=False)
        mean, std = (x.new_tensor(values)[:, None, None] for values in self.colours)
        more = self._padded - self.side
        return F.pad((x - mean) / std, (0, more, 0, more))

    def _pooled(self, x: Tensor) -> Tensor:
        """Return features [B, dim] of prepared images."""
        pooled: Tensor = self._net(x).pooler_output
        return pooled


def _table(net: Any) -> Tensor | None:
    """Return the position embeddings [N, d] of a network, the class token's first; None where it has none."""
    if (found := getattr(net.embeddings, "position_embeddings", None)) is not None:
        return cast("Tensor", found[0])
    found = getattr(net.embeddings, "position_embedding", None)
    return None if found is None else cast("Tensor", found.weight)


def _fit_positions(net: Any, grid: int, side: int) -> None:
    """Resample the position embeddings to a grid of patches, once, as timm does it for each picture."""
    table, embeddings = _table(net), net.embeddings
    assert table is not None
    own = int(len(table) ** 0.5)
    extra = len(table) - own**2
    if own == grid:
        return
    square = table[extra:].reshape(1, own, own, -1).permute(0, 3, 1, 2)
    square = F.interpolate(square, (grid, grid), mode="bicubic", antialias=True, align_corners=False)
    table = torch.cat([table[:extra], square.flatten(2)[0].T])
    if hasattr(embeddings, "position_embeddings"):
        embeddings.position_embeddings = nn.Parameter(table[None], requires_grad=False)
        return
    embeddings.position_embedding = nn.Embedding.from_pretrained(table)
    embeddings.position_ids = torch.arange(len(table))[None]
    embeddings.image_size = side


class ConvNext(FeatureNetwork):
    """Judge `convnext`: the spatial mean of the last map, before the norm of the head."""

    spec = JUDGES.own["convnext"]
    model = "ConvNextV2Model"

    def _pooled(self, x: Tensor) -> Tensor:
        last: Tensor = self._net(x).last_hidden_state
        return last.mean((2, 3))


class ConvNextUpstream(ConvNext):
    """Judge `convnext_upstream`: the same in float32 throughout, as the published system runs it."""

    spec = JUDGES.own["convnext_upstream"]
    is_float32 = True


class Dinov2(FeatureNetwork):
    """Judge `dinov2`: the class token after the last norm, of a grid of 19 x 19 patches."""

    spec = JUDGES.own["dinov2"]
    model = "Dinov2Model"
    side = 256


class Mae(FeatureNetwork):
    """Judge `mae`: the class token after the last norm; no patch is masked."""

    spec = JUDGES.own["mae"]
    model = "ViTMAEModel"
    changed = {"mask_ratio": 0.0, "layer_norm_eps": 1e-6}

    def _pooled(self, x: Tensor) -> Tensor:
        # Patches keep their order where the numbers that would shuffle them rise.
        order = torch.arange(self._grid**2, device=x.device).expand(len(x), -1)
        tokens: Tensor = self._net(x, noise=order).last_hidden_state
        return tokens[:, 0]


class Siglip(FeatureNetwork):
    """Judge `siglip`: the attention-pooling head over all tokens, of a grid of 14 x 14 patches."""

    spec = JUDGES.own["siglip"]
    model = "SiglipVisionModel"
    colours = _HALF


class SiglipUpstream(Siglip):
    """Judge `siglip_upstream`: the same with the pooling head in float32, as the published system runs it."""

    spec = JUDGES.own["siglip_upstream"]

    def _pooled(self, x: Tensor) -> Tensor:
        tokens: Tensor = self._net(x).last_hidden_state
        with torch.autocast("cuda", enabled=False):
            pooled: Tensor = self._net.head(tokens.float())
            return pooled


class Clip(FeatureNetwork):
    """Judge `clip`: the class token after the last norm, unprojected, of a grid of 19 x 19 patches."""

    spec = JUDGES.own["clip"]
    model = "CLIPVisionModel"
    changed = {"hidden_act": "gelu"}
    side = 256
    colours = clip.MEAN, clip.STD
