"""Upper bounds of the numbers that users type: one table for the options of both programs and for configs.

A bound lies far above what anybody has used and far below what a machine dies of; it catches the slip of a finger and
the hostile file before anything is allocated. Nothing here imports torch.
"""

from __future__ import annotations

import math
from typing import Final

from diffusionbench.errors import RequestError

# torch and every file format of ours keep seeds as signed 64-bit integers.
SEED: Final = 2**63 - 1
# Two hundred times the 50,000 images of a published FID.
IMAGES: Final = 10_000_000
# Fifty times the labels of the largest public sets of classes.
CLASSES: Final = 1_000_000
# Larger pictures than any camera's; a square one of this side takes 3 GB.
SIDE: Final = 32_768
# Images of one optimizer step or of one call: sixteen times the largest published batches.
BATCH: Final = 1_048_576
# A thousand times the steps that samplers are compared at.
SOLVER_STEPS: Final = 100_000
# Blocks, heads, tokens and widths: an order of magnitude above the largest published transformers.
DEPTH: Final = 1_024
HEADS: Final = 1_024
TOKENS: Final = 65_536
WIDTH: Final = 131_072
# What those multiply to: more than any network, and a square picture of 2,048 patches a side.
PARAMETERS: Final = 10**12
IMAGE_TOKENS: Final = 2**22
# A process each; machines refuse more.
WORKERS: Final = 1_024
# Steps of a timing, resamples, rows of a list: hours of work.
REPEATS: Final = 1_000_000
# Strength of guidance; published ones end at about 20.
GUIDANCE: Final = 1_000.0
# Shifts, deviations and weights: far outside of what trains.
FACTOR: Final = 1e6
# Of a rate: float32 ends at 3.4e38. Rates at which training diverges are a matter of the run.
LARGEST: Final = 3e38
# Steps, epochs or images of a duration.
DURATION: Final = 10**12
# MiB: a petabyte.
MEMORY: Final = 2**30


def number(value: float | None) -> float | None:
    """Return a number; the callback of an option, as NaN is neither below nor above any bound.

    Raises:
        RequestError: if it is NaN.
    """
    if value is not None and math.isnan(value):
        raise RequestError(f"found {value}, which is no number. Give one.")
    return value
