"""`toy-ae`: the latent space of a small autoencoder that ships with the package, for runs of minutes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from diffusionbench.schema import check_shipped
from nanogen.latents import LatentSpec

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS: Final = Path(__file__).with_name("toy_ae.safetensors")
CARD: Final = Path(__file__).with_name("toy_ae.json")
#: Side in pixels of the images it was trained on.
SIZE: Final = 32
CHANNELS: Final = 16


def card() -> dict[str, Any]:
    """Recipe, reconstruction figures and weight hash, as the training script wrote them."""
    return json.loads(CARD.read_text())


class ToyAE:
    """The maps between 32 px images and their 4x4 latents.

    Raises:
        RequestError: if the weights are missing or are not the ones the card names.
    """

    def __init__(self, device: str) -> None:
        from safetensors.torch import load_file

        from nanogen.latents.autoencoder import Autoencoder

        check_shipped("latent space 'toy-ae'", WEIGHTS, card()["sha256"])
        self._net = Autoencoder(CHANNELS)
        self._net.load_state_dict({name: tensor.float() for name, tensor in load_file(WEIGHTS).items()})
        self._net.to(device).eval().requires_grad_(False)

    def encode(self, images: Tensor) -> Tensor:
        return self._net.encode(2 * images - 1)

    def decode(self, latents: Tensor) -> Tensor:
        return (self._net.decode(latents) + 1) / 2


TOY_AE = LatentSpec(
    channels=CHANNELS,
    stride=8,
    patch_size=1,
    title="small autoencoder of 32 px digits and rendered shapes, shipped (ours)",
    create=ToyAE,
)
