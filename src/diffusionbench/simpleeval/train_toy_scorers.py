"""Trains the two learned metrics that the stress harness attacks: python -m diffusionbench.simpleeval.train_toy_scorers

14,000 rendered pairs, batch 128, AdamW 1.2e-3 with a one-cycle schedule, clip 1.0, 14 epochs; a few minutes each on
one core. Writes `<name>.safetensors` (16-bit) and `toy_scorers.json` with recipes, accuracies and hashes.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from diffusionbench.schema import file_digest, write_atomic
from diffusionbench.simpleeval import shapes_world as world
from diffusionbench.simpleeval.shapes import training_pair
from diffusionbench.simpleeval.stream import Stream
from diffusionbench.simpleeval.toy_scorers import FOLDER, NAMES, ToyClip, ToyScorer, ToyVqa, tokens

PAIRS, HELD, BATCH, EPOCHS, RATE, CLIP = 14_000, 1_000, 128, 14, 1.2e-3, 1.0
#: Wordings and one-fact negatives per pair, drawn once; an epoch takes them in turn.
CHANGED: Final = 7
RECIPE: Final = {"pairs": PAIRS, "batch": BATCH, "rate": RATE, "clip": CLIP, "seed": "toy"}


def changed(named: dict[str, str], stream: Stream) -> dict[str, str]:
    """The same named facts with one of them made another value that keeps the two groups apart."""
    two = world.num_groups(named) == 2
    while True:
        slot = stream.choice(sorted(named))
        kind = world.kind(slot)
        values = world.COUNTS[:2] if two and kind == "count" else world.VOCABULARY[kind]
        out = {**named, slot: stream.choice([value for value in values if value != named[slot]])}
        if not two or (out["shape1"] != out["shape2"] and out["colour1"] != out["colour2"]):
            return out


def data(start: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images uint8 [n, 3, 64, 64], tokens of captions and of one-fact negatives, each [n, CHANGED, 24]."""
    images, captions, negatives = [], [], []
    for index in range(start, start + count):
        image, caption, scene = training_pair("toy", index)
        stream = Stream("toy", f"negative/{index}")
        words = set(caption.replace(".", " ").replace(":", " ").split())
        named = {
            slot: fact
            for slot, fact in scene.items()
            if world.kind(slot) not in ("size", "background") or fact in words
        }
        images.append(image)
        captions.append([world.caption(named, f"T{stream.below(4)}") for _ in range(CHANGED)])
        negatives.append([world.caption(changed(named, stream), f"T{stream.below(4)}") for _ in range(CHANGED)])
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return pixels, torch.stack([tokens(row) for row in captions]), torch.stack([tokens(row) for row in negatives])


def loss_of(model: ToyScorer, images: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """In-batch and one-fact contrast for the dual encoder; yes/no cross-entropy for the other."""
    if isinstance(model, ToyClip):
        image = F.normalize(model.encode_image(images))
        text = F.normalize(model.encode_text(torch.cat([right, wrong])))
        logits = model.log_scale.exp() * image @ text.T
        target = torch.arange(len(images))
        return F.cross_entropy(logits, target) + F.cross_entropy(logits[:, : len(images)].T, target)
    image = model.encode_image(images).repeat(3, 1)
    text = model.encode_text(torch.cat([right, wrong, right.roll(1, 0)]))
    logits = model.head(torch.cat([image, text, image * text], dim=1))[:, 0]
    label = torch.cat([torch.ones(len(images)), torch.zeros(2 * len(images))])
    # One yes stands against two noes.
    return F.binary_cross_entropy_with_logits(logits, label, pos_weight=torch.tensor(2.0))


@torch.no_grad()
def accuracies(model: ToyScorer, images: Tensor, right: Tensor, wrong: Tensor) -> dict[str, float]:
    """Two-way accuracy against one-fact negatives and yes/no accuracy on both halves."""
    model.eval()
    pixels = images.float() / 255
    yes = model.score(pixels, right[:, 0])
    no = torch.stack([model.score(pixels, wrong[:, i]) for i in range(wrong.shape[1])], dim=1)
    out = {"two_way": float((yes[:, None] > no).float().mean())}
    if isinstance(model, ToyVqa):
        out["yes_no"] = float(((yes > 0.5).float().mean() + (no < 0.5).float().mean()) / 2)
    return out


def shifted(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Move a batch by up to three pixels each way, edges repeated: no object reaches the border."""
    side = pixels.shape[-1]
    padded = F.pad(pixels, (3, 3, 3, 3), mode="replicate")
    y, x = torch.randint(0, 7, (2,), generator=generator).tolist()
    return padded[..., y : y + side, x : x + side]


def train(name: str, images: Tensor, right: Tensor, wrong: Tensor, epochs: int) -> ToyScorer:
    """Train one scorer from scratch."""
    torch.manual_seed(0)
    model: ToyScorer = ToyClip() if name == "toy_clipscore" else ToyVqa()
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * steps)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        started, total = time.perf_counter(), 0.0
        for step in range(steps):
            rows = order[step * BATCH : (step + 1) * BATCH]
            turn = epoch % CHANGED
            pixels = shifted(images[rows].float() / 255, generator).to(memory_format=torch.channels_last)
            loss = loss_of(model, pixels, right[rows, turn], wrong[rows, turn])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"{name} epoch {epoch + 1} loss {total / steps:.3f} {time.perf_counter() - started:.0f} s", flush=True)
    return model


def main() -> None:
    """Train, check and write the scorers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES, help="which scorers; default both")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    images, right, wrong = data(0, PAIRS)
    held = data(PAIRS, HELD)
    card = arguments.out / "toy_scorers.json"
    facts = json.loads(card.read_text()) if card.exists() else {}
    for name in arguments.names:
        model = train(name, images, right, wrong, arguments.epochs)
        weights = {key: value.half().contiguous() for key, value in model.state_dict().items()}
        model.load_state_dict({key: value.float() for key, value in weights.items()})
        found = {key: round(value, 4) for key, value in accuracies(model, *held).items()}
        print(name, found, flush=True)
        path = arguments.out / f"{name}.safetensors"
        write_atomic(path, save(weights))
        facts[name] = {"sha256": file_digest(path), **found, "recipe": {**RECIPE, "epochs": arguments.epochs}}
        write_atomic(card, json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
