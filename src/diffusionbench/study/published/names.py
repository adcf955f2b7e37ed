"""Which published method is which of ours: one map, shared by the importer, the board and the method table.

The 25 rows are the methods of the published study (arXiv 2606.24888). Reference models are listed apart: they were
not trained under its recipe. Nothing here is measured.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from diffusionbench.errors import DataError
from diffusionbench.registry import nearest

FAMILIES: Final = ("rae", "vae", "e2e-vae", "pixel", "few-step", "reference")


@dataclass(frozen=True)
class MethodName:
    """One method under its three names.

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


METHODS: Final = (
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

# Public models listed for orientation: our name -> printed name.
REFERENCE_MODELS: Final = {
    "sd-3.5-large": "SD-3.5-Large",
    "flux-1": "FLUX-1",
    "flux-2": "FLUX-2",
    "qwen-image": "Qwen-Image",
    "z-image-turbo": "Z-Image-Turbo",
}

# Rows that only the reproducibility table has, or prints under another name: printed name -> (our name, family).
REPRODUCED: Final = {
    "RAE (DINOv2-B)": ("dinov2-b", "rae"),
    "E2E-VAVAE + REPA": ("e2e-vavae-repa", "e2e-vae"),
}

BY_NAME: Final = {method.name: method for method in METHODS}
_BY_PRINTED: Final = {method.published.replace(" + ", "+"): method for method in METHODS}
_NUM_STEPS = re.compile(r"^(?P<name>.+) \(NFE=(?P<steps>\d+)\)$")


def parse_published(printed: str) -> tuple[str, str, int | None]:
    """Our name, the family and the number of sampling steps that a printed method name states.

    Args:
        printed: as in a published table; spaces around "+" do not matter.

    Returns:
        (name, family, steps), steps None where the name states none.

    Raises:
        DataError: if no published method is called so.
    """
    match = _NUM_STEPS.match(printed)
    bare, steps = (match["name"], int(match["steps"])) if match else (printed, None)
    bare = re.sub(r"\s*\+\s*", "+", bare)
    if bare in _BY_PRINTED:
        return _BY_PRINTED[bare].name, _BY_PRINTED[bare].family, steps
    for name, title in REFERENCE_MODELS.items():
        if title == bare:
            return name, "reference", steps
    for title, (name, family) in REPRODUCED.items():
        if title.replace(" + ", "+") == bare:
            return name, family, steps
    known = [*_BY_PRINTED, *REFERENCE_MODELS.values(), *REPRODUCED]
    raise DataError(f"published method '{printed}' is not in the name map. {nearest(bare, known)}")
