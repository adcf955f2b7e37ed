"""Quantisation, the ADM crop, decoding, grids and PNG files."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from diffusionbench.errors import DataError, RequestError, RunError
from diffusionbench.images import center_crop, decode_rgb, grid, save_png, to_uint8


def column(*values: float) -> np.ndarray:
    """Float images [1, 3, n, 1] with these values in every channel."""
    return np.broadcast_to(np.array(values, np.float32)[None, None, :, None], (1, 3, len(values), 1))


def test_truncate_cuts_and_round_goes_to_the_nearest_level():
    values = column(0.0, 0.999 / 255, 1.5001 / 255, 0.5, 254.9 / 255, 1.0)
    assert to_uint8(values)[0, :, 0, 0].tolist() == [0, 0, 1, 127, 254, 255]
    assert to_uint8(values, rule="round")[0, :, 0, 0].tolist() == [0, 1, 2, 128, 255, 255]


def test_values_outside_the_range_are_clamped():
    assert to_uint8(column(-0.3, 1.7))[0, :, 0, 0].tolist() == [0, 255]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_channels_go_last_and_tensors_equal_arrays(dtype):
    images = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    result = to_uint8(images)
    assert result.shape == (2, 4, 5, 3)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, to_uint8(images.detach().float().numpy()))
    assert result[1, 2, 3, 0] == int(images[1, 0, 2, 3].float() * 255)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_by_image(bad):
    images = np.zeros((3, 3, 2, 2), np.float32)
    images[1, 2, 0, 1] = bad
    with pytest.raises(RunError, match="image 1 of 3"):
        to_uint8(images)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((1, 3, 2, 2), np.uint8),
        torch.zeros(1, 3, 2, 2, dtype=torch.int64),
        np.zeros((1, 2, 2, 3)),
        torch.zeros(3, 2, 2),
    ],
)
def test_other_types_and_shapes_are_refused(images):
    with pytest.raises(RequestError, match=r"\[n, 3, H, W\]"):
        to_uint8(images)


def test_an_unknown_rule_is_refused():
    with pytest.raises(RequestError, match="truncate, round"):
        to_uint8(column(0.5), rule="floor")


def test_crop_halves_with_a_box_filter_and_keeps_the_centre():
    pixels = np.random.default_rng(0).integers(0, 64, (4, 8)).astype(np.uint8) * 4
    means = pixels.reshape(2, 2, 4, 2).mean(axis=(1, 3))
    cropped = np.asarray(center_crop(Image.fromarray(pixels), 2))
    # Every mean of four multiples of four is whole: no rounding rule is involved.
    np.testing.assert_array_equal(cropped, means[:, 1:3])


def bicubic_weights(source: int, target: int) -> np.ndarray:
    """Antialiased cubic convolution (a = -1/2, Keys 1981) as a matrix [target, source]."""
    stretch = max(source / target, 1)
    distance = np.abs((np.arange(source)[None] + 0.5) - (np.arange(target)[:, None] + 0.5) * source / target) / stretch
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    weights = np.where(distance < 1, near, np.where(distance < 2, far, 0))
    return weights / weights.sum(axis=1, keepdims=True)


def box_weights(source: int, target: int) -> np.ndarray:
    """Box filter as a matrix [target, source]: equal weights of the pixels whose centres the window holds."""
    stretch = source / target
    distance = ((np.arange(source)[None] + 0.5) - (np.arange(target)[:, None] + 0.5) * stretch) / stretch
    weights = ((distance > -0.5) & (distance <= 0.5)).astype(float)
    return weights / weights.sum(axis=1, keepdims=True)


def resized(pixels: np.ndarray, sides: list[int], weights) -> np.ndarray:
    """Columns first, then rows, rounded to levels after each."""

    def half_up(values: np.ndarray) -> np.ndarray:
        return np.floor(values + 0.5)

    rows, columns = (weights(source, target) for source, target in zip(pixels.shape, sides, strict=True))
    return half_up(rows @ half_up(pixels @ columns.T))


@pytest.mark.parametrize("height, width, size", [(13, 9, 7), (9, 15, 12), (40, 23, 9), (19, 64, 8)])
def test_crop_equals_box_then_bicubic_by_hand(height, width, size):
    y, x = np.mgrid[:height, :width]
    pixels = np.round(128 + 60 * np.sin(x / 4) * np.cos(y / 5)).astype(np.uint8)
    expected = pixels.astype(float)
    while min(expected.shape) >= 2 * size:
        expected = resized(expected, [side // 2 for side in expected.shape], box_weights)
    short = min(expected.shape)
    sides = [round(side * size / short) for side in expected.shape]
    expected = resized(expected, sides, bicubic_weights)
    top, left = (sides[0] - size) // 2, (sides[1] - size) // 2
    result = np.asarray(center_crop(Image.fromarray(pixels), size), float)
    # Pillow computes in fixed point, so a value next to a tie may land on the other side.
    assert np.abs(result - expected[top : top + size, left : left + size]).max() <= 1


def test_an_image_of_the_right_size_is_untouched():
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(center_crop(Image.fromarray(pixels), 8)), pixels)


def test_an_odd_margin_leaves_its_extra_pixel_at_the_right():
    pixels = np.arange(4 * 7, dtype=np.uint8).reshape(4, 7)
    np.testing.assert_array_equal(np.asarray(center_crop(Image.fromarray(pixels), 4)), pixels[:, 1:5])


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "CMYK"])
def test_other_modes_become_rgb(mode):
    image = Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode)
    assert np.asarray(center_crop(image, 4)).tolist() == [[[255, 255, 255]] * 4] * 4


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_decoding_gives_rgb():
    assert decode_rgb(png(Image.new("L", (2, 1), 7)), "a").getpixel((1, 0)) == (7, 7, 7)
    assert decode_rgb(png(Image.new("RGBA", (1, 1), (1, 2, 3, 0))), "a").getpixel((0, 0)) == (1, 2, 3)


def test_images_that_cannot_be_decoded_are_named():
    whole = png(Image.fromarray(np.random.default_rng(2).integers(0, 256, (32, 32, 3), dtype=np.uint8)))
    for data in (b"", b"no image", whole[: len(whole) // 2], whole[:30]):
        with pytest.raises(DataError, match=r"cannot read image x/y\.png: "):
            decode_rgb(data, "x/y.png")


def test_more_than_8_bits_are_refused():
    with pytest.raises(DataError, match="deep has more than 8 bits"):
        decode_rgb(png(Image.fromarray(np.full((2, 2), 40_000, np.uint16))), "deep")


def test_a_grid_enlarges_every_pixel_to_a_block():
    images = np.arange(3 * 8 * 8 * 3, dtype=np.uint8).reshape(3, 8, 8, 3)
    picture = np.asarray(grid(images, columns=2))
    side = 48 + 2
    assert picture.shape == (2 * side + 2, 2 * side + 2, 3)
    for place, (top, left) in enumerate([(2, 2), (2, 2 + side), (2 + side, 2)]):
        tile = picture[top : top + 48, left : left + 48]
        np.testing.assert_array_equal(tile, images[place].repeat(6, axis=0).repeat(6, axis=1))
    assert (picture[2 + side :, 2 + side :] == 255).all()
    assert (picture[:2] == 255).all()


def test_a_grid_keeps_large_tiles():
    assert grid(np.zeros((1, 64, 64, 3), np.uint8), columns=5).size == (68, 68)
    assert grid(np.zeros((2, 48, 72, 3), np.uint8), columns=5).size == (150, 52)


def test_a_grid_of_nothing_is_refused():
    with pytest.raises(RequestError, match="at least one"):
        grid(np.zeros((0, 4, 4, 3), np.uint8), columns=2)


def test_a_png_carries_its_metadata(tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    path = tmp_path / "new" / "image.png"
    save_png(pixels, path, {"prompt": "ein Würfel, 立方体", "seed": 3, "guidance": {"scale": 2.0}})
    with Image.open(path) as image:
        np.testing.assert_array_equal(np.asarray(image), pixels)
        assert image.text == {"prompt": "ein Würfel, 立方体", "seed": "3", "guidance": '{"scale":2.0}'}
    assert [file.name for file in path.parent.iterdir()] == ["image.png"]


def test_an_interrupted_png_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "image.png"
    save_png(np.zeros((2, 2, 3), np.uint8), path)
    before = path.read_bytes()

    def fail(self, file, **_):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(KeyboardInterrupt):
        save_png(np.ones((2, 2, 3), np.uint8), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["image.png"]
