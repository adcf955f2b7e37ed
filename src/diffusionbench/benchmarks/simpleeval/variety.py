"""How much the images of one prompt differ: thumbnails for distance, difference hashes for near-copies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from diffusionbench.benchmarks.simpleeval.blocks import PromptSet
from diffusionbench.benchmarks.simpleeval.pixels import LUMA, resize

THUMBNAIL: Final = 8
NEAR: Final = 2


@dataclass
class Looks:
    """Small descriptions of every image; memory is 200 numbers an image.

    Attributes:
        vectors: prompt id -> k -> float32 [d].
        hashes: prompt id -> k -> bool [64].
    """

    vectors: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)
    hashes: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)

    def add(self, prompt_id: str, k: int, image: np.ndarray, vector: np.ndarray | None = None) -> None:
        """Take one image, uint8 [H, W, 3]; `vector` replaces its thumbnail as what distance is measured on."""
        if vector is None:
            vector = resize(image, THUMBNAIL).astype(np.float32).ravel()
        self.vectors.setdefault(prompt_id, {})[k] = vector
        self.hashes.setdefault(prompt_id, {})[k] = difference_hash(image)


@dataclass(frozen=True)
class Variety:
    """Attributes:
    within, between: mean distance between images of one prompt; of different prompts (neighbours in the set).
    near_copies: share of prompts with two images whose hashes differ in at most two bits.
    """

    within: float
    between: float
    near_copies: float

    @property
    def ratio(self) -> float:
        """Variety within a prompt against that between prompts; 0 for a collapsed generator."""
        return self.within / self.between if self.between > 0 else 0.0


def difference_hash(image: np.ndarray) -> np.ndarray:
    """Whether brightness rises to the right in an 8 x 9 thumbnail: bool [64]."""
    grey = resize(image, 9).astype(np.float32) @ LUMA
    return (np.diff(grey[:8], axis=1) > 0).ravel()


def variety(looks: Looks, prompt_set: PromptSet) -> Variety | None:
    """Variety over a set, or None with fewer than two images a prompt."""
    within, between, copies = [], [], []
    means = []
    for prompt in prompt_set.prompts:
        vectors = list(looks.vectors.get(prompt.id, {}).values())
        hashes = list(looks.hashes.get(prompt.id, {}).values())
        if not vectors:
            continue
        means.append(vectors[0])
        pairs = [(i, j) for i in range(len(vectors)) for j in range(i)]
        if pairs:
            within.append(np.mean([np.linalg.norm(vectors[i] - vectors[j]) for i, j in pairs]))
            copies.append(any((hashes[i] != hashes[j]).sum() <= NEAR for i, j in pairs))
    # Half a set apart: never twins.
    shift = len(means) // 2
    between = [np.linalg.norm(means[i] - means[i - shift]) for i in range(len(means))] if shift else []
    if not within or not between:
        return None
    return Variety(float(np.mean(within)), float(np.mean(between)), float(np.mean(copies)))


def entropy(counts: np.ndarray) -> float:
    """Entropy of counts over the largest possible, in 0..1; 1 where nothing was counted."""
    total = counts.sum()
    if total == 0:
        return 1.0
    share = counts[counts > 0] / total
    return float(-(share * np.log(share)).sum() / np.log(len(counts)))
