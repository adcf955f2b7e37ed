"""Changes to an image that raise a metric without showing more of the requested facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from diffusionbench.benchmarks.simpleeval.bands import CHROMA
from diffusionbench.benchmarks.simpleeval.blocks import Prompt
from diffusionbench.benchmarks.simpleeval.evidence import wanted
from diffusionbench.benchmarks.simpleeval.image_ops import box_mean, chroma_of, grow
from diffusionbench.benchmarks.simpleeval.open_views import blur
from diffusionbench.benchmarks.simpleeval.shapes_scorer import predictions_of, read
from diffusionbench.benchmarks.simpleeval.stream import HashStream, octets
from diffusionbench.benchmarks.simpleeval.stress.toy_scorers import ToyScorer, tokens

STEP: Final = 2 / 255
STEPS: Final = 40


def to_tensor(images: Sequence[np.ndarray]) -> Tensor:
    """Map uint8 [H, W, 3] each to float32 [B, 3, H, W] in 0..1."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255


def to_images(pixels: Tensor) -> list[np.ndarray]:
    """Return the inverse of `to_tensor`, rounded."""
    array = (pixels.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return list(np.ascontiguousarray(array))


def pgd(model: ToyScorer, images: Sequence[np.ndarray], texts: Sequence[str], levels: int) -> list[np.ndarray]:
    """Ascend the score by projected gradients, within `levels` / 255 of each pixel, 40 steps of 2 / 255.

    Source: Madry et al. 2018 (arXiv 1706.06083).
    """
    out = []
    for start in range(0, len(images), 48):
        clean, numbers = to_tensor(images[start : start + 48]), tokens(texts[start : start + 48])
        bound, pixels = levels / 255, clean.clone()
        for _ in range(STEPS):
            pixels.requires_grad_(True)
            (slope,) = torch.autograd.grad(_objective(model, pixels, numbers), pixels)
            pixels = pixels.detach() + STEP * slope.sign()
            pixels = (clean + (pixels - clean).clamp(-bound, bound)).clamp(0, 1)
        out += to_images(pixels)
    return out


def _objective(model: ToyScorer, pixels: Tensor, numbers: Tensor) -> Tensor:
    # A probability near 0 or 1 has no slope left; its logit has.
    logit = getattr(model, "logit", None)
    return (logit or model.score)(pixels, numbers).sum()


def universal(model: ToyScorer, images: Sequence[np.ndarray], texts: Sequence[str], levels: int, steps: int) -> Tensor:
    """Return one perturbation for all images: float32 [3, H, W] within `levels` / 255.

    Source: Moosavi-Dezfooli et al. 2017 (arXiv 1610.08401), by sign gradients over small batches.
    """
    clean, numbers = to_tensor(images), tokens(texts)
    bound = levels / 255
    shared = torch.zeros(clean.shape[1:])
    stream = HashStream("universal", f"{levels}/{steps}")
    for step in range(steps):
        rows = torch.tensor([stream.below(len(clean)) for _ in range(24)])
        shared.requires_grad_(True)
        (slope,) = torch.autograd.grad(_objective(model, (clean[rows] + shared).clamp(0, 1), numbers[rows]), shared)
        rate = 2 * STEP * (1 - step / steps)
        shared = (shared.detach() + rate * slope.sign()).clamp(-bound, bound)
    return shared


def square(image: np.ndarray, prompt: Prompt, levels: int, queries: int, seed: str) -> np.ndarray:
    """Search at random on the readers' predictions for the very questions that are asked; return the best image.

    Starts from the best of the image, random stripes and, where a background is asked for, that background written
    over it. Ends early where every prediction is right: nothing is left to gain.

    Source: square attack, Andriushchenko et al. 2020 (arXiv 1912.00049).
    """
    stream = HashStream(seed, f"square/{prompt.id}/{levels}")
    clean = image.astype(np.int64)
    side = image.shape[0]
    stripes = np.frombuffer(octets(seed, f"stripes/{prompt.id}/{levels}", side * 3), np.uint8).reshape(1, side, 3)
    best = image
    value = _share_right(image, prompt)
    starts = [np.clip(clean + levels * (stripes.astype(np.int64) % 2 * 2 - 1), 0, 255).astype(np.uint8)]
    asked = [question for question in prompt.questions[:2] if question.slot == "background"]
    starts += [one for question in asked for one in written(image, question.options[question.answer], levels)]
    for start in starts:
        found = _share_right(start, prompt)
        if found >= value:
            best, value = start, found
    for query in range(queries - 1 - len(starts)):
        if value == 1:
            break
        size = max(2, round(side * (0.3 * (1 - query / queries)) ** 0.5))
        top, left = stream.below(side - size + 1), stream.below(side - size + 1)
        change = np.asarray([levels * (2 * stream.below(2) - 1) for _ in range(3)])
        trial = best.copy()
        patch = clean[top : top + size, left : left + size] + change
        trial[top : top + size, left : left + size] = np.clip(patch, 0, 255)
        found = _share_right(trial, prompt)
        if found >= value:
            best, value = trial, found
    return best


def _share_right(image: np.ndarray, prompt: Prompt) -> float:
    """Return the share of right predictions, over scorers and damaged views, on the contrasted questions."""
    found = predictions_of(read(image, undamaged=False), prompt)
    return float((found == wanted(prompt))[:, :, :2].mean())


def overlay(images: Sequence[np.ndarray], levels: int) -> list[np.ndarray]:
    """Return one picture for all twins of a block, their mean, moved by at most `levels` / 255 towards each of them.

    Args:
        images: uint8 [H, W, 3] each, four in a row for each block, right by construction.
    """
    blocks = np.stack(images).astype(np.float64).reshape(-1, 4, *images[0].shape)
    centre = blocks.mean(axis=1, keepdims=True)
    moved = np.rint(centre + np.clip(blocks - centre, -levels, levels)).astype(np.uint8)
    return list(moved.reshape(-1, *images[0].shape))


def written(image: np.ndarray, kind: str, levels: int) -> list[np.ndarray]:
    """Write a background over uint8 [64, 64, 3], objects left out; no pixel changed by more than `levels`.

    Patterns of several axes, periods and signs are added as they are, and once more put in place of the old background.
    """
    free = ~grow(chroma_of(box_mean(image)) > CHROMA, 2)
    y, x = np.nonzero(free)
    plane = np.stack([np.ones_like(y), y, x], axis=1).astype(np.float64)
    pixels = image[free].astype(np.float64)
    smooth = plane @ np.linalg.lstsq(plane, pixels, rcond=None)[0]
    changes = []
    for pattern in _patterns(kind):
        wave = pattern[free][:, None]
        # Rendered patterns are 26 to 44 levels from valley to top.
        changes += [levels * wave, np.clip(smooth + 17 * wave - pixels, -levels, levels)]
    out = []
    for change in changes:
        copy = image.copy()
        copy[free] = np.clip(np.rint(pixels + change), 0, 255)
        out.append(copy)
    return out


def _patterns(kind: str) -> list[np.ndarray]:
    """Return a background of the shapes world in -1..1, float64 [64, 64] each; nothing is flat."""
    y, x = np.mgrid[:64, :64]
    if kind == "striped":
        lit = [places // half % 2 for places in (x, y) for half in (4, 5)]
    elif kind == "checkered":
        lit = [(x // cell + y // cell) % 2 for cell in (5, 8)]
    elif kind == "dotted":
        discs = [(x % 8 - 4) ** 2 + (y % 8 - 4) ** 2 <= radius**2 for radius in (2.3, 2.9)]
        lit = [disc == sign for disc in discs for sign in (True, False)]
    else:
        return [np.zeros((64, 64))]
    return [2.0 * one - 1 for one in lit]


#: Look of an image: name -> (neutral, low, high).
LOOKS: Final = {
    "saturation": (1.0, 0.5, 2.0),
    "contrast": (1.0, 0.6, 1.6),
    "sharpness": (0.0, -0.5, 2.0),
    "brightness": (0.0, -0.15, 0.15),
    "blur": (0.0, 0.0, 1.0),
    "hue": (0.0, -0.1, 0.1),
    "vignette": (0.0, 0.0, 0.5),
    "grain": (0.0, 0.0, 12.0),
    "zoom": (1.0, 0.9, 1.1),
    "border": (0.0, 0.0, 3.0),
}


def restyle(image: np.ndarray, look: Mapping[str, float]) -> np.ndarray:
    """Change the look of uint8 [H, W, 3]; missing entries of `LOOKS` stay neutral."""
    values = {name: look.get(name, row[0]) for name, row in LOOKS.items()}
    pixels, side = to_tensor([image]), image.shape[0]
    if values["zoom"] != 1:
        size = round(side * values["zoom"])
        pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        before, after = int((side - size) / 2), side - size - int((side - size) / 2)
        pixels = F.pad(pixels, (before, after, before, after), mode="replicate")
    grey = (pixels * torch.tensor((0.299, 0.587, 0.114)).view(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    pixels = grey + (pixels - grey) * values["saturation"]
    # Colours turn about the grey axis.
    angle = torch.tensor(values["hue"] * 2 * torch.pi)
    mean = torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    turn = torch.cos(angle) * torch.eye(3) + (1 - torch.cos(angle)) * mean + torch.sin(angle) * cross
    pixels = torch.einsum("oc,bchw->bohw", turn, pixels)
    pixels = (pixels - 0.5) * values["contrast"] + 0.5 + values["brightness"]
    soft = blur(pixels[0], 1.0, 3, "replicate")
    pixels = pixels + values["sharpness"] * (pixels - soft)
    if values["blur"] > 0:
        pixels = blur(pixels[0], values["blur"], 3, "replicate")[None]
    axis = torch.linspace(-1, 1, side)
    pixels = pixels * (1 - values["vignette"] * (axis[None] ** 2 + axis[:, None] ** 2) / 2)
    if values["grain"] > 0:
        raw = np.frombuffer(octets("grain", "look", side * side), np.uint8).astype(np.float32).reshape(side, side)
        pixels = pixels + torch.from_numpy(raw / 127.5 - 1) * values["grain"] / 255
    border = round(values["border"])
    if border:
        pixels[..., :border, :] = pixels[..., -border:, :] = 0
        pixels[..., :border] = pixels[..., -border:] = 0
    return to_images(pixels)[0]


def tune_look(value: Callable[[Mapping[str, float]], float], evaluations: int, seed: str) -> dict[str, float]:
    """Climb hills over the ten parameters of `LOOKS`: one is moved at a time, steps shrink."""
    stream = HashStream(seed, "look")
    best = {name: row[0] for name, row in LOOKS.items()}
    top = value(best)
    for trial in range(evaluations - 1):
        name = stream.choice(tuple(LOOKS))
        _neutral, low, high = LOOKS[name]
        reach = (high - low) * (0.5 * (1 - trial / evaluations) + 0.1)
        moved = best[name] + (stream.below(2001) / 1000 - 1) * reach
        look = {**best, name: float(np.clip(moved, low, high))}
        found = value(look)
        if found > top:
            best, top = look, found
    return best


def write_words(image: np.ndarray, text: str, scale: int, mirrored: bool) -> np.ndarray:
    """Write a text over uint8 [H, W, 3] in white on dark with Pillow's bitmap font, in one of three sizes."""
    side = image.shape[1]
    canvas = Image.new("L", (side // scale, image.shape[0] // scale), 0)
    font = ImageFont.load_default_imagefont()
    lines, line = [], ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if font.getbbox(longer)[2] <= canvas.width or not line:
            line = longer
        else:
            lines.append(line)
            line = word
    draw = ImageDraw.Draw(canvas)
    for row, words in enumerate([*lines, line]):
        draw.text((0, 9 * row), words, fill=255, font=font)
    ink = np.asarray(canvas.resize((side, image.shape[0]), Image.Resampling.NEAREST)) > 127
    if mirrored:
        ink = ink[:, ::-1]
    out = image.copy()
    out[ink] = 245
    return out
