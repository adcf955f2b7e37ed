"""Seeds: every random stream comes from (seed, purpose, integers), never from what ran before it."""

from __future__ import annotations

import hashlib

import numpy as np


def seed_sequence(seed: int, purpose: str, *index: int) -> np.random.SeedSequence:
    """The seed of one stream; streams of different purposes or integers are independent."""
    name = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    return np.random.SeedSequence([seed, name, *index])
