"""A text-to-image training step with captions cut to the longest of the batch, against padding them to 256 tokens.

    python benchmarks/text_tokens.py [--steps 10] [--rounds 3] [--batch 32] [--out FILE]

Both run `nanogen.train.updates` at laptop scale on the same batches in turns, each counting with its median; text
states are encoded beforehand on both sides, so that the ratio is the model's. The outputs are compared too.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from nanogen.build import Components, build_components
from nanogen.config import compose
from nanogen.data import Batch
from nanogen.data.order import batches
from nanogen.model.condition import TextCondition
from nanogen.train import build, flow_updates, open_data

LENGTH = 256


class Padded:
    """A conditioner whose sequences all have 256 tokens, the rest of them masked."""

    def __init__(self, inner) -> None:
        self.inner = inner

    def __call__(self, labels: Tensor | None, captions: list[str] | None) -> TextCondition:
        cut = self.inner(labels, captions)
        missing = LENGTH - cut.states.shape[1]
        mask = torch.ones(cut.states.shape[:2], dtype=torch.bool) if cut.mask is None else cut.mask
        return TextCondition(F.pad(cut.states, (0, 0, 0, missing)), F.pad(mask, (0, missing), value=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()

    config = compose("shapes", "pixel-v", overrides=["data.image_size=24", f"train.batch_size={options.batch}"]).config
    data, config = open_data(config)
    cut = build_components(config, "cpu", "float32")
    sides = {"cut": cut, "padded": Components(**{**vars(cut), "conditioner": Padded(cut.conditioner)})}
    loader = batches(data, seed=config.seed, batch_size=options.batch)
    kept = [next(loader) for _ in range(options.steps)]
    lengths = [cut.conditioner(None, batch.caption).states.shape[1] for batch in kept]

    seconds: dict[str, list[float]] = {side: [] for side in sides}
    losses: dict[str, list[float]] = {}
    for turn in range(options.rounds + 1):
        for side, parts in sides.items():
            state = build(config, parts, len(data))
            start = time.perf_counter()
            values = [one["loss/flow"] for one in flow_updates(state, parts, config, repeat(kept), options.steps)]
            if turn:  # The first turn warms up.
                seconds[side].append((time.perf_counter() - start) / options.steps)
            losses[side] = [value.item() for value in values]
    worst = max(abs(a - b) / b for a, b in zip(losses["cut"], losses["padded"], strict=True))
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    text = (
        f"| | seconds a step |\n|---|---|\n| padded to {LENGTH} tokens | {medians['padded']:.3f} |\n"
        f"| cut to the longest of the batch ({statistics.mean(lengths):.0f} on average) | {medians['cut']:.3f} |\n\n"
        f"Cut sequences are {medians['padded'] / medians['cut']:.2f}x faster; losses over {options.steps} steps agree "
        f"to {worst:.1e}.\n\nLaptop scale, batch {options.batch}, float32, {torch.get_num_threads()} thread(s), "
        f"median of {options.rounds} turns; {os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, "
        f"{datetime.now(UTC):%Y-%m-%d}.\n"
    )
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


def repeat(kept: list[Batch]) -> Iterator[Batch]:
    while True:
        yield from kept


if __name__ == "__main__":
    main()
