"""What a person needs to choose between two latent spaces: reconstructions, the spectrum of latents, and a probe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusionbench.errors import ConfigError
from nanogen import parallel
from nanogen import train as training
from nanogen.config import ComposedConfig, Config
from nanogen.data import Dataset
from nanogen.data.opening import open_dataset
from nanogen.data.order import in_order
from nanogen.datasets import DATASETS
from nanogen.evaluate import records_of
from nanogen.latents import LATENTS, Latent, open_latent
from nanogen.tokenizer.data import Span
from nanogen.tokenizer.measure import Measured

# Images that are encoded together.
_BATCH = 32


def inspect(
    composition: ComposedConfig, num: int, judges: Sequence[str], probe: Path | None, command: list[str]
) -> dict[str, Any]:
    """Measure the latent space of a config on its data.

    Args:
        num: images; held-out ones where the data has such a split, else the last ones.
        judges: feature networks of distances, each where it is installed.
        probe: run folder of a small network that learns from the latents as the config says; None: none is trained.
        command: what the user typed, for the record of the run.

    Returns:
        `images`, `reconstruction`: metric -> mean; `latents`: see `spectrum`; `probe`: metric -> value and interval.

    Raises:
        UserError: for whatever is wrong with the request.
    """
    config = composition.config
    if num < 2:
        raise ConfigError(f"--num is {num}; a spectrum and a distance need 2 images or more.")
    LATENTS[config.latent.name].shape(config.data.image_size)
    with parallel.processes() as device:
        latent = open_latent(config.latent.name, device, config.latent.weights)
        data = examples(config, num)
        found, _ = Measured(judges, device)(lambda images: latent.decode(latent.encode(images)), in_order(data, _BATCH))
        result: dict[str, Any] = {"latent": config.latent.name, "images": len(data), "reconstruction": found}
        result["latents"] = spectrum(_encoded(latent, data, device))
        if probe is not None:
            run = training.train(composition, probe, device, command)
            record = records_of(run.path)[0]
            result["probe"] = {
                key: {"value": value.value, "interval": value.interval, "images": value.scored}
                for key, value in record.values.items()
            }
    return result


def examples(config: Config, num: int) -> Dataset:
    """Return the images that are measured, see `inspect`."""
    name, size = config.data.name, config.data.image_size
    if name == "digits":
        data = open_dataset(name, None, image_size=size, split="held_out")
        return Span(data, range(min(num, len(data))))
    data = open_dataset(name, config.data.path if DATASETS[name].takes_path else None, image_size=size)
    return Span(data, range(max(0, len(data) - num), len(data)))


def _encoded(latent: Latent, data: Dataset, device: str) -> Iterator[Tensor]:
    with torch.no_grad():
        for batch in in_order(data, _BATCH):
            assert batch.image is not None
            yield latent.encode(batch.image.to(device).float() / 255)


def spectrum(latents: Iterator[Tensor]) -> dict[str, Any]:
    """Describe latents [B, C, h, w] by the covariance of their channels over images and positions, in float64.

    Returns:
        `shape`; `mean` and `deviation` over everything; `spectrum`: shares of the variance along the principal
        directions, largest first; `effective_dimension`: (sum of eigenvalues)^2 / sum of their squares, 1 to C.

    Raises:
        ConfigError: if the latents never vary.
    """
    rows = torch.cat([z.double().cpu() for z in latents])
    shape = list(rows.shape[1:])
    rows = rows.transpose(0, 1).flatten(1)  # [C, n h w]
    values = torch.linalg.eigvalsh(torch.cov(rows, correction=0).reshape(len(rows), -1)).clamp(min=0).flip(0)
    if not values.sum() > 0:
        raise ConfigError("the latents never vary over the images. Give more or other images.")
    return {
        "shape": shape,
        "mean": rows.mean().item(),
        "deviation": rows.std(correction=0).item(),
        "spectrum": (values / values.sum()).tolist(),
        "effective_dimension": (values.sum().square() / values.square().sum()).item(),
    }


def as_text(found: dict[str, Any]) -> str:
    """Return what `inspect` found as lines."""
    latents = found["latents"]
    shares = torch.tensor(latents["spectrum"]).cumsum(0)
    half, most = (int((shares < share).sum()) + 1 for share in (0.5, 0.95))
    lines = [f"{found['latent']}, {found['images']} images"]
    lines += [f"  {name:<12} {value:.4g}" for name, value in found["reconstruction"].items()]
    lines += [
        f"  latents      {'x'.join(map(str, latents['shape']))}, mean {latents['mean']:.3g}, deviation "
        f"{latents['deviation']:.3g}",
        f"  spectrum     {half} of {len(shares)} directions hold half of the variance, {most} hold 95 %",
        f"  effective dimension {latents['effective_dimension']:.1f} of {len(shares)}",
    ]
    for name, value in found.get("probe", {}).items():
        interval = "" if value["interval"] is None else " ({:.4g} to {:.4g})".format(*value["interval"])
        lines.append(f"  probe {name} {value['value']:.4g}{interval}, {value['images']} images")
    return "\n".join(lines)
