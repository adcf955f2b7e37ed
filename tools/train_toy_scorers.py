"""Train the two learned metrics that the stress harness attacks: `python tools/train_toy_scorers.py`.

14,000 rendered pairs, batch 128, AdamW 1.2e-3 with a one-cycle schedule, clip 1.0; 14 epochs for the dual encoder, then
2 for the yes/no scorer from its towers; about ten minutes on one core. Writes `<name>.safetensors` (16-bit) and
`toy_scorers.json` with recipes, accuracies and hashes.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.nn import functional as F

from diffusionbench.benchmarks.simpleeval import shapes_world as world
from diffusionbench.benchmarks.simpleeval.renderer import training_pair
from diffusionbench.benchmarks.simpleeval.stream import HashStream
from diffusionbench.benchmarks.simpleeval.stress.toy_scorers import FOLDER, NAMES, ToyClip, ToyScorer, ToyVqa, tokens
from diffusionbench.schema import file_digest
from diffusionbench.writing import write_atomic

PAIRS, HELD, BATCH, RATE, CLIP = 14_000, 1_000, 128, 1.2e-3, 1.0
EPOCHS: Final = {"toy_clipscore": 14, "toy_vqascore": 2}
#: Wordings and one-fact negatives per pair, drawn once; an epoch takes one wording and all negatives.
CHANGED: Final = 7
RECIPE: Final = {"pairs": PAIRS, "batch": BATCH, "rate": RATE, "clip": CLIP, "seed": "toy"}
#: Images uint8 [n, 3, 64, 64], tokens of captions and of one-fact negatives, each [n, CHANGED, 24].
Pairs = tuple[Tensor, Tensor, Tensor]


def changed(named: dict[str, str], stream: HashStream) -> dict[str, str]:
    """Return named facts with one of them made another value that keeps the two groups apart."""
    two = world.num_groups(named) == 2
    while True:
        slot = stream.choice(sorted(named))
        out = {**named, slot: stream.choice([value for value in world.allowed(slot, two) if value != named[slot]])}
        if not two or (out["shape1"] != out["shape2"] and out["colour1"] != out["colour2"]):
            return out


def data(start: int, count: int) -> Pairs:
    """Render training pairs start..start + count - 1 of seed "toy"."""
    images, captions, negatives = [], [], []
    for index in range(start, start + count):
        image, caption, scene = training_pair("toy", index)
        stream = HashStream("toy", f"negative/{index}")
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
    """Return in-batch and one-fact contrast for the dual encoder; yes/no cross-entropy for the other.

    Args:
        images: float [B, 3, H, W] in 0..1.
        right: tokens [B, 24] of captions.
        wrong: tokens [B, N, 24] of captions with one fact changed.
    """
    count, negatives = wrong.shape[:2]
    if isinstance(model, ToyClip):
        image = F.normalize(model.encode_image(images))
        text = F.normalize(model.encode_text(right))
        near = F.normalize(model.encode_text(wrong.flatten(0, 1))).view(count, negatives, -1)
        scale, target = model.log_scale.exp(), torch.arange(count)
        among = scale * image @ text.T
        own = scale * torch.einsum("bd,bnd->bn", image, near)
        return F.cross_entropy(torch.cat([among, own], dim=1), target) + F.cross_entropy(among.T, target)
    image = model.encode_image(images)
    text = model.encode_text(torch.cat([right[:, None], wrong, right.roll(1, 0)[:, None]], dim=1).flatten(0, 1))
    image = image.repeat_interleave(negatives + 2, dim=0)
    logits = model.head(torch.cat([image, text, image * text], dim=1)).view(count, negatives + 2)
    label = torch.zeros_like(logits)
    label[:, 0] = 1
    # One yes stands against all the noes.
    return F.binary_cross_entropy_with_logits(logits, label, pos_weight=torch.tensor(negatives + 1.0))


@torch.no_grad()
def accuracies(model: ToyScorer, images: Tensor, right: Tensor, wrong: Tensor) -> dict[str, float]:
    """Return two-way accuracy against one-fact negatives and yes/no accuracy on both halves."""
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


def train(name: str, pairs: Pairs, held: Pairs, epochs: int, towers: Path | None = None) -> ToyScorer:
    """Train one scorer, from given towers if there are any; accuracies on 200 held pairs are printed every epoch."""
    images, right, wrong = pairs
    torch.manual_seed(0)
    model: ToyScorer = ToyClip() if name == "toy_clipscore" else ToyVqa()
    if towers is not None:
        known = {key: value for key, value in load_file(towers).items() if key != "log_scale"}
        model.load_state_dict(known, strict=False)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    steps = len(images) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=epochs * steps)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        started, total = time.perf_counter(), 0.0
        model.train()
        for step in range(steps):
            rows = order[step * BATCH : (step + 1) * BATCH]
            turn = epoch % CHANGED
            pixels = shifted(images[rows].float() / 255, generator).to(memory_format=torch.channels_last)
            loss = loss_of(model, pixels, right[rows, turn], wrong[rows])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            schedule.step()
            total += loss.item()
        found = accuracies(model, *(part[:200] for part in held))
        spent = time.perf_counter() - started
        print(f"{name} epoch {epoch + 1} loss {total / steps:.3f} {found} {spent:.0f} s", flush=True)
    return model


def ship(model: ToyScorer, name: str, held: Pairs, epochs: int, out: Path) -> None:
    """Round a scorer to 16 bits, check it, and write it with its line in `toy_scorers.json`."""
    weights = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(weights)
    found = {key: round(value, 4) for key, value in accuracies(model, *held).items()}
    print(name, found, flush=True)
    path, card = out / f"{name}.safetensors", out / "toy_scorers.json"
    write_atomic(path, save(weights))
    facts = json.loads(card.read_text()) if card.exists() else {}
    facts[name] = {"sha256": file_digest(path), **found, "recipe": {**RECIPE, "epochs": epochs}}
    write_atomic(card, json.dumps(facts, indent=2) + "\n")


def main(names: Sequence[str], out: Path) -> None:
    """Train, check and write the scorers."""
    pairs, held = data(0, PAIRS), data(PAIRS, HELD)
    for name in names:
        # The yes/no scorer begins with the towers of the dual encoder, which took most of the learning.
        towers = out / f"{NAMES[0]}.safetensors" if name != NAMES[0] else None
        model = train(name, pairs, held, EPOCHS[name], towers)
        ship(model, name, held, EPOCHS[name], out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES, help="which scorers; default both")
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    main(arguments.names, arguments.out)
