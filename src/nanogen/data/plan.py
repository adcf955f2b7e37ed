"""How the indices of a data set lie, and which of them stand where in the endless sequence of a run.

A data set is one part, or several that are mixed by weight. A part is passed over in epochs without replacement. The
images of a part may lie in blocks that are stored together, such as tar shards: then the blocks are shuffled, taken in
groups, and the images of a group are shuffled together, so that reading stays in a few files at a time. Everything is
a function of (seed, epoch) or of (seed, position): no state, and nothing to save but the step.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from diffusionbench.errors import ConfigError
from nanogen.rng import seed_sequence

# Blocks are grouped until a group has this many images: far more than one batch, and about ten shards of web data.
GROUP = 2**16
# Shares of a mixture are whole numbers of 2^-30, so that counting is exact up to MAX_POSITION in 64 bits.
SHARE_BITS = 30
MAX_POSITION = 2**32


@dataclass(frozen=True)
class Part:
    """One component of a data set; its indices follow those of the part before.

    Attributes:
        size: images in it.
        weight: its share of the sequence, relative to the other parts.
        blocks: sizes of runs of indices that are stored together, in order, or None where storage does not matter.
    """

    size: int
    weight: float = 1.0
    blocks: tuple[int, ...] | None = None


@runtime_checkable
class InParts(Protocol):
    """A data set that says how its indices lie."""

    @property
    def parts(self) -> tuple[Part, ...]: ...


def parts_of(dataset: object, size: int) -> tuple[Part, ...]:
    """Return the parts of a data set; one where it names none."""
    return dataset.parts if isinstance(dataset, InParts) else (Part(size),)


@functools.lru_cache(maxsize=8)
def epoch_order(size: int, seed: int, epoch: int, number: int = 0) -> np.ndarray:
    """Return the permutation int64 [size] of one pass over part `number` (methods 8.1: without replacement)."""
    order = _generator("order", seed, epoch, number).permutation(size)
    order.flags.writeable = False
    return order


def epoch_slice(part: Part, seed: int, epoch: int, places: np.ndarray, number: int = 0) -> np.ndarray:
    """Indices int64 within a part that stand at some places of one pass over it.

    Args:
        part: the part.
        seed: seed of the run.
        epoch: number of the pass.
        places: int64 in [0, part.size), in ascending order.
        number: of the part in its data set.
    """
    if part.blocks is None:
        return epoch_order(part.size, seed, epoch, number)[places]
    _, starts = _groups(part, seed, epoch, number)
    groups = np.searchsorted(starts, places, side="right") - 1
    chosen = [
        _group_order(part, seed, epoch, number, int(group))[places[groups == group] - starts[group]]
        for group in np.unique(groups)
    ]
    return np.concatenate(chosen) if chosen else np.empty(0, np.int64)


@functools.lru_cache(maxsize=64)
def _groups(part: Part, seed: int, epoch: int, number: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Block numbers of each group in the order of one pass, and the place where each group starts."""
    blocks = np.array(part.blocks, np.int64)
    shuffled = _generator("order of blocks", seed, epoch, number).permutation(len(blocks))
    ends = np.cumsum(blocks[shuffled])
    cuts, start = [0], 0
    while start < part.size:
        # A small rest goes into the group before it.
        wanted = start + GROUP if part.size - start >= 2 * GROUP else part.size
        cuts.append(int(np.searchsorted(ends, wanted)) + 1)
        start = int(ends[cuts[-1] - 1])
    starts = np.array([0, *ends])[cuts[:-1]]
    return [shuffled[first:last] for first, last in itertools.pairwise(cuts)], starts


@functools.lru_cache(maxsize=64)
def _group_order(part: Part, seed: int, epoch: int, number: int, group: int) -> np.ndarray:
    firsts = np.cumsum([0, *(part.blocks or ())])
    members = [np.arange(firsts[block], firsts[block + 1]) for block in _groups(part, seed, epoch, number)[0][group]]
    return _generator("order in a group", seed, epoch, number, group).permutation(np.concatenate(members))


def _generator(purpose: str, seed: int, epoch: int, number: int, *index: int) -> np.random.Generator:
    return np.random.default_rng(seed_sequence(seed, purpose, epoch, *([number] if number else []), *index))


def mixed(parts: tuple[Part, ...], seed: int, first: int, count: int) -> np.ndarray:
    """Indices int64 [count] at the positions from `first` on of an endless mixture of parts.

    Parts are drawn in proportion to their weights with low discrepancy: after any number of positions each part was
    drawn as often as its share says, to within the number of parts. Each part walks its own epochs.

    Args:
        parts: at least one.
        seed: seed of the run.
        first: position from the start of the run.
        count: how many.

    Raises:
        ConfigError: if the run is longer than 2^32 images.
    """
    if first + count > MAX_POSITION:
        raise ConfigError(f"a mixture of folders counts up to {MAX_POSITION:,} images. Shorten train.duration.")
    indices = np.empty(count, np.int64)
    offsets = np.cumsum([0, *(part.size for part in parts)])
    # How many of the first n draws went to each part, for n = first ... first + count.
    drawn = _draws(parts, seed, np.arange(first, first + count + 1))
    for number, part in enumerate(parts):
        here = np.flatnonzero(np.diff(drawn[number]))
        epochs, places = np.divmod(drawn[number][here], part.size)
        for epoch in np.unique(epochs):
            of_epoch = epochs == epoch
            chosen = epoch_slice(part, seed, int(epoch), places[of_epoch], number)
            indices[here[of_epoch]] = offsets[number] + chosen
    return indices


def _draws(parts: tuple[Part, ...], seed: int, lengths: np.ndarray) -> list[np.ndarray]:
    """For each part, how often it was drawn in the first n positions.

    Part 1 is dealt its share of all positions, part 2 its share of those left, and so on: floor(n a + u) with a seeded
    offset u rises by 0 or 1 and is known for any n at once.
    """
    offsets = np.random.default_rng(seed_sequence(seed, "mixture")).integers(0, 2**SHARE_BITS, len(parts))
    left, weight_left = lengths.astype(np.int64), sum(part.weight for part in parts)
    drawn = []
    for part, offset in zip(parts[:-1], offsets, strict=False):
        share = min(2**SHARE_BITS, max(1, round(part.weight / weight_left * 2**SHARE_BITS)))
        drawn.append((left * share + int(offset)) >> SHARE_BITS)
        left = left - drawn[-1]
        weight_left -= part.weight
    return [*drawn, left]
