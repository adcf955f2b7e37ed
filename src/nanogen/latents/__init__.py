"""The table of latent spaces: pairs of maps between images in [0, 1] and normalised latents.

To add a latent space over a codec that is here: one row. A new codec is one file with a subclass of `Latent`, which is
constructed as `codec(spec, device)`. Rows are read without torch and without weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from diffusionbench.errors import ConfigError, RequestError
from diffusionbench.registry import Table

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
        patch_size: side of a patch on the latent, or None where the config's `model.pixel_grid` decides.
        options: settings of the codec, such as the shift and scale of its latents.
        hub: Hugging Face repository of the weights, "org/name"; "" for none.
        revision: its pinned commit; "" where it is not pinned.
        licence: of the weights, as an SPDX name where there is one.
        gated: the licence must be accepted on the hub before a download.
        paper: arXiv number.
        unavailable: why it cannot run yet, in one clause, or None.
    """

    name: str
    title: str
    load: str | None
    channels: int
    stride: int
    grid: tuple[int, int] | None = None
    patch_size: int | None
    options: Mapping[str, Any] = field(default_factory=dict)
    hub: str = ""
    revision: str = ""
    licence: str = ""
    gated: bool = False
    paper: str = ""
    unavailable: str | None = None

    def shape(self, image_size: int) -> tuple[int, int, int]:
        """Return the (channels, rows, columns) of the latent of a square image.

        Raises:
            ConfigError: if the image size is no multiple of the stride.
        """
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
        name="sd-vae-ema",
        title="Stable Diffusion VAE, EMA weights (stabilityai/sd-vae-ft-ema)",
        load=None,
        channels=4,
        stride=8,
        patch_size=2,
        options={"shift": 0.0, "scale": 0.18215},
        hub="stabilityai/sd-vae-ft-ema",
        licence="MIT",
        paper="2112.10752",
        unavailable="its autoencoder is not wired in yet; `nanogen show` and `nanogen bench --synthetic` know its "
        "shape",
    ),
)
LATENTS = Table("latent space", {row.name: row for row in _ROWS}, group="nanogen.latents")


def open_latent(name: str, device: str) -> Latent:
    """Construct a latent space on a device.

    Raises:
        RequestError: if it cannot run yet, or its weights are missing or damaged.
    """
    spec = LATENTS[name]
    if spec.unavailable is not None:
        raise RequestError(f"latent space '{name}' cannot run: {spec.unavailable}.")
    codec: type[Latent] = LATENTS.load(name)
    return codec(spec, device)
