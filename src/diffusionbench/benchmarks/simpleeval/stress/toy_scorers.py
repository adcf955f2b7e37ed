"""Two small learned metrics of the `shapes` world, for the stress harness to attack; never used to score models.

`toy_clipscore` is the cosine of a dual encoder, `toy_vqascore` the probability a yes/no head gives to "does this
picture show the caption?". Both are trained by `tools/train_toy_scorers.py` and travel with the package.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from diffusionbench.benchmarks.simpleeval import shapes_world as world
from diffusionbench.errors import DataError
from diffusionbench.schema import file_digest

SLOTS: Final = 24
WORD_DIM: Final = 32
DIM: Final = 128
FOLDER: Final = Path(__file__).parent
NAMES: Final = ("toy_clipscore", "toy_vqascore")
WORDS: Final = (
    "",
    *sorted(
        {
            *("a", "an", "on", "of", "image", "the", "background", "is", "are", "there", "it", "them"),
            *("left", "right", "above", "below"),
            *world.SHAPES,
            *world.PLURALS.values(),
            *world.COLOURS,
            *world.SIZES,
            *world.COUNTS,
            *world.BACKGROUNDS,
        }
    ),
)
_NUMBER: Final = {word: place for place, word in enumerate(WORDS)}


def tokens(captions: Sequence[str]) -> Tensor:
    """Return word numbers of captions, int64 [B, 24], cut or filled with 0; punctuation is dropped.

    Raises:
        DataError: if a word is not of the shapes world.
    """
    rows = []
    for caption in captions:
        words = caption.lower().replace(".", " ").replace(":", " ").split()[:SLOTS]
        unknown = [word for word in words if word not in _NUMBER]
        if unknown:
            raise DataError(f"caption '{caption}': '{unknown[0]}' is no word of the shapes world. Use its captions.")
        rows.append([_NUMBER[word] for word in words] + [0] * (SLOTS - len(words)))
    return torch.tensor(rows)


class Towers(nn.Module):
    """Image and text towers to vectors of width `DIM`."""

    def __init__(self) -> None:
        super().__init__()
        widths = (5, 24, 48, 96, 128)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GroupNorm(8, after), nn.GELU())
            for before, after in itertools.pairwise(widths)
        )
        # Cells for objects; mean and deviation over places, brought to one scale, for textures.
        self.textures = nn.BatchNorm1d(2 * sum(widths[1:]), affine=False)
        self.image = nn.Linear(128 * 16 + 2 * sum(widths[1:]), DIM)
        self.words = nn.Embedding(len(WORDS), WORD_DIM)
        self.text = nn.Sequential(
            nn.Linear(SLOTS * WORD_DIM, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, DIM)
        )

    def encode_image(self, images: Tensor) -> Tensor:
        """Map float [B, 3, 64, 64] in 0..1 to [B, DIM]."""
        axis = torch.linspace(-1, 1, images.shape[-1], device=images.device)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        places = torch.stack([x, y]).expand(len(images), -1, -1, -1)
        state, pooled = torch.cat([2 * images - 1, places], dim=1), []
        for stage in self.stages:
            state = stage(state)
            variance, mean = torch.var_mean(state, dim=(2, 3))
            pooled += [mean, (variance + 1e-6).sqrt()]
        return self.image(torch.cat([state.flatten(1), self.textures(torch.cat(pooled, dim=1))], dim=1))

    def encode_text(self, numbers: Tensor) -> Tensor:
        """Map int64 [B, 24] to [B, DIM]."""
        return self.text(self.words(numbers).flatten(1))


class ToyClip(Towers):
    """Dual encoder; the score of a pair is a cosine in -1..1."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(2.3))

    def score(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Return scores, float [B]."""
        return F.cosine_similarity(self.encode_image(images), self.encode_text(numbers))


class ToyVqa(Towers):
    """Yes/no head on image, text and their product; the score of a pair is P(yes)."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Linear(3 * DIM, 128), nn.GELU(), nn.Linear(128, 1))

    def logit(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Return scores, float [B]."""
        image, text = self.encode_image(images), self.encode_text(numbers)
        return self.head(torch.cat([image, text, image * text], dim=1))[:, 0]

    def score(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Return P(yes), float [B] in 0..1."""
        return self.logit(images, numbers).sigmoid()


ToyScorer = ToyClip | ToyVqa


@lru_cache(maxsize=2)
def load(name: str) -> ToyScorer:
    """Return a trained scorer, in evaluation mode.

    Raises:
        DataError: if its weights are missing or are not the ones that were shipped.
    """
    path, card = FOLDER / f"{name}.safetensors", FOLDER / "toy_scorers.json"
    facts = json.loads(card.read_text()) if card.exists() else {}
    if not path.exists() or file_digest(path) != facts.get(name, {}).get("sha256"):
        raise DataError(
            f"the weights of {name} are missing or damaged ({path}). "
            "Reinstall the package, or train them in its source tree: python tools/train_toy_scorers.py"
        )
    model: ToyScorer = ToyClip() if name == "toy_clipscore" else ToyVqa()
    model.load_state_dict({key: value.float() for key, value in load_file(path).items()})
    return model.eval().requires_grad_(False)
