"""Image files as people have them: good ones, odd ones and damaged ones, made with zlib, NumPy and Pillow."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

SIZE = 16


def pixels(seed: int = 0) -> np.ndarray:
    """Noise, uint8 [16, 16, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """An image as the bytes of a file."""
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(colour: int, depth: int, channels: int, side: int = SIZE, claimed: int | None = None) -> bytes:
    """A grey PNG of any colour type and depth, which Pillow does not write; `claimed` is the side its header names."""
    row = b"\0" + b"\x80" * (side * channels * depth // 8)
    header = struct.pack(">IIBBBBB", claimed or side, claimed or side, depth, colour, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * side)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


def turned(kind: str, orientation: int) -> bytes:
    """The noise, stored turned, with the EXIF orientation that brings it upright."""
    # What undoes each orientation, as the EXIF standard numbers them.
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation](pixels())
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100} if kind == "AVIF" else {}
    return encoded(np.ascontiguousarray(stored), kind, exif=exif, **options)


def _frames(kind: str) -> bytes:
    return encoded(pixels(), kind, save_all=True, append_images=[Image.fromarray(pixels(1))])


def _tiff(dtype: type) -> bytes:
    return encoded(np.zeros((SIZE, SIZE), dtype), "TIFF")


def _deep_tiff() -> bytes:
    """RGB with 16 bits a channel, which Pillow reads and does not write."""
    pixels_at, bits_at = 200, 190
    # Tag, type (3: 16 bits, 4: 32 bits), values, and the value or where it stands.
    fields = [
        (256, 3, 1, SIZE), (257, 3, 1, SIZE), (258, 3, 3, bits_at), (259, 3, 1, 1), (262, 3, 1, 2),
        (273, 4, 1, pixels_at), (277, 3, 1, 3), (278, 3, 1, SIZE), (279, 4, 1, SIZE * SIZE * 6),
    ]  # fmt: skip
    head = b"II*\0" + struct.pack("<IH", 8, len(fields)) + b"".join(struct.pack("<HHII", *field) for field in fields)
    return head.ljust(bits_at, b"\0") + struct.pack("<HHHI", 16, 16, 16, 0) + b"\x80" * (SIZE * SIZE * 6)


def _deep_avif() -> bytes:
    data = bytearray(encoded(pixels(), "AVIF"))
    # The flag of a high bit depth in the configuration of the picture, and the bits of its three channels.
    data[data.index(b"av1C") + 6] |= 0x40
    bits = data.index(b"pixi") + 9
    data[bits : bits + 3] = b"\x0a\x0a\x0a"
    return bytes(data)


def _broken_avif() -> bytes:
    return encoded(pixels(), "AVIF").replace(b"iloc", b"xxxx")


def _pnm(magic: bytes, maximum: int, channels: int) -> bytes:
    width = 2 if maximum > 255 else 1
    return b"%s\n16 16\n%d\n" % (magic, maximum) + bytes(SIZE * SIZE * channels * width)


_image = Image.fromarray(pixels())
READ: dict[str, Callable[[], bytes]] = {
    "plain.png": lambda: encoded(_image),
    "jpeg.jpg": lambda: encoded(_image, "JPEG"),
    "jfif.jfif": lambda: encoded(_image, "JPEG"),
    "jpe.JPE": lambda: encoded(_image, "JPEG"),
    "png named.JPEG": lambda: encoded(_image),
    "cmyk.jpg": lambda: encoded(_image.convert("CMYK"), "JPEG"),
    "cmyk.tif": lambda: encoded(_image.convert("CMYK"), "TIFF"),
    "lzw.tiff": lambda: encoded(_image, "TIFF", compression="tiff_lzw"),
    "one bit.tif": lambda: encoded(_image.convert("1"), "TIFF"),
    "one bit.png": lambda: encoded(_image.convert("1")),
    "still.gif": lambda: encoded(_image, "GIF"),
    "still.webp": lambda: encoded(_image, "WEBP"),
    "still.avif": lambda: encoded(_image, "AVIF"),
    "bitmap.bmp": lambda: encoded(_image, "BMP"),
    "colour.ppm": lambda: _pnm(b"P6", 255, 3),
    "grey.pgm": lambda: _pnm(b"P5", 100, 1),
    "grey.png": lambda: encoded(_image.convert("L")),
    "palette.png": lambda: encoded(_image.convert("P")),
    "opaque.png": lambda: encoded(_image.convert("RGBA")),
    "opaque grey.png": lambda: encoded(_image.convert("LA")),
    "profile.jpg": lambda: encoded(_image, "JPEG", icc_profile=b"no profile at all"),
    "broken exif.jpg": lambda: encoded(_image, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03\xff"),
    "odd exif.jpg": lambda: encoded(_image, "JPEG", exif=_exif(17)),
    "two views.jpg": lambda: _frames("MPO"),
    "phone.jpg": lambda: turned("JPEG", 6),
    "latin \udce9.png": lambda: encoded(_image),
    "line\nbreak.png": lambda: encoded(_image),
}
# Part of the message with which every reader refuses the file.
REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "deep.png": (lambda: png(2, 16, 3), "more than 8 bits"),
    "deep grey.png": (lambda: png(0, 16, 1), "more than 8 bits"),
    "deep alpha.png": (lambda: png(6, 16, 4), "more than 8 bits"),
    "deep grey alpha.png": (lambda: png(4, 16, 2), "more than 8 bits"),
    "deep.tif": (lambda: _tiff(np.uint16), "more than 8 bits"),
    "deep colour.tif": (_deep_tiff, "more than 8 bits"),
    "float.tif": (lambda: _tiff(np.float32), "more than 8 bits"),
    "integer.tif": (lambda: _tiff(np.int32), "more than 8 bits"),
    "deep.ppm": (lambda: _pnm(b"P6", 65535, 3), "more than 8 bits"),
    "ten bits.ppm": (lambda: _pnm(b"P6", 1023, 3), "more than 8 bits"),
    "deep.pgm": (lambda: _pnm(b"P5", 65535, 1), "more than 8 bits"),
    "deep.avif": (_deep_avif, "more than 8 bits"),
    "moving.gif": (lambda: _frames("GIF"), "holds 2 frames"),
    "moving.webp": (lambda: _frames("WEBP"), "holds 2 frames"),
    "moving.png": (lambda: _frames("PNG"), "holds 2 frames"),
    "pages.tif": (lambda: _frames("TIFF"), "holds 2 frames"),
    "empty.png": (lambda: b"", "empty.png"),
    "text.png": (lambda: b"no image", "it is no known image format"),
    "page.png": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "it is no known image format"),
    "cut.png": (lambda: encoded(_image)[:200], "cannot read image"),
    "cut.jpg": (lambda: encoded(_image, "JPEG")[:-40], "cannot read image"),
    "broken.jpg": (_broken_avif, "cannot read image"),
    "huge.png": (lambda: png(2, 8, 3, claimed=60_000), "cannot read image"),
}


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif
