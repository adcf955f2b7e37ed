"""Train the judge of digits anew: `python tools/train_digits_judge.py`.

Recipe: training split only (1,438 images), 60 epochs of AdamW with a cosine rate, batch 64, whole-pixel shifts of
at most one, label smoothing 0.05, in the loop of `nanogen.train`. Half a minute on one CPU core. The held-out split is
used once, at the end. The shipped weights fix what a score means: they were made by this recipe with other random
numbers, and training again gives another judge, with other scores.
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
from torch import Tensor, nn
from torch.nn import functional as F

from diffusionbench.judges.digits import CARD, SIZE, WEIGHTS, WIDTH, forward, to_grey
from diffusionbench.references import digits
from diffusionbench.writing import write_atomic
from nanogen.config import compose
from nanogen.data import Batch
from nanogen.data.order import batches
from nanogen.datasets.digits import open_digits
from nanogen.optimizers.adamw import adamw
from nanogen.rng import PositionalNoise
from nanogen.state import Trained, TrainState
from nanogen.train import updates

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


class Classifier(nn.Module):
    """The judge's network with its weights as parameters: He-normal, biases zero."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleDict()
        for name, shape in SHAPES.items():
            layer = nn.Module()
            layer.weight = nn.Parameter(torch.randn(shape, generator=generator) * math.sqrt(2 / math.prod(shape[1:])))
            layer.bias = nn.Parameter(torch.zeros(shape[0]))
            self.layers[name] = layer

    def weights(self) -> dict[str, Tensor]:
        """Return the parameters by the names of the weight file."""
        return {name.removeprefix("layers."): weight for name, weight in self.named_parameters()}

    def forward(self, grey: Tensor) -> Tensor:
        """Map float32 [B, 1, 8, 8] in [0, 1] to logits [B, 10]."""
        return forward(self.weights(), grey)[1]


def shifted(grey: Tensor, reach: int, uniform: Tensor) -> Tensor:
    """Return each image of [B, 1, 8, 8] moved by up to `reach` whole pixels in both directions; black moves in.

    Args:
        uniform: float32 [B, 2] in [0, 1), which decides the moves.
    """
    size = grey.shape[-1]
    padded = F.pad(grey, (reach,) * 4)[:, 0]
    rows, columns = (uniform.T[..., None] * (2 * reach + 1)).long() + torch.arange(size)
    return padded[torch.arange(len(grey))[:, None, None], rows[:, :, None], columns[:, None, :]][:, None]


def train() -> dict[str, Tensor]:
    """Return the trained weights by name."""
    data = open_digits(None, SIZE, "train")
    net = Classifier(RECIPE["seed"])
    optim = compose("digits", overrides=[f"optim.weight_decay={RECIPE['weight_decay']}"]).config.optim
    last = RECIPE["epochs"] * (len(data) // RECIPE["batch"])
    state = TrainState.begin(
        Trained(net),
        lambda parameters: adamw(parameters, optim),
        lambda step: RECIPE["rate"] * (1 + math.cos(math.pi * step / last)) / 2,
        ema_decay=0.0,
        grad_clip=math.inf,
    )

    def step_loss(batch: Batch, noise: PositionalNoise) -> dict[str, Tensor]:
        assert batch.image is not None
        assert batch.label is not None
        grey = to_grey(batch.image.permute(0, 2, 3, 1).numpy())
        logits = state.net(shifted(grey, RECIPE["shift"], noise.uniform("shift", (2,))))
        loss = F.cross_entropy(logits, batch.label, label_smoothing=RECIPE["label_smoothing"], reduction="none")
        return {"cross_entropy": loss}

    loader = batches(data, seed=RECIPE["seed"], batch_size=RECIPE["batch"])
    for _ in updates(state, step_loss, loader, last, seed=RECIPE["seed"]):
        pass
    return {name: weight.detach().contiguous() for name, weight in net.weights().items()}


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
        "data": "UCI handwritten digits, training split (index mod 5 != 4)",
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
