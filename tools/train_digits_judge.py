"""Train the judge of digits anew: `python tools/train_digits_judge.py`.

Recipe: training split only (1,438 images), 60 epochs of AdamW with a cosine rate, batch 64, whole-pixel shifts of
at most one, label smoothing 0.05. Half a minute on one CPU core. The held-out split is looked at once, at the end.
The shipped weights fix what a score means, so training again makes another judge, with other scores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from diffusionbench.judges.digits import CARD, WEIGHTS, WIDTH, forward, to_grey
from diffusionbench.references import digits
from diffusionbench.writing import write_atomic

RECIPE: dict[str, Any] = {
    "seed": 0,
    "epochs": 60,
    "batch": 64,
    "rate": 2e-3,
    "weight_decay": 1e-2,
    "shift": 1,
    "label_smoothing": 0.05,
}
SHAPES = {
    "conv1": (32, 1, 3, 3),
    "conv2": (32, 32, 3, 3),
    "conv3": (64, 32, 3, 3),
    "hidden": (WIDTH, 64 * 2 * 2),
    "out": (10, WIDTH),
}


def initial(generator: torch.Generator) -> dict[str, Tensor]:
    """He-normal weights and zero biases."""
    weights = {}
    for name, shape in SHAPES.items():
        std = math.sqrt(2 / math.prod(shape[1:]))
        weights[f"{name}.weight"] = (torch.randn(shape, generator=generator) * std).requires_grad_()
        weights[f"{name}.bias"] = torch.zeros(shape[0], requires_grad=True)
    return weights


def shifted(grey: Tensor, reach: int, generator: torch.Generator) -> Tensor:
    """Return each image of [B, 1, 8, 8] moved by up to `reach` whole pixels in both directions; black moves in."""
    size = grey.shape[-1]
    padded = F.pad(grey, (reach,) * 4)[:, 0]
    corners = torch.randint(0, 2 * reach + 1, (2, len(grey), 1), generator=generator)
    rows, columns = corners + torch.arange(size)
    return padded[torch.arange(len(grey))[:, None, None], rows[:, :, None], columns[:, None, :]][:, None]


def train() -> dict[str, Tensor]:
    """Return the trained weights by name."""
    generator = torch.Generator().manual_seed(RECIPE["seed"])
    images, labels = digits.read("train")
    grey, target = to_grey(images), torch.from_numpy(labels)
    weights = initial(generator)
    batches = math.ceil(len(grey) / RECIPE["batch"])
    optimizer = torch.optim.AdamW(weights.values(), lr=RECIPE["rate"], weight_decay=RECIPE["weight_decay"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, RECIPE["epochs"] * batches)
    for _ in range(RECIPE["epochs"]):
        for chosen in torch.randperm(len(grey), generator=generator).split(RECIPE["batch"]):
            _, logits = forward(weights, shifted(grey[chosen], RECIPE["shift"], generator))
            loss = F.cross_entropy(logits, target[chosen], label_smoothing=RECIPE["label_smoothing"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return {name: tensor.detach().contiguous() for name, tensor in weights.items()}


def self_test(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Eight seeded noise images and what the judge makes of them, for `diffusionbench selftest`."""
    images = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    features, logits = forward(weights, to_grey(images))
    return {
        "images": images.reshape(8, -1).tolist(),
        "features": features.double().numpy().round(6).tolist(),
        "logits": logits.double().numpy().round(6).tolist(),
    }


def main(folder: Path) -> dict[str, Any]:
    """Train, score once on the held-out split, write weights and card into `folder`, and return the card."""
    torch.set_num_threads(1)
    weights = train()
    accuracy = {}
    for split in ("train", "held_out"):
        images, labels = digits.read(split)
        accuracy[split] = float((forward(weights, to_grey(images))[1].argmax(1).numpy() == labels).mean())
    payload = save(weights)
    card = {
        "what": "judge of 8x8 digits: 3 convolutions, hidden layer of 64 (the features), 10 logits",
        "data": "scikit-learn load_digits, training split (index mod 5 != 4)",
        "recipe": RECIPE,
        "torch": torch.__version__,
        "accuracy": accuracy,
        "sha256": hashlib.sha256(payload).hexdigest(),
        "self_test": self_test(weights),
    }
    write_atomic(folder / WEIGHTS.name, payload)
    write_atomic(folder / CARD.name, json.dumps(card) + "\n")
    return card


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train the judge of digits anew.")
    parser.add_argument("--out", type=Path, default=WEIGHTS.parent, help="folder of the weights and their card")
    card = main(parser.parse_args().out)
    print(json.dumps({key: value for key, value in card.items() if key != "self_test"}, indent=2))
