"""Train the two learned metrics that the stress harness attacks: `python tools/train_toy_scorers.py`.

14,000 rendered pairs, batch 128, AdamW 1.2e-3 with a one-cycle rate, clip 1.0, in the loop of `nanogen.train`; 14
epochs for the dual encoder, then 2 for the yes/no scorer from its towers; about ten minutes on one core. Writes
`<name>.safetensors` (16-bit) and `toy_scorers.json` with recipes, accuracies and hashes. The shipped weights were made
by this recipe with other random numbers, and with a schedule that moved AdamW's first decay rate, too.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional as F

from diffusionbench.benchmarks.simpleeval import shapes_world as world
from diffusionbench.benchmarks.simpleeval.renderer import training_pair
from diffusionbench.benchmarks.simpleeval.stream import HashStream
from diffusionbench.benchmarks.simpleeval.stress.toy_scorers import FOLDER, NAMES, ToyClip, ToyScorer, ToyVqa, tokens
from diffusionbench.schema import file_digest
from diffusionbench.writing import write_atomic
from nanogen.config import compose
from nanogen.data import Batch, Component
from nanogen.data.order import batches
from nanogen.optimizers.adamw import adamw
from nanogen.rng import PositionalNoise
from nanogen.settings import steps_per_epoch
from nanogen.state import Trained, TrainState
from nanogen.train import updates

PAIRS, HELD, BATCH, RATE, CLIP = 14_000, 1_000, 128, 1.2e-3, 1.0
EPOCHS: Final = {"toy_clipscore": 14, "toy_vqascore": 2}
#: Wordings and one-fact negatives per pair, drawn once; an epoch takes one wording and all negatives.
CHANGED: Final = 7
RECIPE: Final = {"pairs": PAIRS, "batch": BATCH, "rate": RATE, "clip": CLIP, "seed": "toy"}


@dataclass(frozen=True, eq=False)
class Pairs:
    """Rendered pairs, as the loop reads them: a batch's labels are the numbers of its pairs.

    Attributes:
        images: uint8 [n, 3, 64, 64].
        right: tokens of captions, int64 [n, CHANGED, 24].
        wrong: tokens of captions with one fact changed, int64 [n, CHANGED, 24].
    """

    images: Tensor
    right: Tensor
    wrong: Tensor

    @property
    def components(self) -> tuple[Component, ...]:
        return (Component(len(self)),)

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, indices: np.ndarray, positions: list[int]) -> Batch:
        """See `nanogen.data.memory.SupportsBatches`."""
        places = torch.from_numpy(indices)
        return Batch(image=self.images[places], label=places, caption=None, positions=positions)


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
    return Pairs(
        pixels, torch.stack([tokens(row) for row in captions]), torch.stack([tokens(row) for row in negatives])
    )


def loss_of(model: ToyScorer, images: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """Return in-batch and one-fact contrast for the dual encoder, yes/no cross-entropy for the other: float [B].

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
        each = [F.cross_entropy(one, target, reduction="none") for one in (torch.cat([among, own], dim=1), among.T)]
        return torch.stack(each).sum(dim=0)
    image = model.encode_image(images)
    text = model.encode_text(torch.cat([right[:, None], wrong, right.roll(1, 0)[:, None]], dim=1).flatten(0, 1))
    image = image.repeat_interleave(negatives + 2, dim=0)
    logits = model.head(torch.cat([image, text, image * text], dim=1)).view(count, negatives + 2)
    label = torch.zeros_like(logits)
    label[:, 0] = 1
    # One yes stands against all the noes.
    weight = torch.tensor(negatives + 1.0)
    return F.binary_cross_entropy_with_logits(logits, label, pos_weight=weight, reduction="none").mean(dim=1)


class Contrast(nn.Module):
    """A scorer as the network that the loop calls: images and captions to losses."""

    def __init__(self, model: ToyScorer) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
        """See `loss_of`."""
        return loss_of(self.model, images, right, wrong)


@torch.no_grad()
def accuracies(model: ToyScorer, pairs: Pairs) -> dict[str, float]:
    """Return two-way accuracy against one-fact negatives and yes/no accuracy on both halves."""
    model.eval()
    pixels = pairs.images.float() / 255
    yes = model.score(pixels, pairs.right[:, 0])
    no = torch.stack([model.score(pixels, pairs.wrong[:, i]) for i in range(CHANGED)], dim=1)
    out = {"two_way": float((yes[:, None] > no).float().mean())}
    if isinstance(model, ToyVqa):
        out["yes_no"] = float(((yes > 0.5).float().mean() + (no < 0.5).float().mean()) / 2)
    return out


def shifted(pixels: Tensor, uniform: Tensor) -> Tensor:
    """Return a batch moved by up to three pixels each way, edges repeated: no object reaches the border.

    Args:
        uniform: float32 [2] in [0, 1), which decides the move.
    """
    side = pixels.shape[-1]
    y, x = (uniform * 7).long().tolist()
    return F.pad(pixels, (3, 3, 3, 3), mode="replicate")[..., y : y + side, x : x + side]


def one_cycle(step: int, last: int) -> float:
    """Return the rate of an update: a cosine rise over 30 % from RATE / 25, then a cosine fall to RATE / 250,000.

    Source: Smith and Topin 2017 (arXiv 1708.07120), with a cosine in place of the lines.
    """
    peak, end = 0.3 * last - 1, last - 1
    low, share = (RATE / 25, step / peak) if step <= peak else (RATE / 250_000, (end - step) / (end - peak))
    return low + (RATE - low) * (1 - math.cos(math.pi * share)) / 2


def train(name: str, pairs: Pairs, epochs: int, towers: Path | None = None) -> ToyScorer:
    """Train one scorer, from given towers if there are any; the mean loss is printed every epoch."""
    torch.manual_seed(0)
    model: ToyScorer = ToyClip() if name == "toy_clipscore" else ToyVqa()
    if towers is not None:
        known = {key: value for key, value in load_file(towers).items() if key != "log_scale"}
        model.load_state_dict(known, strict=False)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = steps_per_epoch(len(pairs), BATCH)
    optim = compose(
        "shapes", overrides=["optim.weight_decay=0.05", "optim.betas=[0.9, 0.999]", "optim.eps=1e-8"]
    ).config.optim
    state = TrainState.begin(
        Trained(Contrast(model)),
        lambda parameters: adamw(parameters, optim),
        lambda step: one_cycle(step, epochs * steps),
        ema_decay=0.0,
        grad_clip=CLIP,
    )

    def step_loss(batch: Batch, noise: PositionalNoise) -> dict[str, Tensor]:
        assert batch.image is not None
        turn = state.step // steps % CHANGED
        pixels = shifted(batch.image.float() / 255, noise.uniform("shift", (2,))[0])
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        return {"contrast": state.net(pixels, pairs.right[batch.label, turn], pairs.wrong[batch.label])}

    total = 0.0
    for values in updates(state, step_loss, batches(pairs, seed=0, batch_size=BATCH), epochs * steps, seed=0):
        total += values["loss/contrast"].item()
        if state.step % steps == 0:
            print(f"{name} epoch {state.step // steps} loss {total / steps:.3f}", flush=True)
            total = 0.0
    return model


def ship(model: ToyScorer, name: str, held: Pairs, epochs: int, out: Path) -> None:
    """Round a scorer to 16 bits, check it, and write it with its line in `toy_scorers.json`."""
    weights = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in model.state_dict().items()
    }
    model.load_state_dict(weights)
    found = {key: round(value, 4) for key, value in accuracies(model, held).items()}
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
        model = train(name, pairs, EPOCHS[name], towers)
        ship(model, name, held, EPOCHS[name], out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES, help="which scorers; default both")
    parser.add_argument("--out", type=Path, default=FOLDER)
    arguments = parser.parse_args()
    main(arguments.names, arguments.out)
