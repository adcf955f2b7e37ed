"""The table of latent spaces: pairs of maps between images in [0, 1] and normalised latents.

To add a latent space over a codec that is here: one row. A new codec is one file with a subclass of `Latent`, which is
constructed as `codec(spec, device)`. Rows are read without torch and without weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusionbench.errors import ConfigError, RequestError
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
        load: "module:Class" of its codec; None where it cannot run yet.
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
        unavailable: why it cannot run yet, in one clause, or None.
    """

    name: str
    title: str
    load: str | None
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
    unavailable: str | None = None

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

    def encode(self, images: Tensor) -> Tensor:
        """Map float32 [B, 3, H, W] in [0, 1] to float32 [B, C, h, w], about mean 0 and deviation 1."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """Map float32 [B, C, h, w] back to float32 [B, 3, H, W]; may leave [0, 1] (callers clamp)."""
        raise NotImplementedError


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
    LatentSpec(
        name="sd-vae-ema",
        title="Stable Diffusion VAE, EMA weights (stabilityai/sd-vae-ft-ema)",
        load=None,
        channels=4,
        stride=8,
        patch_size=2,
        options={"shift": 0.0, "scale": 0.18215},
        weights=(
            WeightFiles(
                part="vae",
                names=("config.json", "diffusion_pytorch_model.safetensors"),
                hub="stabilityai/sd-vae-ft-ema",
                revision="f04b2c4b98319346dad8c65879f680b1997b204a",
                licence="MIT",
            ),
        ),
        paper="2112.10752",
        unavailable="its autoencoder is not wired in yet; `nanogen show` and `nanogen bench --synthetic` know its "
        "shape",
    ),
)
LATENTS = Table("latent space", {row.name: row for row in _ROWS}, group="nanogen.latents")


def open_latent(name: str, device: str, weights: str | None = None) -> Latent:
    """Construct a latent space on a device.

    Args:
        weights: folder of its weight files (`latent.weights`); None: the usual places.

    Raises:
        RequestError: if it cannot run yet, or its weights are missing.
        CheckpointError: if they are damaged or others.
    """
    spec = replace(LATENTS[name], folder=None if weights is None else Path(weights))
    if spec.unavailable is not None:
        raise RequestError(f"latent space '{name}' cannot run: {spec.unavailable}.")
    codec: type[Latent] = LATENTS.load(name)
    return codec(spec, device)
