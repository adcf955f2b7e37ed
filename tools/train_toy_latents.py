"""Train the latent spaces `toy-vae` and `toy-rae` anew: `python tools/train_toy_latents.py toy-rae`.

The recipes are those of `nanogen tokenizer train`: toy-vae; toy-encoder and then toy-rae over it. The same command
continues. Weights are kept as float16, the encoder before its decoder is trained; statistics and figures are those of
the rounded networks. Writes `toy_vae.safetensors` or the folder `toy_rae`, each with a card beside it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save
from torch import Tensor

from diffusionbench.metrics.reconstruction import psnr
from diffusionbench.schema import file_digest
from diffusionbench.writing import make_folder, write_atomic
from nanogen.data import Dataset
from nanogen.data.order import in_order
from nanogen.latents import toy
from nanogen.latents.rae import EPS
from nanogen.tokenizer.data import kept, open_sources
from nanogen.tokenizer.nets import Tokenizer
from nanogen.tokenizer.recipe import statistics, train_recipe
from nanogen.tokenizer.settings import TokenizerConfig, compose_tokenizer

OUT: Final = Path(toy.__file__).parent
PARTS: Final = {"encoder": "encoder", "decoder": "decoder", "statistics": "stats"}


def rounded(net: Tokenizer) -> Tokenizer:
    """Round the weights of a network to float16, in place."""
    for weight in net.parameters():
        weight.data = weight.data.half().float()
    return net


def write(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write weights as float16; statistics, which are few, as float32."""
    make_folder(path.parent)
    keep = {"mean", "std", "var"}
    write_atomic(path, save({name: (t if name in keep else t.half()).contiguous() for name, t in tensors.items()}))


@torch.no_grad()
def figures(net: Tokenizer, held_out: dict[str, Dataset]) -> dict[str, float]:
    """Return the mean PSNR of the held-out images of each source in dB, not cut to 8 bits."""
    found = {}
    for name, data in held_out.items():
        images = [batch.image.float() / 255 for batch in in_order(data, 256) if batch.image is not None]
        values = torch.cat([psnr(some, net.decode(net.encode(some)).clamp(0, 1)) for some in images])
        found[name] = round(values.mean().item(), 2)
    return found


def card(what: str, configs: Sequence[TokenizerConfig], net: Tokenizer, files: Sequence[Path]) -> dict[str, Any]:
    """Return what a file is, how it was made and how well it reconstructs."""
    recipes = {config.net["kind"]: config.model_dump(mode="json") for config in configs}
    # Where the encoder lay says nothing.
    recipes.get("rae", {"net": {}})["net"].pop("weights", None)
    return {
        "what": what,
        "data": "UCI handwritten digits, training split; rendered shapes, all but the last 512; at 32 px",
        "recipe": recipes,
        "torch": torch.__version__,
        "parameters": sum(weight.numel() for weight in net.parameters()),
        "psnr": figures(net, open_sources(configs[-1])[1]),
        "sha256": {file.name: file_digest(file) for file in files} if len(files) > 1 else file_digest(files[0]),
    }


def make_vae(run: Path, out: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Train `toy-vae` and write its file; returns its card."""
    config = compose_tokenizer("toy-vae", overrides)
    net = rounded(train_recipe(config, run, "cpu"))
    found = statistics(net, kept(open_sources(config)[0], config))
    mean = found["mean"].mean((1, 2), keepdim=True)  # [C, 1, 1]
    var = (found["var"] + found["mean"].square()).mean((1, 2), keepdim=True) - mean.square()
    file = out / "toy_vae.safetensors"
    (weights,) = net.exported().values()
    write(file, weights | {"mean": mean, "std": (var + EPS).sqrt()})
    return card("KL autoencoder of 32 px images: stride 4, 8 channels", [config], net, [file])


def make_rae(run: Path, out: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """Train the encoder and the decoder of `toy-rae` and write their files; returns its card."""
    first = compose_tokenizer("toy-encoder", overrides)
    encoder = rounded(train_recipe(first, run / "encoder", "cpu"))
    second = compose_tokenizer("toy-rae", [*overrides, f"net.weights={out / 'toy_rae'}"])
    files = [out / "toy_rae" / f"{name}.safetensors" for name in PARTS.values()]
    write(files[0], encoder.exported()[files[0].name])
    net = rounded(train_recipe(second, run / "decoder", "cpu"))
    write(files[1], net.exported()[files[1].name])
    write(files[2], statistics(net, kept(open_sources(second)[0], second)))
    described = card("ViT encoder and decoder of 32 px images: patch 8, 96 channels", [first, second], net, files)
    return described | {"parameters": described["parameters"] + sum(w.numel() for w in encoder.net.parameters())}


MAKERS: Final = {"toy-vae": make_vae, "toy-rae": make_rae}


def main(name: str, run: Path, out: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Train in the folder `run`, write files and card into `out`; returns the card."""
    made = MAKERS[name](run, out, overrides)
    write_atomic(out / f"{name.replace('-', '_')}.json", json.dumps(made, indent=2) + "\n")
    return made


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the latent spaces toy-vae and toy-rae anew.")
    parser.add_argument("name", choices=MAKERS)
    parser.add_argument("--out", type=Path, default=OUT, help="folder for files and card")
    parser.add_argument("--run", type=Path, help="folder of the training; default: outputs/NAME")
    arguments = parser.parse_args()
    folder = arguments.run or Path("outputs") / arguments.name
    print(json.dumps(main(arguments.name, folder, arguments.out), indent=2))
