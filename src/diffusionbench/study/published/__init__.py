"""Figures published by others, as records of kind `published`, and the methods they name.

Two score sets lie side by side and are never mixed: `paper-2026-06` (arXiv 2606.24888 and its project page) and
`blog-2026-05` (the announcement's figure). A third, `paper-2026-06-reproducibility`, holds re-implementations next to
the numbers they reproduce, each row under a protocol of its own. `tools/import_published.py` makes the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from diffusionbench.record import Record

PAPER: Final = "paper-2026-06"
BLOG: Final = "blog-2026-05"
REPRODUCIBILITY: Final = "paper-2026-06-reproducibility"
SCORE_SETS: Final = (PAPER, BLOG, REPRODUCIBILITY)
FAMILIES: Final = ("rae", "vae", "e2e-vae", "pixel", "few-step", "reference")


@cache
def records(score_set: str | None = None) -> tuple[Record, ...]:
    """Return the published records of one score set, or of all three, in the order of the published tables."""
    wanted = SCORE_SETS if score_set is None else (score_set,)
    found: list[Record] = []
    for name in wanted:
        lines = (files(__name__) / f"{name}.jsonl").read_text("utf-8").splitlines()
        found += (Record.model_validate_json(line) for line in lines)
    return tuple(found)


@dataclass(frozen=True)
class MethodName:
    """One method of the published study under its three names.

    Attributes:
        name: row of our method table.
        published: name printed in the published tables, spaces around "+" included.
        upstream: name in the public implementation.
        family: one of `FAMILIES`.
        latent: our name of the image space it works in.
    """

    name: str
    published: str
    upstream: str
    family: str
    latent: str


_ROWS: Final = (
    MethodName("dinov2-b", "DINOv2-B", "rae-dinov2", "rae", "rae-dinov2-b"),
    MethodName("dinov2-b-reg", "DINOv2-B + REG", "rae-dinov2 + REG", "rae", "rae-dinov2-b"),
    MethodName("dinov3-b", "DINOv3-B", "rae-dinov3-b16", "rae", "rae-dinov3-b"),
    MethodName("dinov3-b-reg", "DINOv3-B + REG", "rae-dinov3-b16 + REG", "rae", "rae-dinov3-b"),
    MethodName("siglip2-b", "SigLIP2-B", "rae-siglip2-b", "rae", "rae-siglip2-b"),
    MethodName("pe-l", "PE-L", "rae-pe-l", "rae", "rae-pe-l"),
    MethodName("langpe-l", "LangPE-L", "rae-langpe-l", "rae", "rae-langpe-l"),
    MethodName("spatialpe-l", "SpatialPE-L", "rae-spatialpe-l", "rae", "rae-spatialpe-l"),
    MethodName("sd-vae-ema", "SD-VAE-EMA", "sdvae-ema", "vae", "sd-vae-ema"),
    MethodName("sd-vae-ema-reg", "SD-VAE-EMA + REG", "sdvae-ema + REG", "vae", "sd-vae-ema"),
    MethodName("sd-vae-mse", "SD-VAE-MSE", "sdvae-mse", "vae", "sd-vae-mse"),
    MethodName("sdxl-vae", "SDXL-VAE", "sdxl-vae", "vae", "sdxl-vae"),
    MethodName("sd3.5-vae", "SD3.5-VAE", "sd3.5", "vae", "sd3.5-vae"),
    MethodName("flux1-vae", "FLUX.1-VAE", "flux", "vae", "flux1-vae"),
    MethodName("flux2-vae", "FLUX.2-VAE", "flux2", "vae", "flux2-vae"),
    MethodName("flux2-vae-reg", "FLUX.2-VAE + REG", "flux2 + REG", "vae", "flux2-vae"),
    MethodName("qwen-image-vae", "Qwen-Image-VAE", "qwen-vae", "vae", "qwen-image-vae"),
    MethodName("e2e-sd3.5-vae", "E2E-SD3.5-VAE", "e2e-sd3.5", "e2e-vae", "e2e-sd3.5-vae"),
    MethodName("e2e-flux1-vae", "E2E-FLUX.1-VAE", "e2e-flux", "e2e-vae", "e2e-flux1-vae"),
    MethodName("e2e-qwen-image-vae", "E2E-Qwen-Image-VAE", "e2e-qwen-vae", "e2e-vae", "e2e-qwen-image-vae"),
    MethodName("e2e-vavae", "E2E-VAVAE", "e2e-vavae", "e2e-vae", "e2e-vavae"),
    MethodName("jit", "JiT", "JiT", "pixel", "pixel"),
    MethodName("pixelgen", "PixelGen", "PixelGen", "pixel", "pixel"),
    MethodName("pixnerd", "PixNerd", "PixNerd", "pixel", "pixel"),
    MethodName("meanflow", "MeanFlow", "MeanFlow", "few-step", "sd-vae-mse"),
)
METHODS: Final = {method.name: method for method in _ROWS}
