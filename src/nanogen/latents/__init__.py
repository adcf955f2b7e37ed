"""The table of latent spaces: pairs of maps between images in [0, 1] and normalised latents.

To add a latent space over a codec that is here: one row. A new codec is one file with a subclass of `Latent`, which is
constructed as `codec(spec, device)`. Rows are read without torch and without weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusionbench.errors import ConfigError
from diffusionbench.registry import Table
from nanogen.latents.files import WeightFiles

if TYPE_CHECKING:
    from torch import Tensor


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


class Latent:
    """The two maps, deterministic and without gradient.

    Attributes:
        digest: SHA-256 of its weights; "" where it has none.
    """

    digest: str = ""

    def __init__(self, spec: LatentSpec, device: str) -> None:
        """Load the weights of the maps; pixels have none."""

    @classmethod
    def before_statistics(cls, spec: LatentSpec, device: str) -> Callable[[Tensor], Tensor]:
        """Return the encoder without the normalisation whose statistics `nanogen prepare latents` computes."""
        return cls(spec, device).encode

    def encode(self, images: Tensor) -> Tensor:
        """Map float32 [B, 3, H, W] in [0, 1] to float32 [B, C, h, w], about mean 0 and deviation 1."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """Map float32 [B, C, h, w] back to float32 [B, 3, H, W]; may leave [0, 1] (callers clamp)."""
        raise NotImplementedError


_VAE: Any = {"part": "vae", "names": ("config.json", "diffusion_pytorch_model.safetensors")}
_ON_PAGE = "stated on its page"
# Per channel, as the configuration of Qwen-Image states them.
_QWEN_MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
_QWEN_STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160),
)


def _vae(
    name: str,
    title: str,
    weights: WeightFiles,
    channels: int,
    stride: int = 8,
    options: Mapping[str, Any] | None = None,
    paper: str = "",
) -> LatentSpec:
    return LatentSpec(
        name=name,
        title=title,
        load="nanogen.latents.kl:KL",
        channels=channels,
        stride=stride,
        patch_size=16 // stride,
        options={"model": "AutoencoderKL", **(options or {})},
        weights=(weights,),
        paper=paper,
    )


_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
_LIBRARY: Any = {"part": "encoder", "names": ("config.json", "model.safetensors")}


def _rae(
    name: str, title: str, encoder: WeightFiles, files: str, channels: int, options: Mapping[str, Any], paper: str
) -> LatentSpec:
    """Return the row of an encoder; `files` is the folder of its decoder and statistics in the released repository."""
    released: Any = {"hub": "diffusion-bench/diffusion-bench", "licence": _ON_PAGE}
    return LatentSpec(
        name=name,
        title=title,
        load="nanogen.latents.rae:RAE",
        channels=channels,
        stride=16,
        image_size=256,
        patch_size=1,
        options={"decoder_heads": 16, **options},
        weights=(
            encoder,
            WeightFiles(part="decoder", names=("decoder.pt",), subfolder=f"stage1/decoders/{files}", **released),
            WeightFiles(part="statistics", names=("stats.pt",), subfolder=f"stage1/stats/{files}", **released),
        ),
        paper=paper,
    )


_PERCEPTION: Any = {
    "encoder": "PerceptionEncoder",
    "heads": 16,
    "preprocessing": {"size": 224, "mode": "bilinear", "antialias": False, **_HALF},
}

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
    _vae(
        "sd-vae-ema",
        "Stable Diffusion VAE, fine-tuned, EMA weights",
        WeightFiles(
            **_VAE,
            hub="stabilityai/sd-vae-ft-ema",
            revision="f04b2c4b98319346dad8c65879f680b1997b204a",
            licence="MIT",
        ),
        channels=4,
        options={"shift": 0.0, "scale": 0.18215},
        paper="2112.10752",
    ),
    _vae(
        "sd-vae-mse",
        "Stable Diffusion VAE, fine-tuned for the squared error",
        WeightFiles(
            **_VAE,
            hub="stabilityai/sd-vae-ft-mse",
            revision="31f26fdeee1355a5c34592e401dd41e45d25a493",
            licence="MIT",
        ),
        channels=4,
        options={"shift": 0.0, "scale": 0.18215},
        paper="2112.10752",
    ),
    _vae(
        "sdxl-vae",
        "Stable Diffusion XL VAE, made safe for float16",
        WeightFiles(
            **_VAE,
            hub="madebyollin/sdxl-vae-fp16-fix",
            revision="207b116dae70ace3637169f1ddd2434b91b3a8cd",
            licence="MIT",
        ),
        channels=4,
        options={"shift": 0.0, "scale": 0.13025},
        paper="2307.01952",
    ),
    _vae(
        "sd3.5-vae",
        "Stable Diffusion 3.5 VAE",
        WeightFiles(
            **_VAE,
            hub="stabilityai/stable-diffusion-3.5-large",
            revision="ceddf0a7fdf2064ea28e2213e3b84e4afa170a0f",
            subfolder="vae",
            licence="Stability AI Community",
            gated=True,
        ),
        channels=16,
        paper="2403.03206",
    ),
    _vae(
        "flux1-vae",
        "FLUX.1 VAE",
        WeightFiles(
            **_VAE,
            hub="black-forest-labs/FLUX.1-dev",
            revision="3de623fc3c33e44ffbe2bad470d0f45bccf2eb21",
            subfolder="vae",
            licence="FLUX.1 [dev] Non-Commercial",
            gated=True,
        ),
        channels=16,
    ),
    _vae(
        "flux2-vae",
        "FLUX.2 VAE, 2x2 positions packed into channels",
        WeightFiles(
            **_VAE,
            hub="black-forest-labs/FLUX.2-dev",
            revision="26afe3a78bb242c0a8bb181dcc8937bb16e5c66c",
            subfolder="vae",
            licence="FLUX [dev] Non-Commercial",
            gated=True,
        ),
        channels=128,
        stride=16,
        options={"model": "AutoencoderKLFlux2", "packed": True},
    ),
    _vae(
        "qwen-image-vae",
        "Qwen-Image VAE",
        WeightFiles(
            **_VAE,
            hub="Qwen/Qwen-Image",
            revision="75e0b4be04f60ec59a75f475837eced720f823b6",
            subfolder="vae",
            licence="Apache-2.0",
        ),
        channels=16,
        options={"model": "AutoencoderKLQwenImage", "frames": True, "mean": _QWEN_MEAN, "std": _QWEN_STD},
        paper="2508.02324",
    ),
    _vae(
        "e2e-flux1-vae",
        "FLUX.1 VAE, trained end to end with a diffusion model",
        WeightFiles(**_VAE, hub="REPA-E/e2e-flux-vae", licence=_ON_PAGE),
        channels=16,
        paper="2504.10483",
    ),
    _vae(
        "e2e-sd3.5-vae",
        "Stable Diffusion 3.5 VAE, trained end to end with a diffusion model",
        WeightFiles(**_VAE, hub="REPA-E/e2e-sd3.5-vae", licence=_ON_PAGE),
        channels=16,
        paper="2504.10483",
    ),
    _vae(
        "e2e-qwen-image-vae",
        "Qwen-Image VAE, trained end to end with a diffusion model",
        WeightFiles(**_VAE, hub="REPA-E/e2e-qwenimage-vae", licence=_ON_PAGE),
        channels=16,
        options={"model": "AutoencoderKLQwenImage", "frames": True},
        paper="2504.10483",
    ),
    _vae(
        "e2e-vavae",
        "VA-VAE, trained end to end with a diffusion model",
        WeightFiles(**_VAE, hub="REPA-E/e2e-vavae-hf", licence=_ON_PAGE),
        channels=32,
        stride=16,
        paper="2504.10483",
    ),
    _vae(
        "e2e-sd-vae-mse",
        "Stable Diffusion VAE, trained end to end with a diffusion model",
        WeightFiles(**_VAE, hub="REPA-E/e2e-sdvae-hf", licence=_ON_PAGE),
        channels=4,
        paper="2504.10483",
    ),
    _rae(
        "rae-dinov2-b",
        "patch tokens of DINOv2 B with registers",
        WeightFiles(
            **_LIBRARY,
            hub="facebook/dinov2-with-registers-base",
            revision="a1d738ccfa7ae170945f210395d99dde8adb1805",
            licence="Apache-2.0",
        ),
        "dinov2-vit-b",
        channels=768,
        options={
            "encoder": "Dinov2WithRegistersModel",
            "preprocessing": {"size": 224, "mode": "bicubic", "antialias": False, **_IMAGENET},
        },
        paper="2309.16588",
    ),
    _rae(
        "rae-dinov3-b",
        "patch tokens of DINOv3 B/16",
        WeightFiles(
            **_LIBRARY,
            hub="facebook/dinov3-vitb16-pretrain-lvd1689m",
            revision="3a0fa61ff39414e2d3be4a1d50c7dfbf459aa8b8",
            licence="DINOv3 License",
            gated=True,
        ),
        "dinov3-vit-b16",
        channels=768,
        options={
            "encoder": "DINOv3ViTModel",
            "preprocessing": {"size": 256, "mode": "bilinear", "antialias": True, **_IMAGENET},
        },
        paper="2508.10104",
    ),
    # Its last norm keeps gain and bias: the released statistics and decoder were made so.
    _rae(
        "rae-siglip2-b",
        "patch tokens of SigLIP2 B/16",
        WeightFiles(**_LIBRARY, hub="google/siglip2-base-patch16-256", licence="Apache-2.0"),
        "siglip2-vit-b",
        channels=768,
        options={
            "encoder": "SiglipVisionModel",
            "affine": True,
            "preprocessing": {"size": 256, "mode": "bicubic", "antialias": False, **_HALF},
        },
        paper="2502.14786",
    ),
    _rae(
        "rae-pe-l",
        "patch tokens of Perception Encoder Core L/14",
        WeightFiles(
            part="encoder",
            names=("PE-Core-L14-336.pt",),
            hub="facebook/PE-Core-L14-336",
            revision="bafb0f76541d399057e980a25947f67acec76575",
            licence="Apache-2.0",
        ),
        "pe-vit-l",
        channels=1024,
        options=_PERCEPTION,
        paper="2504.13181",
    ),
    _rae(
        "rae-langpe-l",
        "patch tokens of Perception Encoder Lang L/14",
        WeightFiles(
            part="encoder", names=("PE-Lang-L14-448.pt",), hub="facebook/PE-Lang-L14-448", licence="Apache-2.0"
        ),
        "langpe-vit-l",
        channels=1024,
        options=_PERCEPTION,
        paper="2504.13181",
    ),
    _rae(
        "rae-spatialpe-l",
        "patch tokens of Perception Encoder Spatial L/14",
        WeightFiles(
            part="encoder", names=("PE-Spatial-L14-448.pt",), hub="facebook/PE-Spatial-L14-448", licence="Apache-2.0"
        ),
        "spatialpe-vit-l",
        channels=1024,
        options=_PERCEPTION,
        paper="2504.13181",
    ),
)
LATENTS = Table("latent space", {row.name: row for row in _ROWS}, group="nanogen.latents")


def open_latent(name: str, device: str, weights: str | None = None) -> Latent:
    """Construct a latent space on a device.

    Args:
        weights: folder of its weight files (`latent.weights`); None: the usual places.

    Raises:
        RequestError: if its weights are missing.
        CheckpointError: if they are damaged or others.
    """
    spec = replace(LATENTS[name], folder=None if weights is None else Path(weights))
    codec: type[Latent] = LATENTS.load(name)
    return codec(spec, device)
