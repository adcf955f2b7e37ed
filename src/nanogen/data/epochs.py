"""Compute the places of a data set's indices in the endless sequence of a run.

A data set is one component, or several that are mixed by weight. Each is passed over in epochs without replacement.
Its images may lie in blocks that are stored together, such as tar shards: then the blocks are shuffled, taken in
groups, and the images of a group are shuffled together, so that reading stays in a few files at a time. Everything is a
function of (seed, epoch) or of (seed, position): no state, and nothing to save but the step.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np

from diffusionbench.errors import ConfigError
from nanogen.data import Component
from nanogen.rng import seed_sequence

# Blocks are grouped until a group has this many images: far more than one batch, and about ten shards of web data.
GROUP = 2**16
# Larger components without blocks are permuted place by place: a list of their indices would take 512 MB and more.
LISTED = 2**26
ROUNDS = 6
# Shares of a mixture are whole numbers of 2^-30, so that counting is exact up to MAX_POSITION in 64 bits.
SHARE_BITS = 30
MAX_POSITION = 2**32


@functools.lru_cache(maxsize=8)
def epoch_order(size: int, seed: int, epoch: int, number: int = 0) -> np.ndarray:
    """Return the permutation int64 [size] of one pass over component `number` (methods 8.1: without replacement)."""
    order = _generator("order", seed, epoch, number).permutation(size)
    order.flags.writeable = False
    return order


def epoch_slice(component: Component, seed: int, epoch: int, places: np.ndarray, number: int = 0) -> np.ndarray:
    """Return the indices int64 within component `number` that stand at some places of one pass over it.

    Args:
        places: int64 in [0, component.size), in ascending order.
    """
    if component.blocks is None and component.size > LISTED:
        return permuted(places, component.size, seed, epoch, number)
    if component.blocks is None:
        return epoch_order(component.size, seed, epoch, number)[places]
    _, starts = _groups(component, seed, epoch, number)
    groups = np.searchsorted(starts, places, side="right") - 1
    chosen = [
        _group_order(component, seed, epoch, number, int(group))[places[groups == group] - starts[group]]
        for group in np.unique(groups)
    ]
    return np.concatenate(chosen) if chosen else np.empty(0, np.int64)


def permuted(places: np.ndarray, size: int, seed: int, epoch: int, number: int = 0) -> np.ndarray:
    """Return the images of a permutation of 0 ... size - 1 at some places, int64, in memory that does not grow with it.

    A Feistel network permutes the smallest square power of 4 that holds `size`; what falls outside is permuted on.

    Sources: Luby and Rackoff 1988 (doi 10.1137/0217022); cycle walking: Black and Rogaway 2002 (doi
    10.1007/3-540-45760-7_9); the round function is the finaliser of splitmix64, Steele et al. 2014 (doi
    10.1145/2660193.2660195).
    """
    bits = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    mask = np.uint64((1 << int(bits)) - 1)
    keys = _generator("order without a list", seed, epoch, number).integers(0, 2**64, ROUNDS, np.uint64)
    found = places.astype(np.uint64)
    waiting = np.arange(len(found))
    while len(waiting):
        left, right = found[waiting] >> bits, found[waiting] & mask
        for key in keys:
            word = right ^ key
            for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
                word = (word ^ (word >> np.uint64(shift))) * np.uint64(factor)
            left, right = right, left ^ ((word ^ (word >> np.uint64(31))) & mask)
        found[waiting] = left << bits | right
        waiting = waiting[found[waiting] >= size]
    return found.astype(np.int64)


@functools.lru_cache(maxsize=64)
def _groups(component: Component, seed: int, epoch: int, number: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the block numbers of each group in the order of one pass, and the place where each group starts."""
    blocks = np.array(component.blocks, np.int64)
    shuffled = _generator("order of blocks", seed, epoch, number).permutation(len(blocks))
    ends = np.cumsum(blocks[shuffled])
    cuts, start = [0], 0
    while start < component.size:
        # A small rest goes into the group before it.
        wanted = start + GROUP if component.size - start >= 2 * GROUP else component.size
        cuts.append(int(np.searchsorted(ends, wanted)) + 1)
        start = int(ends[cuts[-1] - 1])
    starts = np.array([0, *ends])[cuts[:-1]]
    return [shuffled[first:last] for first, last in itertools.pairwise(cuts)], starts


@functools.lru_cache(maxsize=64)
def _group_order(component: Component, seed: int, epoch: int, number: int, group: int) -> np.ndarray:
    firsts = np.cumsum([0, *(component.blocks or ())])
    blocks = _groups(component, seed, epoch, number)[0][group]
    indices = np.concatenate([np.arange(firsts[block], firsts[block + 1]) for block in blocks])
    return _generator("order in a group", seed, epoch, number, group).permutation(indices)


def _generator(purpose: str, seed: int, epoch: int, number: int, *index: int) -> np.random.Generator:
    return np.random.default_rng(seed_sequence(seed, purpose, epoch, *([number] if number else []), *index))


def mixed(components: tuple[Component, ...], seed: int, first: int, count: int) -> np.ndarray:
    """Return the indices int64 [count] at the positions from `first` on of an endless mixture.

    Components are drawn in proportion to their weights with low discrepancy: after any number of positions each was
    drawn as often as its share says, to within the number of components. Each walks its own epochs.

    Raises:
        ConfigError: if the run is longer than 2^32 images.
    """
    if first + count > MAX_POSITION:
        raise ConfigError(f"a mixture of folders counts up to {MAX_POSITION:,} images. Shorten train.duration.")
    indices = np.empty(count, np.int64)
    offsets = np.cumsum([0, *(component.size for component in components)])
    drawn = _draw_counts(components, seed, np.arange(first, first + count + 1))
    for number, component in enumerate(components):
        here = np.flatnonzero(np.diff(drawn[number]))
        epochs, places = np.divmod(drawn[number][here], component.size)
        for epoch in np.unique(epochs):
            of_epoch = epochs == epoch
            chosen = epoch_slice(component, seed, int(epoch), places[of_epoch], number)
            indices[here[of_epoch]] = offsets[number] + chosen
    return indices


def _draw_counts(components: tuple[Component, ...], seed: int, lengths: np.ndarray) -> list[np.ndarray]:
    """Return for each component how often it was drawn in the first n positions, for each n in `lengths`.

    The first component gets its share of all positions, the second its share of those left, and so on:
    floor(n a + u) with a seeded offset u rises by 0 or 1 and is known for any n at once.
    """
    offsets = np.random.default_rng(seed_sequence(seed, "mixture")).integers(0, 2**SHARE_BITS, len(components))
    left, weight_left = lengths.astype(np.int64), sum(component.weight for component in components)
    drawn = []
    for component, offset in zip(components[:-1], offsets, strict=False):
        share = min(2**SHARE_BITS, max(1, round(component.weight / weight_left * 2**SHARE_BITS)))
        drawn.append((left * share + int(offset)) >> SHARE_BITS)
        left = left - drawn[-1]
        weight_left -= component.weight
    return [*drawn, left]
