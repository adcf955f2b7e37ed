"""A config for pictures of one's own: look at them, choose sizes that fit, say what a training will cost."""

from __future__ import annotations

import io
import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, UnidentifiedImageError

from diffusionbench.available import metric_state
from diffusionbench.errors import DataError
from diffusionbench.shown import few, printable
from diffusionbench.writing import check_gives_way, write_result
from nanogen.config import compose
from nanogen.data import Dataset
from nanogen.data.detect import detect
from nanogen.data.opening import open_dataset
from nanogen.data.stored import StoredImages
from nanogen.plan import plan
from nanogen.run import folder

# Begins every config that is written here, and no other.
MARK: Final = "# Written by `nanogen init"
# Pictures whose size is looked at, spread over the set.
LOOKED_AT: Final = 500
# Fewest pictures that make a batch of two, four times.
FEWEST: Final = 8


@dataclass(frozen=True)
class Pictures:
    """What a path of pictures holds: row of `DATASETS`, training split, and rising shorter sides of `LOOKED_AT`."""

    path: str
    kind: str
    data: Dataset
    sides: tuple[int, ...]

    @property
    def described(self) -> str:
        """One line for people."""
        data = self.data
        what = "captions" if data.captioned else f"{data.num_classes or 1:,} classes"
        names = f" ({few(data.classes, first=5)})" if data.classes and not data.captioned else ""
        low, high = self.sides[0], self.sides[-1]
        size = f"{low:,} px" if low == high else f"{low:,} to {high:,} px, half of them below {self.middle:,} px"
        return f"{len(data):,} images with {what}{names}; shorter sides {size}"

    @property
    def middle(self) -> int:
        """Median of the shorter sides."""
        return self.sides[len(self.sides) // 2]


def look(path: Path) -> Pictures:
    """Look at pictures; DataError if there are too few, or one that is looked at cannot be read."""
    kind = detect(path)
    data = open_dataset(kind, str(path), image_size=8)
    if len(data) < FEWEST:
        raise DataError(f"{printable(str(path))} holds {len(data)} images for training. Give at least {FEWEST}.")
    assert isinstance(data, StoredImages)
    places = np.linspace(0, len(data) - 1, min(LOOKED_AT, len(data)), dtype=int)
    return Pictures(str(path), kind, data, tuple(sorted(_shorter_side(data, int(place)) for place in places)))


def _shorter_side(data: StoredImages, index: int) -> int:
    try:
        with Image.open(io.BytesIO(data.read(index))) as picture:
            return min(picture.size)
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        raise DataError(f"{data.name(index)} cannot be read as an image. Replace or remove it.") from None


def power_of_two(most: float) -> int:
    """Return the largest power of two that is at most `most`, which is at least 1."""
    return 1 << (int(most).bit_length() - 1)


def config_text(found: Pictures, scale: str, name: str) -> str:
    """Return a commented config for pictures at a scale, for a file of a name."""
    task = "captions" if found.data.captioned else "imagefolder"
    given = {"data.name": found.kind, "data.path": found.path}
    words = [f"{key}={json.dumps(value)}" for key, value in given.items()]
    usual = compose(task, None, scale, None, words).config
    size = min(usual.data.image_size, max(8, power_of_two(found.middle)))
    patches = min(usual.model.pixel_grid, size // 2)
    batch = min(usual.train.batch_size, power_of_two(len(found.data) / 4))
    lines = {
        "data.name": (found.kind, "how the pictures are stored: `nanogen ls data`"),
        "data.path": (json.dumps(found.path), ""),
        "data.image_size": (size, "pixels a side: the middle square of each picture; twice as many cost four times"),
        "model.pixel_grid": (patches, f"patches a side, each of {size // patches} x {size // patches} pixels"),
        "condition.num_classes": (found.data.num_classes, "counted; auto counts again when training begins"),
        "train.batch_size": (batch, "images of one step"),
        "train.duration": (usual.train.duration, "or epochs, such as 80 epochs"),
        "sample.every": (usual.sample.every, "a grid of samples in the run folder"),
    }
    if found.data.captioned:
        del lines["condition.num_classes"]
    lacking = [key for key in usual.eval.metrics if metric_state(key)["state"] == "lacking"]
    if lacking:
        get = "; ".join(dict.fromkeys(metric_state(lacking[0])["get"]))
        lines["eval.metrics"] = ("[]", f"{', '.join(usual.eval.metrics)} need: {get}")
    elif usual.eval.metrics:
        lines["eval.metrics"] = (f"[{', '.join(usual.eval.metrics)}]", "after training, against the training pictures")
    width = max(len(f"{key}: {value}") for key, (value, _) in lines.items() if key not in ("data.path", "eval.metrics"))
    overrides = [f"{key}={value}" for key, (value, _) in lines.items()]
    costs = plan(compose(task, None, scale, None, overrides).config, num_images=len(found.data)).lines()
    text = [
        f"{MARK} {found.path}`. `nanogen show {name} --why` prints every value and where it comes from.",
        f"# {found.described}",
        f"# What it costs (`nanogen plan {name} --images {len(found.data)}`):",
        *(f"#   {line}" for line in costs),
        f"use: {{task: {task}, scale: {scale}}}",
        *(f"{f'{key}: {value}':<{width}}  # {comment}".rstrip("# ") for key, (value, comment) in lines.items()),
    ]
    return "\n".join(text) + "\n"


def write_config(path: Path, scale: str, out: Path | None) -> list[str]:
    """Write a config for pictures, and return what to say about it: what was found, and the commands that follow.

    Args:
        out: the file; by default called after the pictures, in the current folder.

    Raises:
        UserError: for pictures, a scale or a file that cannot be used; nothing is written.
    """
    stem = path.name.partition(".")[0].strip("*-_ ") or "pictures"
    out = out or Path(f"{stem}.yaml")
    check_gives_way(out, MARK)
    found = look(path)
    text = config_text(found, scale, out.name)
    write_result(out, text)
    file, run = shlex.quote(str(out)), shlex.quote(str(folder(out.stem)))
    prompt = f" --prompt {shlex.quote(found.data.caption(0) or '')}" if found.data.captioned else ""
    return [
        found.described,
        *(line.removeprefix("#   ") for line in text.splitlines() if line.startswith("#   ")),
        f"{out} is written. Next:",
        f"  nanogen train {file} --run {run}",
        f"  nanogen sample {run}{prompt} --num 64 --out {shlex.quote(out.stem)}.png",
        f"  nanogen report {run}",
    ]
