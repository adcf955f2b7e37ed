"""From a recipe to a trained network, and to the files that `nanogen.latents` reads."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from diffusionbench.errors import DataError
from diffusionbench.writing import make_folder, write_atomic, write_errors
from nanogen import parallel
from nanogen.data.order import in_order
from nanogen.latents.cache import Statistics
from nanogen.tokenizer.data import Source
from nanogen.tokenizer.first_stage import build_stage, train_tokenizer
from nanogen.tokenizer.nets import Tokenizer
from nanogen.tokenizer.settings import TokenizerConfig

EXPORT = "export"
# Images that are encoded together.
_BATCH = 256


def train_recipe(config: TokenizerConfig, folder: Path, device: str) -> Tokenizer:
    """Train what a config describes, or continue, and write its files into `export`; every process calls it.

    Returns:
        The averaged network.

    Raises:
        UserError: for whatever is wrong with the request, before anything is written.
        NonFiniteLoss: if training diverges; the last checkpoint is intact.
    """
    with parallel.agreed():
        stage = build_stage(config, device)
    net = train_tokenizer(folder, stage).ema.module.net
    assert isinstance(net, Tokenizer)
    with parallel.agreed():
        if parallel.is_main():
            try:
                write_files(net.exported() | {"stats.safetensors": statistics(net, stage.data)}, folder / EXPORT)
            except DataError as error:
                raise DataError(f"{folder}: {error} The checkpoints are there.") from None
    return net


@torch.no_grad()
def statistics(net: Tokenizer, data: Source) -> dict[str, Tensor]:
    """Return "mean" and "var" of the latents of all images, float32 [C, h, w] each, summed in float64.

    Raises:
        DataError: if a value of the latent never varies.
    """
    found, device = Statistics(), next(net.parameters()).device
    for batch in in_order(data, _BATCH):
        assert batch.image is not None
        found.add(net.encode(batch.image.to(device).float() / 255))
    return found.finish()


def write_files(files: dict[str, dict[str, Tensor]], folder: Path) -> None:
    """Write tensors by file name, each file in the folder of its part, where `latent.weights` finds them."""
    for name, tensors in files.items():
        path = folder / {"stats": "statistics"}.get(Path(name).stem, Path(name).stem) / name
        with write_errors(path):
            make_folder(path.parent)
            write_atomic(path, save({key: tensor.contiguous().cpu() for key, tensor in tensors.items()}))
