"""8-bit images: quantisation, the ADM centre crop, decoding, sample grids and PNG files.

Everything here works on the CPU with NumPy and Pillow; nothing here resizes images that are about to be scored.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

from diffusionbench.errors import DataError, RequestError, RunError
from diffusionbench.schema import canonical_json
from diffusionbench.writing import write_atomic

if TYPE_CHECKING:
    from torch import Tensor

Rule = Literal["truncate", "round"]

# What is decoded, whatever a file's name says: formats of pictures, and none that runs another program.
FORMATS: Final = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF")
_TIFF_BITS: Final = 258
# Bytes at the start of a file that tell its format.
HEAD: Final = 16
_STARTS: Final = {
    b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"BM": "bmp", b"GIF8": "gif", b"II*\0": "tiff", b"MM\0*": "tiff",
    b"P5": "ppm", b"P6": "ppm",
}  # fmt: skip
# EXIF orientation -> what brings the picture upright.
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

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
    """Return the centre square, `size` on the short side, as the ImageNet references were made.

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


def format_of(head: bytes) -> str | None:
    """Return the format of an image file by its first `HEAD` bytes, whatever it is called; None where that is none."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return "avif"
    return next((name for start, name in _STARTS.items() if head.startswith(start)), None)


class UnreadableImage(DataError):  # noqa: N818
    """A file is no image that can be read, or a damaged one.

    Attributes:
        fault: which file and why, without the remedy.
    """

    def __init__(self, fault: str) -> None:
        super().__init__(f"{fault}. Replace or remove it.")
        self.fault = fault


def decode_rgb(data: bytes, name: str) -> Image.Image:
    """Decode one image file as training takes it: `decode` with transparency dropped.

    Raises:
        DataError: as `decode`.
    """
    try:
        return decode(data, name, transparency="drop")
    except UnreadableImage as error:
        raise DataError(str(error)) from None


def decode(data: bytes, name: str, transparency: Literal["drop", "refuse"]) -> Image.Image:
    """Decode one image file held in memory to RGB, upright by its EXIF orientation; colour profiles are not applied.

    Args:
        data: the bytes of an image file in one of `FORMATS`.
        name: what messages call it.
        transparency: what happens to an image that is partly transparent. Training drops the transparency, as web
            pictures have it; scoring refuses the image, as no one colour behind it is right.

    Raises:
        UnreadableImage: if it is no image or is damaged.
        DataError: if it holds several frames, more than 8 bits a channel, or pixels that are no RGB colours.
    """
    try:
        # Pillow's warnings are of metadata and of sizes that it reads all the same.
        with warnings.catch_warnings(action="ignore"):
            image = Image.open(io.BytesIO(data), formats=FORMATS)
            # Pillow would reduce these in silence to one frame or to 8 bits. The other pictures of an MPO file are
            # previews or a second view of the first.
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":
                raise DataError(f"image {name} holds {frames} frames. Save the one that counts as a file of its own.")
            if image.mode.startswith(("I", "F")) or _is_deep(image, data):
                raise DataError(
                    f"image {name} has more than 8 bits a channel. Save it with 8 bits a channel, RGB or grey."
                )
            image.load()
            return as_rgb(_upright(image), name, transparency)
    except (DataError, MemoryError):
        raise
    # Pillow's decoders raise many unrelated types on damaged files.
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        if isinstance(error, Image.UnidentifiedImageError):
            reason = "it is no known image format"
        raise UnreadableImage(f"cannot read image {name}: {reason}") from None


def _is_deep(image: Image.Image, data: bytes) -> bool:
    """Return whether a channel is stored in more than 8 bits, also where Pillow's mode does not tell."""
    tiles = getattr(image, "tile", [])
    coding = tiles[0][3] if tiles else ""
    if image.format == "PNG":
        return ";16" in str(coding)
    if image.format == "PPM":
        return isinstance(coding, tuple) and isinstance(coding[-1], int) and coding[-1] > 255
    if image.format == "TIFF":
        return max(image.tag_v2.get(_TIFF_BITS, (1,))) > 8  # type: ignore[attr-defined]
    if image.format == "AVIF":
        # The configuration of an AV1 picture: a marker, profile and level, then the flag of a high bit depth.
        return re.search(rb"av1C\x81.[\x40-\x7f\xc0-\xff]", data, re.DOTALL) is not None
    return False


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    # Damaged metadata are no fault of the pixels.
    except Exception:
        return image
    return image if turn is None else image.transpose(turn)


def as_rgb(image: Image.Image, name: str, transparency: Literal["drop", "refuse"]) -> Image.Image:
    """Return an image of any 8-bit mode as RGB; arguments and errors as of `decode`."""
    if image.mode in ("RGBA", "RGBa", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        if transparency == "refuse" and image.getchannel("A").getextrema() != (255, 255):
            raise DataError(f"{name} is partly transparent. Save it without transparency.")
    elif image.mode not in ("RGB", "L", "P", "1", "RGBX", "CMYK", "YCbCr"):
        raise DataError(f"{name} has the pixel mode {image.mode}. Save it with 8 bits a channel, RGB or grey.")
    return image if image.mode == "RGB" else image.convert("RGB")


def grid(images: np.ndarray, columns: int) -> Image.Image:
    """Lay images out row by row on white, two pixels apart, small ones enlarged by a whole factor to 48 pixels a side.

    Args:
        images: uint8 [n, H, W, 3], n >= 1.
        columns: tiles in a row.

    Raises:
        RequestError: if there is no image, or the type or shape is another.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not len(images) or columns < 1:
        raise RequestError(
            f"a grid needs at least one uint8 image [n, H, W, 3] and one column, not {images.dtype} "
            f"{list(images.shape)} in {columns} columns."
        )
    gap, scale = 2, max(1, -(-READABLE_TILE // min(images.shape[1:3])))
    tiles = images.repeat(scale, axis=1).repeat(scale, axis=2)
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    height, width = tiles.shape[1] + gap, tiles.shape[2] + gap
    canvas = np.full((rows * height + gap, columns * width + gap, 3), 255, np.uint8)
    for place, tile in enumerate(tiles):
        top, left = gap + place // columns * height, gap + place % columns * width
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return Image.fromarray(canvas)


def encode_png(
    image: Image.Image | np.ndarray, metadata: Mapping[str, Any] | None = None, level: int | None = None
) -> bytes:
    """Return an image as the bytes of a PNG file, with one text chunk per metadata entry.

    Args:
        image: Pillow image or uint8 [H, W, 3].
        metadata: keys of 1 to 79 Latin letters; strings are stored as they are, other values as JSON.
        level: of zlib, 0 to 9; None: Pillow's.
    """
    text = PngImagePlugin.PngInfo()
    for key, value in (metadata or {}).items():
        text.add_text(key, value if isinstance(value, str) else canonical_json(value))
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    picture.save(file, format="PNG", pnginfo=text, **({} if level is None else {"compress_level": level}))
    return file.getvalue()


def save_png(image: Image.Image | np.ndarray, path: Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a PNG whole or not at all; its folder is made. Arguments as for `encode_png`."""
    write_atomic(path, encode_png(image, metadata))
