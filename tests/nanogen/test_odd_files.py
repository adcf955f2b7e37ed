"""Every reader of image files over a zoo of odd ones: the image or one sentence with its name, never a traceback."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from odd_files import READ, REFUSED, encoded, pixels, turned

from diffusionbench.errors import DataError
from diffusionbench.images import decode, decode_rgb
from diffusionbench.layouts import parse_layout
from diffusionbench.references.real import real_images
from diffusionbench.sample import Item, Sample
from diffusionbench.shown import printable
from diffusionbench.source import FolderSource, PromptFolderSource, UnreadableImages
from nanogen.datasets.captionfolder import open_captioned
from nanogen.datasets.imagefolder import open_folder

FILES = {**{name: (make, None) for name, make in READ.items()}, **REFUSED}


def first(source, name):
    return source.images([SimpleNamespace(id=0, file=Path(name).stem)])[0]


def of_training(folder, name):
    return open_folder(folder, 16, "train")[0].image


def of_captions(folder, name):
    (folder / "class" / name).with_suffix(".txt").write_text("a picture")
    return open_captioned(folder, 16, "train")[0].image


def of_scoring(folder, name):
    return first(FolderSource(folder), name)


def of_prompts(folder, name):
    sample = Sample(0, Item("class"), Path(name).stem)
    return PromptFolderSource(folder, [sample], 1, parse_layout("folder")).images([sample])[0]


def of_a_reference(folder, name):
    ((_, batch),) = real_images(FolderSource(folder))
    return batch[0]


@pytest.mark.parametrize("reader", [of_training, of_captions, of_scoring, of_prompts, of_a_reference])
@pytest.mark.parametrize("name", FILES, ids=printable)
def test_every_reader_gives_the_image_or_one_sentence(reader, name, tmp_path):
    make, message = FILES[name]
    (tmp_path / "class").mkdir()
    (tmp_path / "class" / name).write_bytes(make())
    if message is None:
        image = reader(tmp_path, name)
        assert image.shape == (16, 16, 3)
        assert image.dtype == np.uint8
        return
    with pytest.raises(DataError, match=message) as refused:
        reader(tmp_path, name)
    assert printable(name) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_damaged_file_makes_a_score_partial_and_a_deep_one_ends_it(tmp_path):
    for index, name in enumerate(("text.png", "plain.png", "broken.jpg")):
        (tmp_path / f"{index}{name}").write_bytes(FILES[name][0]())
    source = FolderSource(tmp_path)
    with pytest.raises(UnreadableImages) as found:
        source.images([Sample(index) for index in range(3)])
    assert set(found.value.reasons) == {0, 2}
    assert source.image_size == (16, 16)
    (tmp_path / "0text.png").write_bytes(REFUSED["deep.png"][0]())
    with pytest.raises(DataError, match="more than 8 bits") as ended:
        source.images([Sample(0)])
    assert not isinstance(ended.value, UnreadableImages)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_pictures_stored_on_their_side_are_read_upright(kind, orientation):
    np.testing.assert_array_equal(decode_rgb(turned(kind, orientation), "a"), pixels())


@pytest.mark.parametrize("kind", ["JPEG", "AVIF"])
def test_pictures_of_cameras_are_read_upright(kind):
    upright = np.asarray(decode_rgb(turned(kind, 1), "a"), np.float32)
    turned_back = np.asarray(decode_rgb(turned(kind, 6), "a"), np.float32)
    # Lossy formats keep the noise roughly; a picture on its side would differ by some 85 levels.
    assert np.abs(upright - turned_back).mean() < 45


def test_training_drops_transparency_and_scoring_refuses_it():
    half = np.dstack([pixels(), np.full((16, 16), 128, np.uint8)])
    np.testing.assert_array_equal(decode_rgb(encoded(half), "a"), pixels())
    with pytest.raises(DataError, match="a is partly transparent"):
        decode(encoded(half), "a", transparency="refuse")


def test_memory_that_does_not_suffice_is_not_the_files_fault(monkeypatch):
    def fails(*args, **options):
        raise MemoryError

    monkeypatch.setattr("PIL.Image.open", fails)
    with pytest.raises(MemoryError):
        decode_rgb(b"", "a")
