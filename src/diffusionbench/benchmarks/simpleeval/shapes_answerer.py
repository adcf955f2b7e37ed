"""The weak scorer of the `shapes` world: two hand-written readers, three damaged views, two votes of three."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from diffusionbench.benchmarks.simpleeval import shapes_views
from diffusionbench.benchmarks.simpleeval.answers import Panel
from diffusionbench.benchmarks.simpleeval.blocks import Prompt
from diffusionbench.benchmarks.simpleeval.pixels import SIDE, resize
from diffusionbench.benchmarks.simpleeval.readers import read_components, read_filters
from diffusionbench.benchmarks.simpleeval.reading import Reading, answer

SOURCES = {
    "components": ("reader_components.py", "reading.py", "bands.py", "pixels.py", "shapes_views.py"),
    "filters": ("reader_filters.py", "reading.py", "bands.py", "pixels.py", "shapes_views.py", "shapes.py"),
}


def mirrored(reading: Reading) -> Reading:
    """What a reader of the mirror image would have seen in the image itself."""
    objects = tuple(replace(found, x=SIDE - 1 - found.x) for found in reading.objects)
    return replace(reading, objects=objects)


def readings(image: np.ndarray, undamaged: bool = True) -> list[list[Reading]]:
    """What each reader sees in the undamaged image and in each view: [2][1 + V], or [2][V] without it.

    Args:
        image: uint8 [H, W, 3].
        undamaged: whether the image itself is read, which only guard G3 needs.
    """
    native = min(image.shape[:2])
    image = np.ascontiguousarray(resize(image))
    copies, flips = shapes_views.views(image), shapes_views.MIRRORED
    if undamaged:
        copies, flips = [image, *copies], (False, *flips)
    out = []
    for read in (read_components, read_filters):
        seen = [read(copy, native) for copy in copies]
        out.append([mirrored(one) if flip else one for one, flip in zip(seen, flips, strict=True)])
    return out


class ShapesAnswerer:
    """Both readers on all views."""

    panel = Panel(need=2, mirrored=shapes_views.MIRRORED, names=("components", "filters"))

    def __init__(self) -> None:
        here = Path(__file__).parent
        self.digests = {
            name: hashlib.sha256(b"".join((here / file).read_bytes() for file in files)).hexdigest()
            for name, files in SOURCES.items()
        }

    def votes(self, images: Sequence[np.ndarray], prompts: Sequence[Prompt]) -> list[np.ndarray]:
        """See `answers.Answerer`."""
        return [self._votes(image, prompt) for image, prompt in zip(images, prompts, strict=True)]

    @staticmethod
    def _votes(image: np.ndarray, prompt: Prompt) -> np.ndarray:
        return votes_of(readings(image), prompt)


def votes_of(seen: Sequence[Sequence[Reading]], prompt: Prompt) -> np.ndarray:
    """Votes int8 [2, copies, Q] that follow from what the readers saw."""
    votes = [
        [[answer(one, question, prompt.facts) for question in prompt.questions] for one in reader] for reader in seen
    ]
    return np.asarray(votes, np.int8)
