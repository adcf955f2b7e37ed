"""8-bit images: quantisation, the ADM centre crop, decoding, sample grids and PNG files.

Everything here works on the CPU with NumPy and Pillow; nothing here resizes images that are about to be scored.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from PIL import Image, PngImagePlugin

from diffusionbench.errors import DataError, RequestError, RunError
from diffusionbench.schema import canonical_json, write_atomic

if TYPE_CHECKING:
    from torch import Tensor

Rule = Literal["truncate", "round"]

# A tile narrower than this cannot be judged by eye.
READABLE_TILE = 48


def to_uint8(images: Tensor | np.ndarray, rule: Rule = "truncate") -> np.ndarray:
    """Quantise float images in [0, 1] to 8 bits.

    Values outside [0, 1] are clamped, as every decoder overshoots a little; then times 255 in float32, and cut
    ("truncate", the published protocol) or rounded to nearest ("round"). The rules differ by half a grey level
    on average, so one table never mixes them.

    Args:
        images: floating-point [n, 3, H, W], a NumPy array or a torch tensor on any device.
        rule: how a value between two levels is quantised.

    Returns:
        uint8 [n, H, W, 3].

    Raises:
        RequestError: if the rule, type or shape is another.
        RunError: if a value is NaN or infinite; the image is named.
    """
    if rule not in get_args(Rule):
        raise RequestError(f"quantisation '{rule}' is unknown. Allowed: {', '.join(get_args(Rule))}.")
    array = images if isinstance(images, np.ndarray) else images.detach().float().cpu().numpy()
    integral = not isinstance(images, np.ndarray) and not images.is_floating_point()
    if integral or array.dtype.kind != "f" or array.ndim != 4 or array.shape[1] != 3:
        raise RequestError(
            f"images to quantise must be floating-point [n, 3, H, W] in [0, 1], not {images.dtype} "
            f"{list(images.shape)}. Convert them first."
        )
    array = array.astype(np.float32, copy=False)
    finite = np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if not finite.all():
        raise RunError(
            f"image {int(np.argmin(finite))} of {len(array)} holds values that are NaN or infinite. "
            "Check the weights and the precision of the generator."
        )
    levels = np.clip(array, 0, 1) * np.float32(255)
    if rule == "round":
        levels = np.rint(levels)
    return np.ascontiguousarray(levels.astype(np.uint8).transpose(0, 2, 3, 1))


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """Shrink or enlarge to `size` on the short side and cut the centre square, as the ImageNet references were made.

    Halves with a box filter while the short side is at least twice the target, then resizes with bicubic
    interpolation, then crops; sides are rounded to whole pixels and an odd margin leaves its extra pixel at the
    right or bottom.

    Args:
        image: grey ("L") and "RGB" keep their mode; every other mode becomes RGB.
        size: side of the result in pixels.

    Source: Dhariwal and Nichol 2021 (arXiv 2105.05233), data preparation.
    """
    if image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    short = min(image.size)
    if short != size:
        sides = (round(image.width * size / short), round(image.height * size / short))
        image = image.resize(sides, Image.Resampling.BICUBIC)
    if image.size == (size, size):
        return image
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def decode_rgb(data: bytes, name: str) -> Image.Image:
    """Decode one image file held in memory to RGB; transparency is dropped.

    Args:
        data: the bytes of an image file.
        name: what messages call it.

    Raises:
        DataError: if it is no image, is cut short, or has more than 8 bits a channel.
    """
    try:
        image = Image.open(io.BytesIO(data))
        image.load()
    # Pillow's decoders raise many unrelated types on damaged files.
    except Exception as error:
        reason = str(error) if not isinstance(error, Image.UnidentifiedImageError) else "it is no known image format"
        raise DataError(f"cannot read image {name}: {reason}. Replace or remove it.") from None
    if image.mode.startswith(("I", "F")):
        raise DataError(f"image {name} has mode {image.mode}; 8 bits a channel are needed. Convert it first.")
    return image if image.mode == "RGB" else image.convert("RGB")


def grid(images: np.ndarray, columns: int, scale: int | None = None, gap: int = 2) -> Image.Image:
    """Lay images out row by row on white, every pixel enlarged to a whole number of pixels.

    Args:
        images: uint8 [n, H, W, 3], n >= 1.
        columns: tiles in a row.
        scale: enlargement; by default the smallest that makes a tile at least 48 pixels wide and high.
        gap: pixels between tiles and around them.

    Raises:
        RequestError: if there is no image, or the type or shape is another.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not len(images) or columns < 1:
        raise RequestError(
            f"a grid needs at least one uint8 image [n, H, W, 3] and one column, not {images.dtype} "
            f"{list(images.shape)} in {columns} columns."
        )
    scale = scale or max(1, -(-READABLE_TILE // min(images.shape[1:3])))
    tiles = images.repeat(scale, axis=1).repeat(scale, axis=2)
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    height, width = tiles.shape[1] + gap, tiles.shape[2] + gap
    canvas = np.full((rows * height + gap, columns * width + gap, 3), 255, np.uint8)
    for place, tile in enumerate(tiles):
        top, left = gap + place // columns * height, gap + place % columns * width
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return Image.fromarray(canvas)


def save_png(image: Image.Image | np.ndarray, path: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a PNG whole or not at all, with one text chunk per metadata entry.

    Args:
        image: Pillow image or uint8 [H, W, 3].
        path: final name; its folder is made.
        metadata: keys of 1 to 79 Latin letters; strings are stored as they are, other values as JSON.
    """
    text = PngImagePlugin.PngInfo()
    for key, value in (metadata or {}).items():
        text.add_text(key, value if isinstance(value, str) else canonical_json(value))
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    write_atomic(path, lambda file: picture.save(file, format="PNG", pnginfo=text))
