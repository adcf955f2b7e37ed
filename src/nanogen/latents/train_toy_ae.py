"""Train the autoencoder `toy-ae` anew: python -m nanogen.latents.train_toy_ae.

Rendered scenes of the training seed (32,768, mirrored at random) and, one in eight, digits of the training split, both
at 24 px. Loss: L1 plus L2, coloured pixels three times; the decoder sees latents plus noise of a deviation drawn from
[0, 0.6] per image, as decoders of representation autoencoders do, so that it forgives what a short training gets
wrong. AdamW 2e-3 with a cosine. About 45 minutes on one core. Writes `toy_ae.safetensors` (16-bit) and `toy_ae.json`.

Source of noisy latents: Zheng et al. 2025 (arXiv 2510.11690).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from diffusionbench.schema import write_atomic
from nanogen.data.digits import open_digits
from nanogen.data.shapes import Shapes
from nanogen.latents.autoencoder import Autoencoder
from nanogen.latents.toy import CARD, CHANNELS, SIZE, WEIGHTS

RECIPE: Final[dict[str, Any]] = {
    "seed": 0,
    "scenes": 32_768,
    "steps": 12_000,
    "batch": 32,
    "digits": 4,
    "rate": 2e-3,
    "noise": 0.6,
    "coloured": 3.0,
}
#: Scenes after the training ones, for the figures on the card.
HELD_OUT: Final = 512


def scenes(start: int, count: int) -> Tensor:
    """Rendered pictures uint8 [count, 3, 24, 24] of the training seed."""
    shapes = Shapes(SIZE)
    return torch.from_numpy(np.stack([shapes[index].image for index in range(start, start + count)])).permute(
        0, 3, 1, 2
    )


def handwritten(split: str) -> Tensor:
    """The digits of a split as uint8 [n, 3, 24, 24]."""
    digits = open_digits(None, SIZE, split)
    return torch.from_numpy(np.stack([digits[index].image for index in range(len(digits))])).permute(0, 3, 1, 2)


def signed(images: Tensor) -> Tensor:
    """uint8 to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def loss_of(decoded: Tensor, images: Tensor) -> Tensor:
    """L1 plus L2 of [B, 3, H, W], with more weight where an image has colour (chroma above 0.4 of 2)."""
    chroma = images.amax(1, keepdim=True) - images.amin(1, keepdim=True)
    weight = 1 + (RECIPE["coloured"] - 1) * (chroma > 0.4)
    error = decoded - images
    return ((error.abs() + error.square()) * weight).mean()


def train(steps: int) -> Autoencoder:
    """The trained network."""
    torch.manual_seed(RECIPE["seed"])
    generator = torch.Generator().manual_seed(RECIPE["seed"])
    rendered, digits = scenes(0, RECIPE["scenes"]), handwritten("train")
    model = Autoencoder(CHANNELS).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=RECIPE["rate"], betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    start = time.monotonic()
    for step in range(steps):
        rate = min(1.0, (step + 1) / 100) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        optimizer.param_groups[0]["lr"] = RECIPE["rate"] * rate
        chosen = torch.randint(len(rendered), (RECIPE["batch"] - RECIPE["digits"],), generator=generator)
        mirrored = torch.rand(len(chosen), 1, 1, 1, generator=generator) < 0.5
        pictures = rendered[chosen]
        numbers = digits[torch.randint(len(digits), (RECIPE["digits"],), generator=generator)]
        images = signed(torch.cat([torch.where(mirrored, pictures.flip(3), pictures), numbers]))
        latents = model.encode(images.contiguous(memory_format=torch.channels_last))
        level = RECIPE["noise"] * torch.rand(len(images), 1, 1, 1, generator=generator)
        decoded = model.decode(latents + level * torch.randn(latents.shape, generator=generator))
        loss = loss_of(decoded, images)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 500 == 0:
            print(f"step {step + 1}  loss {loss.item():.4f}  {time.monotonic() - start:.0f} s", flush=True)
    return model.eval().requires_grad_(False)


def psnr(model: Autoencoder, images: Tensor, noise: float = 0.0) -> float:
    """Peak signal to noise ratio of the reconstruction in dB, range 2, latents plus seeded noise."""
    latents = model.encode(signed(images))
    generator = torch.Generator().manual_seed(0)
    decoded = model.decode(latents + noise * torch.randn(latents.shape, generator=generator)).clamp(-1, 1)
    return 10 * math.log10(4 / (decoded - signed(images)).square().mean().item())


def main(folder: Path = WEIGHTS.parent, steps: int = RECIPE["steps"]) -> dict[str, Any]:
    """Train, measure on held-out images, write weights and card into `folder`; returns the card."""
    tensors = {
        name: tensor.half() if tensor.dim() > 1 else tensor.float()
        for name, tensor in train(steps).state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    payload = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    model = Autoencoder(CHANNELS)
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    model.eval().requires_grad_(False)
    pictures, digits = scenes(len(Shapes(SIZE)) - HELD_OUT, HELD_OUT), handwritten("held_out")
    card = {
        "what": "autoencoder of 24 px images: stride 8, 16 channels, decoder trained under noise",
        "data": "rendered scenes of the training seed; scikit-learn load_digits, training split, at 24 px",
        "recipe": RECIPE | {"steps": steps},
        "torch": torch.__version__,
        "psnr": {
            "scenes": round(psnr(model, pictures), 2),
            "scenes, noise 0.4": round(psnr(model, pictures, 0.4), 2),
            "digits": round(psnr(model, digits), 2),
        },
        "sha256": hashlib.sha256(payload).hexdigest(),
    }
    write_atomic(folder / WEIGHTS.name, payload)
    write_atomic(folder / CARD.name, json.dumps(card, indent=2) + "\n")
    return card


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the autoencoder toy-ae anew.")
    parser.add_argument("--out", type=Path, default=WEIGHTS.parent, help="folder for weights and card")
    parser.add_argument("--steps", type=int, default=RECIPE["steps"], help="optimizer steps")
    arguments = parser.parse_args()
    print(json.dumps(main(arguments.out, arguments.steps), indent=2))
