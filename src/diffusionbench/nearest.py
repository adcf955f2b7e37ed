"""Memorisation: the training image nearest to each image in the features of `efflite0`, against held-out images.

The ratio of an image is its distance to the nearest training image over the median of the held-out images' distances:
near 0 for copies, near 1 for images as new as real ones. Source: Meehan et al. 2020 (arXiv 2004.05675), for comparing
with held-out images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from diffusionbench.errors import RequestError
from diffusionbench.judges import JUDGES
from diffusionbench.judges.judge import Judge
from diffusionbench.judges.selftest import self_test
from diffusionbench.judging import Progress
from diffusionbench.references.opening import ImageReference
from diffusionbench.views import viewer

JUDGE: Final = "efflite0"
# Held-out images that set the scale, and rows of one tile of distances: 64 MB.
_HELD_OUT: Final = 2000
_ROWS, _COLUMNS = 1000, 8192
# Share of held-out images that lie nearer than an image which is called near.
_NEAR: Final = 0.01


@dataclass(frozen=True)
class Nearest:
    """Images with their nearest training images.

    Attributes:
        images, train: both sets, opened.
        places: number of the nearest training image of each image, [n].
        ratios: see the module, [n].
        near: ratio below which only 1 % of the held-out images lie.
        scale: which images were held out, in words.
    """

    images: ImageReference
    train: ImageReference
    places: np.ndarray
    ratios: np.ndarray
    near: float
    scale: str

    @property
    def order(self) -> list[int]:
        """Numbers of the images, the lowest ratio first."""
        return np.argsort(self.ratios, kind="stable").tolist()

    @property
    def notes(self) -> list[str]:
        """The finding in sentences."""
        low, middle = np.quantile(self.ratios, [0.01, 0.5])
        count = int((self.ratios < self.near).sum())
        return [
            f"{len(self.ratios):,} images of {self.images.name} against {self.train.count:,} of {self.train.name}: "
            f"ratio {middle:.3g} in the middle, {low:.3g} at 1 %; the scale is {self.scale}.",
            f"{count:,} images ({count / len(self.ratios):.1%}) lie nearer to a training image (ratio below "
            f"{self.near:.3g}) than 99 % of the held-out images do.",
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        found = [[self.images.keys[k], self.train.keys[self.places[k]], float(self.ratios[k])] for k in self.order]
        return {"near": self.near, "scale": self.scale, "nearest": found}

    def as_text(self) -> str:
        """Return the finding and the ten images with the lowest ratio."""
        named = [f"  {ratio:.3f}  {image} - {partner}" for image, partner, ratio in self.as_dict()["nearest"][:10]]
        return "\n".join([*self.notes, "lowest ratios:", *named])

    def page(self) -> str:
        """Return a page of the images beside their nearest training images, the lowest ratio first."""
        cards = []
        for k in self.order[: viewer.MOST]:
            sides = ((self.images, k), (self.train, int(self.places[k])))
            cards.append(
                {
                    "title": self.images.keys[k],
                    "text": "",
                    "task": "",
                    "verdict": "near a training image" if self.ratios[k] < self.near else "as far as held-out images",
                    "score": float(self.ratios[k]),
                    "images": [viewer.picture(of.pixels(place), of.keys[place]) for of, place in sides],
                    "answers": [],
                    "facts": [],
                }
            )
        notes = self.notes
        if len(self.ratios) > viewer.MOST:
            notes.append(f"Shown are the {viewer.MOST:,} with the lowest ratios; the others are left out.")
        return viewer.page(f"{self.images.name} and its nearest training images", notes, cards)


def find_nearest(
    images: Path, train: Path, held_out: Path | None = None, device: str = "cpu", progress: Progress | None = None
) -> Nearest:
    """Return the nearest training image of each image.

    Args:
        images, train: folders or archives.
        held_out: images of the training set's kind that are not in it, of which at most 2,000 set the scale; None:
            training images, each against the others.

    Raises:
        UserError: if there are no images, one cannot be read, or the judge is not here.
        RunError: if the judge fails its self-test.
    """
    judge: Judge = JUDGES.load(JUDGE)(device)
    self_test(judge, device)
    sets = [ImageReference(path) for path in (images, train, *([held_out] if held_out else []))]
    features = []
    for done, one in enumerate(sets):
        if progress:
            progress("judged sets", done, len(sets))
        features.append(one.features(judge))
    made, real = features[:2]
    drawn = np.random.default_rng(0).permutation(len(features[-1]))[:_HELD_OUT]
    _, apart = _nearest(features[-1][drawn], real, drawn if held_out is None else None)
    if not np.isfinite(apart).all() or np.median(apart) == 0:
        raise RequestError(
            f"the held-out images do not give a scale: most of them are also in {train}, or it has one image alone. "
            "Name others with --held-out."
        )
    places, distances = _nearest(made, real)
    held = f"{len(drawn):,} {'held-out' if held_out else 'training'} images{'' if held_out else ' against the others'}"
    scale = float(np.median(apart))
    return Nearest(sets[0], sets[1], places, distances / scale, float(np.quantile(apart, _NEAR)) / scale, held)


def _nearest(x: np.ndarray, y: np.ndarray, own: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return number of the nearest row of y [m, d] and distance to it, of each row of x [n, d].

    Args:
        own: numbers of the rows of y that those of x are, which do not count, [n].
    """
    places, distances = np.zeros(len(x), np.int64), np.full(len(x), np.inf)
    for start in range(0, len(x), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(x)))
        left = x[rows].astype(np.float64)
        for first in range(0, len(y), _COLUMNS):
            right = y[first : first + _COLUMNS].astype(np.float64)
            squared = (left**2).sum(1)[:, None] + (right**2).sum(1) - 2 * left @ right.T
            if own is not None:
                squared[own[rows, None] == np.arange(first, first + len(right))] = np.inf
            best = squared.argmin(1)
            found = squared[np.arange(len(rows)), best]
            nearer = found < distances[rows]
            places[rows[nearer]], distances[rows[nearer]] = first + best[nearer], found[nearer]
    # Rounding leaves equal rows a little apart.
    floor = 1e-13 * max(float((x.astype(np.float64) ** 2).sum(1).max()), 1e-300)
    return places, np.sqrt(np.where(distances < floor, 0.0, distances))
