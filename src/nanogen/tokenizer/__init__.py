"""The table of networks that a first stage trains, readable without torch.

To add one: a `tokenizer.nets.Tokenizer` in a file here, the options that a recipe gives it, and one row.
`first_stage.py` is the training, `recipe.py` makes it from a config in `configs/tokenizer`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from diffusionbench import bounds
from diffusionbench.registry import Table
from diffusionbench.schema import Strict

Factor = Annotated[float, Field(ge=0, le=bounds.FACTOR)]
Size = Annotated[int, Field(ge=1, le=bounds.WIDTH)]
Depth = Annotated[int, Field(ge=1, le=bounds.DEPTH)]


@dataclass(frozen=True, kw_only=True)
class TokenizerSpec:
    """One network of the first stage.

    Attributes:
        title: one line for users.
        options: model of the `net` section of a recipe; `kind` is one of its fields.
        load: "module:Class" of the `Tokenizer`.
    """

    title: str
    options: type[Strict]
    load: str


class ConvOptions(Strict):
    """Options of `conv`: channels of the latent, and the largest deviation of the noise on it in training."""

    kind: str
    channels: Size
    noise: Factor


class VAEOptions(Strict):
    """Options of `vae`: channels of the latent, width of the hidden layers, weight of the divergence per value."""

    kind: str
    channels: Size
    width: Size
    kl: Factor


class RAEOptions(Strict):
    """Options of `rae`: the latent space whose encoder stays frozen, the decoder's sizes, the noise as in `conv`."""

    kind: str
    latent: str
    weights: str | None = None
    width: Size
    depth: Depth
    num_heads: Size
    hidden: Size
    noise: Factor


class MaskedOptions(Strict):
    """Options of `masked`: sizes of the encoder, share of the patches that it does not see, weight of the words."""

    kind: str
    patch: Size
    width: Size
    depth: Depth
    num_heads: Size
    hidden: Size
    masked: Annotated[float, Field(ge=0, lt=1)]
    words: Factor


_NETS = "nanogen.tokenizer.nets"
TOKENIZERS: Table[TokenizerSpec] = Table(
    "tokenizer",
    {
        "conv": TokenizerSpec(
            title="small convolutional autoencoder", options=ConvOptions, load=f"{_NETS}:ConvTokenizer"
        ),
        "vae": TokenizerSpec(
            title="small convolutional KL autoencoder", options=VAEOptions, load=f"{_NETS}:VAETokenizer"
        ),
        "rae": TokenizerSpec(
            title="ViT decoder over a frozen encoder", options=RAEOptions, load=f"{_NETS}:RAETokenizer"
        ),
        "masked": TokenizerSpec(
            title="ViT encoder from masked patches and captions", options=MaskedOptions, load=f"{_NETS}:MaskedTokenizer"
        ),
    },
    group="nanogen.tokenizers",
)
