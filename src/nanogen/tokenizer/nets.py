"""What a first stage trains: the interface, and one class for each row of `TOKENIZERS`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffusionbench.errors import ConfigError
from nanogen.data.memory import CachedLatents
from nanogen.latents import LATENTS, perception, vit
from nanogen.latents.perception import PerceptionEncoder
from nanogen.latents.toy import Autoencoder, KLAutoencoder
from nanogen.latents.vit import ViTDecoder
from nanogen.rng import PositionalNoise, initial_seed
from nanogen.tokenizer import TOKENIZERS, ConvOptions, MaskedOptions, RAEOptions, VAEOptions
from nanogen.tokenizer.data import Source
from nanogen.tokenizer.settings import TokenizerConfig

Files = dict[str, dict[str, Tensor]]


class Tokenizer(nn.Module):
    """A network of the first stage. It is constructed as `row(options, image_size, words, device)`, on the CPU.

    Attributes:
        net: what is trained and kept.
        noise: largest deviation of the noise on latents in training.
    """

    net: Any
    noise: float = 0.0

    @property
    def last(self) -> nn.Module:
        """The last layer of the decoder, by whose gradients the adversarial term is balanced."""
        return self.net.get_submodule("decoder")[-1]

    def forward(
        self, images: Tensor, noise: PositionalNoise, captions: Sequence[str] | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Decode images float32 [B, 3, H, W] in [0, 1] from their latents; also returns weighted penalties [B].

        Args:
            noise: of these images in this step.
            captions: B texts where the data has them.
        """
        return self.decode(disturbed(self.encode(images).float(), self.noise, noise)), {}

    def encode(self, images: Tensor) -> Tensor:
        """Return latents [B, C, h, w] before their normalisation by statistics."""
        return self.net.encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        """Return images [B, 3, H, W] in about [0, 1]."""
        return self.net.decode(latents)

    def exported(self) -> Files:
        """Return the weights to keep by file name, in the layout in which `nanogen.latents` reads them."""
        return {"autoencoder.safetensors": self.net.state_dict()}


def build_net(config: TokenizerConfig, data: Source, device: str) -> Tokenizer:
    """Return the network of a config on a device; initial weights depend on the seed alone.

    Raises:
        ConfigError: if its options do not fit each other or the data.
        RequestError, CheckpointError: if a frozen network that it needs is missing or another one.
    """
    kind, words = config.net["kind"], set()
    if kind == "masked":
        captions = data.captions if isinstance(data, CachedLatents) else map(data.caption, range(len(data)))
        words = {word for caption in captions or () for word in (caption or "").split()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(initial_seed(config.seed, "weights"))
        options = TOKENIZERS[kind].options.model_validate(config.net)
        net: Tokenizer = TOKENIZERS.load(kind)(options, config.data.image_size, sorted(words), device)
    return net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def disturbed(latents: Tensor, most: float, noise: PositionalNoise) -> Tensor:
    """Return latents under normal noise whose deviation is drawn from [0, most] for each image."""
    level = most * noise.uniform("level", (1,) * (latents.ndim - 1))
    return latents + level * noise.normal("latent", tuple(latents.shape[1:]))


class ConvTokenizer(Tokenizer):
    """The network of `toy-ae`."""

    def __init__(self, options: ConvOptions, image_size: int, words: Sequence[str], device: str) -> None:
        super().__init__()
        self.net, self.noise = Autoencoder(options.channels), options.noise


class VAETokenizer(Tokenizer):
    """The network of `toy-vae`: a sample of the posterior in training, its mode otherwise."""

    def __init__(self, options: VAEOptions, image_size: int, words: Sequence[str], device: str) -> None:
        super().__init__()
        self.net, self.kl = KLAutoencoder(options.channels, options.width), options.kl

    def forward(
        self, images: Tensor, noise: PositionalNoise, captions: Sequence[str] | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        mean, logvar = (part.float() for part in self.net.moments(images))
        z = mean + (logvar / 2).exp() * noise.normal("latent", tuple(mean.shape[1:]))
        divergence = (mean.square() + logvar.exp() - 1 - logvar).flatten(1).mean(1) / 2
        return self.decode(z), {"kl": self.kl * divergence}

    def encode(self, images: Tensor) -> Tensor:
        return self.net.moments(images)[0]


class RAETokenizer(Tokenizer):
    """A ViT decoder; its encoder is frozen and not among its weights.

    Raises:
        ConfigError: if the latent is not square or the decoder's width does not fit.
    """

    def __init__(self, options: RAEOptions, image_size: int, words: Sequence[str], device: str) -> None:
        super().__init__()
        row = replace(LATENTS[options.latent], folder=None if options.weights is None else Path(options.weights))
        channels, rows, columns = row.shape(image_size)
        if rows != columns:
            raise ConfigError(f"net.latent '{row.name}' has a grid of {rows}x{columns}; the decoder takes square ones.")
        if options.width % 4 or options.width % options.num_heads:
            raise ConfigError(
                f"net.width is {options.width}; a decoder needs a multiple of 4 and of its {options.num_heads} heads."
            )
        sizes = (options.width, options.depth, options.num_heads, options.hidden)
        self.net = ViTDecoder(channels, *sizes, patch=image_size // rows, side=rows)
        self.noise = options.noise
        encoder = LATENTS.load(row.name).before_statistics(row, device)
        # A function is shared by copies of this module, as the average is one.
        self._encode = lambda images: encoder(images)

    @property
    def last(self) -> nn.Module:
        return self.net.head

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        return self._encode(images)

    def decode(self, latents: Tensor) -> Tensor:
        return self.net(latents)

    def exported(self) -> Files:
        return {"decoder.safetensors": vit.to_released(self.net)}


class MaskedTokenizer(Tokenizer):
    """An encoder for `rae`: from the patches that it sees it tells all of them, and the words of the caption.

    Grey stands where a patch is hidden. Patches are told by one linear map, so that their tokens keep detail.
    """

    def __init__(self, options: MaskedOptions, image_size: int, words: Sequence[str], device: str) -> None:
        super().__init__()
        if not words:
            raise ConfigError("net.kind 'masked' learns from captions, and the data has none. Use captioned data.")
        self.side, rest = divmod(image_size, options.patch)
        if rest or options.width % (4 * options.num_heads):
            raise ConfigError(
                f"net.patch {options.patch} must divide data.image_size {image_size}, and 4 net.num_heads "
                f"({4 * options.num_heads}) net.width {options.width}."
            )
        sizes = (options.width, options.depth, options.hidden, options.num_heads, options.patch)
        self.net = PerceptionEncoder(*sizes, places=self.side**2 + 1, scaled=False)
        nn.init.normal_(self.net.positions, std=0.02)
        self.told = nn.Linear(options.width, 3 * options.patch**2)
        self.named = nn.Linear(options.width, len(words))
        self.options, self.places = options, {word: place for place, word in enumerate(words)}

    @property
    def last(self) -> nn.Module:
        return self.told

    def forward(
        self, images: Tensor, noise: PositionalNoise, captions: Sequence[str] | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        seen = noise.uniform("masked", (1, self.side, self.side)) >= self.options.masked
        shown = F.interpolate(seen.float(), scale_factor=float(self.options.patch))
        tokens = self.net((2 * images - 1) * shown)
        wanted = torch.zeros(len(images), len(self.places), device=images.device)
        for row, caption in enumerate(captions or ()):
            wanted[row, [self.places[word] for word in caption.split()]] = 1
        missed = F.binary_cross_entropy_with_logits(self.named(tokens[:, 0]), wanted, reduction="none")
        return self.decode(self._grid(tokens)), {"words": self.options.words * missed.mean(1)}

    def _grid(self, tokens: Tensor) -> Tensor:
        return tokens[:, 1:].transpose(1, 2).unflatten(2, (self.side, self.side))

    def encode(self, images: Tensor) -> Tensor:
        return self._grid(self.net(2 * images - 1))

    def decode(self, latents: Tensor) -> Tensor:
        patches = self.told(latents.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return F.pixel_shuffle(patches, self.options.patch)

    def exported(self) -> Files:
        return {
            "encoder.safetensors": {
                perception.released_names(name)[0]: tensor for name, tensor in self.net.state_dict().items()
            }
        }
