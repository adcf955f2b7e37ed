"""The colour of each detected object: by CLIP on the object cut out (arXiv 2310.11513), or by a rule on its pixels."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F

from diffusionbench.benchmarks.geneval import (
    CLIP_COLOURS,
    COLOURS,
    ORIGINAL_COLOURS,
    SSD_COLOURS,
    UPSTREAM_COLOURS,
)
from diffusionbench.benchmarks.geneval.score import RENAMED, Rule
from diffusionbench.judges import Unjudged, hub
from diffusionbench.judges.clip import PREPROCESSING, ClipEncoder
from diffusionbench.judges.float32 import PRECISION, in_float32
from diffusionbench.judges.instances import mask_of
from diffusionbench.judges.judge import Evidence, Judge, Needs
from diffusionbench.sample import Item

# In the order in which ties are decided; nobody asks for grey.
WORDS: Final = (*COLOURS, "grey")
_CHROMATIC: Final = COLOURS.index("black")
# sRGB to XYZ over the white point D65.
_XYZ: Final = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
) / np.array([[0.95047], [1.0], [1.08883]])
BACKGROUND: Final = 0x99


def to_lab(pixels: np.ndarray) -> np.ndarray:
    """Return CIELAB (D65) of sRGB pixels uint8 [n, 3]: float64 [n, 3]."""
    rgb = pixels / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = linear @ _XYZ.T
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1)


def words_of(pixels: np.ndarray) -> np.ndarray:
    """Return the colour word of each pixel uint8 [n, 3], as places in `WORDS`: lightness, chroma and hue decide."""
    lightness, a, b = to_lab(pixels).T
    chroma, hue = np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360
    red, after = (hue < 47) | (hue >= 340), hue >= 340
    base = np.select([red, hue < 78, hue < 106, hue < 195, hue < 308], range(5), 5)
    orange, yellow, purple = base == 1, base == 2, base == 5
    brown = ((orange | yellow) & (lightness < 58)) | (orange & (chroma < 35))
    brown |= red & ~after & (lightness < 40) & (chroma < 35)
    pink = (red & (lightness > 62)) | (red & after & (lightness > 45)) | (purple & (lightness > 70))
    word = np.select([brown, pink, red & after], [WORDS.index(name) for name in ("brown", "pink", "purple")], base)
    grey = np.select([lightness < 32, lightness > 72], [WORDS.index("black"), WORDS.index("white")], len(WORDS) - 1)
    return np.where((chroma < 14) | (lightness < 14), grey, word)


def vote(pixels: np.ndarray, chromatic: float) -> str:
    """Return the word of pixels uint8 [n, 3]: the commonest chromatic one from a share of such pixels on."""
    votes = np.bincount(words_of(pixels), minlength=len(WORDS))
    coloured, plain = votes[:_CHROMATIC], votes[_CHROMATIC:]
    if coloured.sum() >= chromatic * votes.sum():
        return WORDS[int(coloured.argmax())]
    return WORDS[_CHROMATIC + int(plain.argmax())]


class BoxColours(Judge):
    """A judge of what the judge that it uses has found; what that one cannot judge, it cannot either."""

    @abstractmethod
    def row(self, image: np.ndarray, item: Item, boxes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the row of one image uint8 [H, W, 3] with its detections."""

    @in_float32()
    def __call__(
        self, images: np.ndarray, items: Sequence[Item] = (), given: Mapping[str, Evidence] | None = None
    ) -> list[dict[str, Any] | Unjudged]:
        """Return a row for each image, given its detections."""
        boxes: Any = (given or {})[self.spec.uses[0]]
        return [
            found if isinstance(found, Unjudged) else self.row(image, item, found["boxes"])
            for image, item, found in zip(images, items, boxes, strict=True)
        ]


class PixelColours(BoxColours):
    """Judge `ssd_colours`: {"colours": [word, ...]}, one for each box of `coco_ssd`, by the pixels of its middle."""

    spec = SSD_COLOURS
    preprocessing = "CIELAB (sRGB, D65) of the middle of each box"

    def __init__(self, device: str = "cpu", options: Mapping[str, Any] | None = None) -> None:
        super().__init__(device, options)
        self.digest = self.digest_of(["colour words by lightness, chroma and hue", 1])

    def row(self, image: np.ndarray, item: Item, boxes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """See `BoxColours.row`."""
        return {"colours": [vote(self._middle(image, one["box"]), self.options["chromatic"]) for one in boxes]}

    def _middle(self, image: np.ndarray, box: Sequence[float]) -> np.ndarray:
        margin = (1 - self.options["middle"]) / 2
        spans = []
        for i, length in ((1, image.shape[0]), (0, image.shape[1])):
            inset = margin * (box[i + 2] - box[i])
            start = min(max(0, math.floor(box[i] + inset)), length - 1)
            spans.append(slice(start, max(start + 1, math.ceil(box[i + 2] - inset))))
        return image[spans[0], spans[1]].reshape(-1, 3)


class ClipColours(BoxColours):
    """Judge `clip_colours`: {"colours": [word or None, ...], "similarities": [...]}, one for each instance.

    Instances of the classes whose colour the prompt names are classified, as far as GenEval can look at them.
    """

    spec = CLIP_COLOURS
    preprocessing = f"instance on #999999, cropped to its box; {PREPROCESSING}"

    def __init__(self, device: str = "cpu", options: Mapping[str, Any] | None = None) -> None:
        super().__init__(device, options)
        self._encoder = ClipEncoder(self.spec, device)
        facts = {"weights": self._encoder.digest, "input": self.preprocessing, "given": self.spec.uses}
        self.digest = self.digest_of({**facts, "precision": PRECISION})

    @classmethod
    def check(cls) -> Needs:
        """See `Judge.check`."""
        return hub.check(cls.spec, memory_mb=2000)

    @classmethod
    def questions(cls, item: Item) -> tuple[str, ...]:
        """See `Judge.questions`: the classes whose colour is asked for."""
        return tuple(sorted({one["class"] for one in item.detail.get("include", ()) if "color" in one}))

    def row(self, image: np.ndarray, item: Item, boxes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """See `BoxColours.row`."""
        asked = self.questions(item)
        seen = [self._classify(image, one, asked) for one in boxes]
        return {"colours": [word for word, _ in seen], "similarities": [values for _, values in seen]}

    def _classify(
        self, image: np.ndarray, found: Mapping[str, Any], asked: Sequence[str]
    ) -> tuple[str | None, list[float] | None]:
        """Return the word of an instance and its similarity to each of `COLOURS`; None where nothing is asked."""
        name = RENAMED.get(found["label"], found["label"])
        x0, y0, x1, y1 = (round(one) for one in found["box"])
        if name not in asked or found["score"] <= Rule.least or x1 <= x0 or y1 <= y0:
            return None, None
        cut = np.where(mask_of(found, image.shape[:2])[..., None], image, np.uint8(BACKGROUND))[y0:y1, x0:x1]
        similarities = (self._texts(name) @ self._encoder.image(np.ascontiguousarray(cut))).tolist()
        return COLOURS[int(np.argmax(similarities))], similarities

    def _texts(self, name: str) -> torch.Tensor:
        """Return the vector of each colour of a class: the mean of three prompts, float32 [10, d]."""
        forms = ("a photo of a {} {}", "a photo of a {}-colored {}", "a photo of a {} object")
        vectors = [[self._encoder.text(form.format(colour, name)) for form in forms] for colour in COLOURS]
        return F.normalize(torch.stack([torch.stack(three).mean(dim=0) for three in vectors]), dim=1)


class ClipColoursUpstream(ClipColours):
    """The same given instances with inclusive boxes."""

    spec = UPSTREAM_COLOURS


class ClipColoursOriginal(ClipColours):
    """The same given instances with bilinear masks."""

    spec = ORIGINAL_COLOURS
