"""The rows of the table of latent spaces: data alone, without torch and without weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from diffusionbench.commits import pinned
from diffusionbench.errors import ConfigError
from nanogen.latents.files import WeightFiles


@dataclass(frozen=True, kw_only=True)
class LatentSpec:
    """One latent space.

    Attributes:
        name: its name in `LATENTS`.
        title: one line for users.
        load: "module:Class" of its codec.
        channels: C of the latent.
        stride: image pixels per latent position.
        grid: (rows, columns) of the latent where they do not follow from the image size; None: image size / stride.
        image_size: the one size of images that it takes; None: any multiple of the stride.
        patch_size: side of a patch on the latent, or None where the config's `model.pixel_grid` decides.
        options: settings of the codec, such as the shift and scale of its latents.
        weights: files that it needs and that do not ship with the package.
        folder: where the user has them, which `open_latent` sets; None: the usual places.
        licence: of weights that ship, as an SPDX name.
        paper: arXiv number.
    """

    name: str
    title: str
    load: str
    channels: int
    stride: int
    grid: tuple[int, int] | None = None
    image_size: int | None = None
    patch_size: int | None
    options: Mapping[str, Any] = field(default_factory=dict)
    weights: tuple[WeightFiles, ...] = ()
    folder: Path | None = None
    licence: str = ""
    paper: str = ""

    def shape(self, image_size: int) -> tuple[int, int, int]:
        """Return the (channels, rows, columns) of the latent of a square image.

        Raises:
            ConfigError: if the space takes no images of this size.
        """
        if self.image_size not in (None, image_size):
            raise ConfigError(
                f"latent space '{self.name}' takes images of {self.image_size} pixels, data.image_size is "
                f"{image_size}. Choose another method or size."
            )
        if self.grid is not None:
            return (self.channels, *self.grid)
        if image_size % self.stride:
            raise ConfigError(
                f"latent space '{self.name}' needs an image size that is a multiple of {self.stride} pixels, "
                f"data.image_size is {image_size}. Choose another method or size."
            )
        return self.channels, image_size // self.stride, image_size // self.stride


# Licence of weights whose page states it, and of those that a user makes.
_ON_PAGE, OWN = "stated on its page", "your own"
# Per channel, as the configuration of Qwen-Image states them.
_QWEN_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
_QWEN_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)
_QWEN = {"model": "AutoencoderKLQwenImage", "frames": True}
# What rows of autoencoders state beside name, title and place.
_SD: Any = {"channels": 4, "options": {"shift": 0.0, "scale": 0.18215}, "paper": "2112.10752"}
_SDXL: Any = {"channels": 4, "options": {"shift": 0.0, "scale": 0.13025}, "paper": "2307.01952"}
_SD3: Any = {"licence": "Stability AI Community", "gated": True, "paper": "2403.03206"}
_FLUX2: Any = {
    "licence": "FLUX [dev] Non-Commercial",
    "gated": True,
    "channels": 128,
    "stride": 16,
    "options": {"model": "AutoencoderKLFlux2", "packed": True},
}
_QWEN_IMAGE: Any = {"options": {**_QWEN, "mean": _QWEN_MEAN, "std": _QWEN_STD}, "paper": "2508.02324"}
_END_TO_END: Any = {"paper": "2504.10483"}


def _hub(place: str, licence: str, part: str, *names: str, gated: bool = False) -> WeightFiles:
    """Return files of "org/name" or of a folder of it, "org/name/folder"."""
    org, name, *folder = place.split("/")
    return WeightFiles(
        part=part,
        names=names,
        hub=f"{org}/{name}",
        revision=pinned(f"{org}/{name}"),
        subfolder="/".join(folder),
        licence=licence,
        gated=gated,
    )


def _vae(
    name: str,
    title: str,
    place: str,
    licence: str = _ON_PAGE,
    *,
    gated: bool = False,
    options: Mapping[str, Any] = MappingProxyType({}),
    **facts: Any,
) -> LatentSpec:
    """Return the row of an autoencoder: 16 channels and stride 8, unless `facts` say otherwise."""
    facts = {"channels": 16, "stride": 8, **facts}
    files = ("config.json", "diffusion_pytorch_model.safetensors")
    return LatentSpec(
        name=name,
        title=f"VAE of {title}",
        load="nanogen.latents.kl:KL",
        patch_size=16 // facts["stride"],
        options={"model": "AutoencoderKL", **options},
        weights=(_hub(place, licence, "vae", *files, gated=gated),),
        **facts,
    )


_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_NONE = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def _shown(size: int, mode: str, colours: Mapping[str, Any], antialias: bool = False) -> dict[str, Any]:
    return {"size": size, "mode": mode, "antialias": antialias, **colours}


# Options and facts that the encoders of a family share.
_FAMILIES: dict[str, dict[str, Any]] = {
    "DINOv2": {
        "encoder": "Dinov2WithRegistersModel",
        "preprocessing": _shown(224, "bicubic", _IMAGENET),
        "licence": "Apache-2.0",
        "paper": "2309.16588",
    },
    "DINOv3": {
        "encoder": "DINOv3ViTModel",
        "preprocessing": _shown(256, "bilinear", _IMAGENET, antialias=True),
        "licence": "DINOv3 License",
        "gated": True,
        "paper": "2508.10104",
    },
    # Its last norm keeps gain and bias: the released statistics and decoder were made so.
    "SigLIP2": {
        "encoder": "SiglipVisionModel",
        "affine": True,
        "preprocessing": _shown(256, "bicubic", _HALF),
        "licence": "Apache-2.0",
        "paper": "2502.14786",
    },
    # Patches of 14 pixels of a smaller image, or of 16: either way 16x16 tokens.
    "Perception Encoder": {
        "encoder": "PerceptionEncoder",
        "preprocessing": _shown(224, "bilinear", _HALF),
        "licence": "Apache-2.0",
        "paper": "2504.13181",
    },
    "MAE": {
        "encoder": "ViTMAEModel",
        "preprocessing": _shown(256, "bicubic", _IMAGENET),
        "licence": "Apache-2.0",
        "paper": "2111.06377",
    },
    "Web-SSL DINO": {
        "encoder": "Dinov2Model",
        "preprocessing": _shown(224, "bicubic", _IMAGENET),
        "licence": "CC-BY-NC-4.0",
        "paper": "2504.01017",
    },
    # A convolutional network that ends in 8x8 positions of 256 pixels a side.
    "ConvNeXt V2": {
        "encoder": "ConvNextV2Model",
        "preprocessing": _shown(256, "bicubic", _IMAGENET),
        "stride": 32,
        "licence": "Apache-2.0",
        "paper": "2301.00808",
    },
    "TIPSv2": {"encoder": "Tipsv2VisionModel", "preprocessing": _shown(224, "bicubic", _NONE), "licence": _ON_PAGE},
}
_SAFE, _BIN = ("config.json", "model.safetensors"), ("config.json", "pytorch_model.bin")
_PATCH16: Any = {"preprocessing": _shown(256, "bilinear", _HALF)}
_PATCH14: Any = {"preprocessing": _shown(224, "bicubic", _IMAGENET)}


# Decoder and statistics of encoders for which none are published.
_MADE = (
    WeightFiles(part="decoder", names=("decoder.pt",), address="`nanogen tokenizer train`", licence=OWN),
    WeightFiles(part="statistics", names=("stats.pt",), address="`nanogen prepare latents --statistics`", licence=OWN),
)


def _rae(
    name: str, family: str, size: str, channels: int, place: str, names: tuple[str, ...] = _SAFE, **more: Any
) -> LatentSpec:
    """Return the row of an encoder.

    Args:
        size: of the model, as its title says it.
        place: where its files are; see `_hub`.
        more: `released`, the folder of decoder and statistics of the published study; other options than the family's.
    """
    options = {"decoder_heads": 16, **_FAMILIES[family], **more}
    folder, licence = options.pop("released", ""), options.pop("licence")
    study = "diffusion-bench/diffusion-bench/stage1"
    published = (
        _hub(f"{study}/decoders/{folder}", _ON_PAGE, "decoder", "decoder.pt"),
        _hub(f"{study}/stats/{folder}", _ON_PAGE, "statistics", "stats.pt"),
    )
    encoder = _hub(place, licence, "encoder", *names, gated=options.pop("gated", False))
    return LatentSpec(
        name=name,
        title=f"patch tokens of {family} {size}",
        load="nanogen.latents.rae:RAE",
        channels=channels,
        stride=options.pop("stride", 16),
        image_size=256,
        patch_size=1,
        paper=options.pop("paper", ""),
        weights=(encoder, *(published if folder else _MADE)),
        options=options,
    )


def _perception(name: str, size: str, channels: int, heads: int, place: str, **more: Any) -> LatentSpec:
    file = f"{place.partition('/')[2]}.pt"
    return _rae(name, "Perception Encoder", size, channels, place, (file,), heads=heads, **more)


_ROWS = (
    LatentSpec(
        name="pixel",
        title="pixels in [-1, 1]",
        load="nanogen.latents.pixel:Pixel",
        channels=3,
        stride=1,
        patch_size=None,
    ),
    LatentSpec(
        name="toy-ae",
        title="small autoencoder of 32 px digits and rendered shapes, shipped (ours)",
        load="nanogen.latents.toy:ToyAE",
        channels=16,
        stride=8,
        patch_size=1,
        licence="Apache-2.0",
    ),
    LatentSpec(
        name="toy-vae",
        title="small KL autoencoder of 32 px digits and rendered shapes, shipped (ours)",
        load="nanogen.latents.toy:ToyVAE",
        channels=8,
        stride=4,
        patch_size=2,
        options={"width": 64},
        licence="Apache-2.0",
    ),
    LatentSpec(
        name="toy-rae",
        title="patch tokens of a small ViT of 32 px digits and rendered shapes, shipped (ours)",
        load="nanogen.latents.rae:RAE",
        channels=96,
        stride=8,
        image_size=32,
        patch_size=1,
        options={
            "encoder": "PerceptionEncoder",
            "heads": 4,
            "decoder_heads": 4,
            "preprocessing": _shown(32, "bilinear", _HALF),
        },
        weights=tuple(
            WeightFiles(
                part=part,
                names=(name,),
                address="this package",
                licence="Apache-2.0",
                sha256={name: sha256},
                bundled="toy_rae",
            )
            for part, name, sha256 in (
                ("encoder", "encoder.safetensors", "50253df2981216f940894bf72add1f5368733c7fca2c1d022780b41893c4b175"),
                ("decoder", "decoder.safetensors", "5ba5794e11999093c50b3f1b662b9e50baa45d3efacc96f34f0e73aab1e032af"),
                ("statistics", "stats.safetensors", "821c5a2e5166bee2954327dc0523b3a09011b71d9ed573526138cba05ae4b8c9"),
            )
        ),
        licence="Apache-2.0",
    ),
    LatentSpec(
        name="taef2",
        title="small autoencoder for the normalised FLUX.2 latent (madebyollin/taesd)",
        load="nanogen.latents.taef2:TAEF2",
        channels=128,
        stride=16,
        patch_size=1,
        weights=(
            WeightFiles(
                part="autoencoder",
                names=("taef2_encoder.pth", "taef2_decoder.pth"),
                address="https://github.com/madebyollin/taesd at commit 5cccb12dc72074a4be35680c3b108548a7c69978",
                licence="MIT",
                sha256={
                    "taef2_encoder.pth": "10a4e1021e89d7551eaf161352da8dbd0b1aa83872ae28b150c1df1ce2f147b6",
                    "taef2_decoder.pth": "0a44a31e1ae59eb9dbf9359d24942fd3ef5928162c1800d97a28c61d51be0ab5",
                },
            ),
        ),
    ),
    _vae("sd-vae-ema", "Stable Diffusion, fine-tuned, EMA weights", "stabilityai/sd-vae-ft-ema", "MIT", **_SD),
    _vae("sd-vae-mse", "Stable Diffusion, fine-tuned for the squared error", "stabilityai/sd-vae-ft-mse", "MIT", **_SD),
    _vae("sdxl-vae", "Stable Diffusion XL, made safe for float16", "madebyollin/sdxl-vae-fp16-fix", "MIT", **_SDXL),
    _vae("sd3.5-vae", "Stable Diffusion 3.5", "stabilityai/stable-diffusion-3.5-large/vae", **_SD3),
    _vae("flux1-vae", "FLUX.1", "black-forest-labs/FLUX.1-dev/vae", "FLUX.1 [dev] Non-Commercial", gated=True),
    _vae("flux2-vae", "FLUX.2, 2x2 positions packed into channels", "black-forest-labs/FLUX.2-dev/vae", **_FLUX2),
    _vae("qwen-image-vae", "Qwen-Image", "Qwen/Qwen-Image/vae", "Apache-2.0", **_QWEN_IMAGE),
    _vae("e2e-flux1-vae", "FLUX.1, trained end to end with a diffusion model", "REPA-E/e2e-flux-vae", **_END_TO_END),
    _vae("e2e-sd3.5-vae", "Stable Diffusion 3.5, trained end to end", "REPA-E/e2e-sd3.5-vae", **_END_TO_END),
    _vae(
        *("e2e-qwen-image-vae", "Qwen-Image, trained end to end", "REPA-E/e2e-qwenimage-vae"),
        options=_QWEN,
        **_END_TO_END,
    ),
    _vae("e2e-vavae", "VA-VAE, trained end to end", "REPA-E/e2e-vavae-hf", channels=32, stride=16, **_END_TO_END),
    _vae("e2e-sd-vae-mse", "Stable Diffusion, trained end to end", "REPA-E/e2e-sdvae-hf", channels=4, **_END_TO_END),
)
_DINO2, _DINO3 = "facebook/dinov2-with-registers", "facebook/dinov3-vit"
_LVD = "pretrain-lvd1689m"
_RAES = (
    _rae("rae-dinov2-b", "DINOv2", "B", 768, f"{_DINO2}-base", released="dinov2-vit-b"),
    _rae("rae-dinov3-b", "DINOv3", "B/16", 768, f"{_DINO3}b16-{_LVD}", released="dinov3-vit-b16"),
    _rae("rae-siglip2-b", "SigLIP2", "B/16", 768, "google/siglip2-base-patch16-256", released="siglip2-vit-b"),
    _perception("rae-pe-l", "Core L/14", 1024, 16, "facebook/PE-Core-L14-336", released="pe-vit-l"),
    _perception("rae-langpe-l", "Lang L/14", 1024, 16, "facebook/PE-Lang-L14-448", released="langpe-vit-l"),
    _perception("rae-spatialpe-l", "Spatial L/14", 1024, 16, "facebook/PE-Spatial-L14-448", released="spatialpe-vit-l"),
    # Encoders without a released decoder: a user trains one.
    _rae("rae-dinov2-s", "DINOv2", "S", 384, f"{_DINO2}-small"),
    _rae("rae-dinov2-l", "DINOv2", "L", 1024, f"{_DINO2}-large"),
    _rae("rae-dinov2-g", "DINOv2", "g", 1536, f"{_DINO2}-giant"),
    _rae("rae-dinov3-s", "DINOv3", "S/16", 384, f"{_DINO3}s16-{_LVD}"),
    _rae("rae-dinov3-s-plus", "DINOv3", "S+/16", 384, f"{_DINO3}s16plus-{_LVD}"),
    _rae("rae-dinov3-l", "DINOv3", "L/16", 1024, f"{_DINO3}l16-{_LVD}"),
    _rae("rae-dinov3-h-plus", "DINOv3", "H+/16", 1280, f"{_DINO3}h16plus-{_LVD}"),
    _rae("rae-dinov3-7b", "DINOv3", "7B/16", 4096, f"{_DINO3}7b16-{_LVD}"),
    _rae("rae-siglip2-l", "SigLIP2", "L/16", 1024, "google/siglip2-large-patch16-256"),
    _rae("rae-siglip2-so400m", "SigLIP2", "So400m/16", 1152, "google/siglip2-so400m-patch16-256"),
    _rae("rae-siglip2-g", "SigLIP2", "g-opt/16", 1536, "google/siglip2-giant-opt-patch16-256"),
    _rae("rae-mae-b", "MAE", "B/16", 768, "facebook/vit-mae-base"),
    _rae("rae-mae-l", "MAE", "L/16", 1024, "facebook/vit-mae-large", _BIN),
    _rae("rae-mae-h", "MAE", "H/14", 1280, "facebook/vit-mae-huge", _BIN, **_PATCH14),
    _rae("rae-webssl-300m", "Web-SSL DINO", "300M", 1024, "facebook/webssl-dino300m-full2b-224"),
    _rae("rae-webssl-1b", "Web-SSL DINO", "1B", 1536, "facebook/webssl-dino1b-full2b-224"),
    _rae("rae-webssl-2b", "Web-SSL DINO", "2B", 2688, "facebook/webssl-dino2b-full2b-224"),
    _rae("rae-webssl-3b", "Web-SSL DINO", "3B", 3072, "facebook/webssl-dino3b-full2b-224"),
    _rae("rae-webssl-5b", "Web-SSL DINO", "5B", 3584, "facebook/webssl-dino5b-full2b-224"),
    _rae("rae-webssl-7b", "Web-SSL DINO", "7B", 4096, "facebook/webssl-dino7b-full8b-224"),
    _rae("rae-convnextv2-nano", "ConvNeXt V2", "nano", 640, "facebook/convnextv2-nano-22k-224", _BIN),
    _rae("rae-convnextv2-tiny", "ConvNeXt V2", "tiny", 768, "facebook/convnextv2-tiny-22k-224", _BIN),
    _rae("rae-convnextv2-base", "ConvNeXt V2", "base", 1024, "facebook/convnextv2-base-22k-224", _BIN),
    _rae("rae-convnextv2-large", "ConvNeXt V2", "large", 1536, "facebook/convnextv2-large-22k-224", _BIN),
    _rae("rae-tipsv2-b", "TIPSv2", "B/14", 768, "google/tipsv2-b14"),
    _rae("rae-tipsv2-l", "TIPSv2", "L/14", 1024, "google/tipsv2-l14"),
    _rae("rae-tipsv2-so", "TIPSv2", "So400m/14", 1152, "google/tipsv2-so400m14"),
    _rae("rae-tipsv2-g", "TIPSv2", "g/14", 1536, "google/tipsv2-g14"),
    _perception("rae-pe-t", "Core T/16", 192, 3, "facebook/PE-Core-T16-384", **_PATCH16),
    _perception("rae-pe-s", "Core S/16", 384, 6, "facebook/PE-Core-S16-384", **_PATCH16),
    _perception("rae-pe-b", "Core B/16", 768, 12, "facebook/PE-Core-B16-224", **_PATCH16),
    _perception("rae-pe-g", "Core G/14", 1536, 16, "facebook/PE-Core-G14-448"),
    _perception("rae-spatialpe-b", "Spatial B/16", 768, 12, "facebook/PE-Spatial-B16-512", **_PATCH16),
    _perception("rae-spatialpe-g", "Spatial G/14", 1536, 16, "facebook/PE-Spatial-G14-448"),
    _perception("rae-langpe-g", "Lang G/14", 1536, 16, "facebook/PE-Lang-G14-448"),
)
# Tokens of several blocks of an encoder above, counted from 0, as in RAEv2.
_BLOCKS = {
    **dict.fromkeys(["dinov2-s", "dinov2-b", "dinov3-s", "dinov3-b"], (2, 5, 8, 11)),
    **dict.fromkeys(["dinov2-l", "dinov3-l"], (5, 11, 17, 23)),
    "dinov2-g": (10, 20, 30, 39),
    "dinov3-h-plus": (8, 16, 24, 31),
}
_MANY = {
    **{f"{encoder}-mls": (encoder, blocks) for encoder, blocks in _BLOCKS.items()},
    "dinov3-l-k7": ("dinov3-l", tuple(range(11, 24, 2))),
    "dinov3-l-k23": ("dinov3-l", tuple(range(1, 24))),
}


def _several(name: str, row: LatentSpec, blocks: tuple[int, ...]) -> LatentSpec:
    return replace(
        row,
        name=name,
        title=f"{row.title}, {len(blocks)} blocks together",
        options={**row.options, "blocks": blocks, "combine": "mean" if "dinov2" in name else "mean and token"},
        weights=(row.weights[0], *_MADE),
    )


_BY_NAME = {row.name: row for row in _RAES}
ROWS = (
    *_ROWS,
    *_RAES,
    *(_several(f"rae-{name}", _BY_NAME[f"rae-{encoder}"], blocks) for name, (encoder, blocks) in _MANY.items()),
)
