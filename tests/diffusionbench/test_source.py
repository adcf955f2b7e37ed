"""Images that somebody else made: order, labels, and everything that can be wrong with them."""

import tracemalloc

import numpy as np
import pytest
from making import ConstantSource
from PIL import Image

from diffusionbench.errors import DataError, RequestError
from diffusionbench.sample import Sample
from diffusionbench.source import (
    ArchiveSource,
    ArraySource,
    FolderSource,
    UnreadableImages,
    open_source,
    read_labels,
)


def every(source, count):
    return source.images([Sample(id=index) for index in range(count)])


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path, noise, write):
    images = noise(12)
    for index in np.random.default_rng(1).permutation(12):
        Image.fromarray(images[index]).save(tmp_path / f"{index:02d}.png")
    (tmp_path / "notes.txt").write_text("no image")
    source = FolderSource(tmp_path)
    assert np.array_equal(every(source, 12), images)
    assert source.labels == (None,) * 12
    assert source.image_size == (8, 8)
    assert np.array_equal(source.images([Sample(7), Sample(3)]), images[[7, 3]])


@pytest.mark.parametrize("suffix", ["png", "PNG", "bmp", "webp", "jpg", "jpeg"])
def test_every_common_format_is_an_image(tmp_path, suffix):
    image = np.full((8, 8, 3), 100, np.uint8)
    Image.fromarray(image).save(tmp_path / f"a.{suffix}")
    assert np.abs(every(FolderSource(tmp_path), 1)[0].astype(int) - 100).max() <= 2


def test_subfolders_are_classes_in_natural_order_or_by_the_references_names(tmp_path, noise, write):
    write(tmp_path / "named", noise(4), ["cat", "ant", "cat", "bee"])
    source = FolderSource(tmp_path / "named")
    assert (source.labels, source.classes) == ((0, 1, 2, 2), ("ant", "bee", "cat"))
    source = FolderSource(tmp_path / "named", known=("cat", "dog", "bee", "ant"))
    assert (source.labels, source.classes) == ((3, 2, 0, 0), ("cat", "dog", "bee", "ant"))
    source = FolderSource(tmp_path / "named", known=("cat", "dog", "bee"))
    assert (source.labels, source.classes) == ((0, 1, 2, 2), ("ant", "bee", "cat"))
    # There are no three numbers below 2.
    assert FolderSource(tmp_path / "named", known=("cat", "dog")).labels == (None,) * 4
    write(tmp_path / "numbered", noise(4), [10, 2, 10, 7])
    source = FolderSource(tmp_path / "numbered")
    assert source.labels == (0, 1, 2, 2)
    assert np.array_equal(every(source, 4), noise(4)[[1, 3, 0, 2]])
    assert FolderSource(tmp_path / "numbered", known=[f"{name:02d}" for name in range(11)]).labels == (2, 7, 10, 10)


def test_given_labels_replace_those_of_the_subfolders(tmp_path, noise, write):
    write(tmp_path / "set", noise(3), ["a", "b", "c"])
    assert FolderSource(tmp_path / "set", [5, 6, 7]).labels == (5, 6, 7)
    with pytest.raises(RequestError, match=r"2 labels were given and .* has 3 images"):
        FolderSource(tmp_path / "set", [5, 6])


def test_grey_and_palette_files_become_rgb_without_loss(tmp_path):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    Image.fromarray(np.repeat(grey[..., None], 3, -1)).convert("P").save(tmp_path / "b.png")
    opaque = np.dstack([np.repeat(grey[..., None], 3, -1), np.full((8, 8), 255, np.uint8)])
    Image.fromarray(opaque).save(tmp_path / "c.png")
    images = every(FolderSource(tmp_path), 3)
    assert (images[0] == grey[..., None]).all()
    assert (images[2] == grey[..., None]).all()
    assert images.shape == (3, 8, 8, 3)


def test_what_would_change_by_conversion_is_refused(tmp_path):
    Image.fromarray(np.full((8, 8, 4), 128, np.uint8)).save(tmp_path / "half.png")
    with pytest.raises(DataError, match=r"half\.png is partly transparent"):
        every(FolderSource(tmp_path), 1)
    (tmp_path / "half.png").unlink()
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match=r"deep\.png has more than 8 bits"):
        every(FolderSource(tmp_path), 1)


def test_each_unreadable_image_is_named_and_the_others_can_still_be_read(tmp_path, noise, write):
    write(tmp_path, noise(5))
    (tmp_path / "00001.png").write_bytes(b"")
    whole = (tmp_path / "00003.png").read_bytes()
    (tmp_path / "00003.png").write_bytes(whole[: len(whole) // 2])
    source = FolderSource(tmp_path)
    with pytest.raises(UnreadableImages) as caught:
        every(source, 5)
    assert set(caught.value.reasons) == {1, 3}
    assert caught.value.reasons[1].startswith(f"cannot read image {tmp_path}/00001.png: it is no known image format")
    assert caught.value.reasons[3].startswith(f"cannot read image {tmp_path}/00003.png: ")
    assert np.array_equal(source.images([Sample(0), Sample(2), Sample(4)]), noise(5)[[0, 2, 4]])


def test_images_of_two_sizes_are_refused_by_name(tmp_path, noise, write):
    write(tmp_path, noise(2))
    Image.fromarray(noise(1, size=9)[0]).save(tmp_path / "odd.png")
    with pytest.raises(DataError, match=r"odd\.png is 9x9, the first image .* is 8x8"):
        every(FolderSource(tmp_path), 3)


def test_folders_that_hold_no_clear_set_are_refused(tmp_path, noise, write):
    with pytest.raises(DataError, match="has no images"):
        FolderSource(tmp_path)
    write(tmp_path, noise(1))
    write(tmp_path, noise(1), ["a"])
    with pytest.raises(DataError, match="different depths"):
        FolderSource(tmp_path)
    write(tmp_path / "twice", noise(2), ["1", "01"])
    with pytest.raises(DataError, match="name one class twice"):
        FolderSource(tmp_path / "twice")
    write(tmp_path / "deep" / "a", noise(2), ["c", "d"])
    with pytest.raises(DataError, match=r"holds one folder, a, .* Give .*deep/a if those are the classes"):
        FolderSource(tmp_path / "deep")


def test_a_folders_digest_follows_contents_names_and_labels(tmp_path, noise, write):
    one = FolderSource(write(tmp_path / "one", noise(3)))
    assert one.digest == FolderSource(write(tmp_path / "two", noise(3))).digest
    assert one.digest != FolderSource(tmp_path / "one", [1, 2, 3]).digest
    Image.fromarray(noise(1, seed=9)[0]).save(tmp_path / "two" / "00001.png")
    assert one.digest != FolderSource(tmp_path / "two").digest
    renamed = write(tmp_path / "three", noise(3))
    (renamed / "00002.png").rename(renamed / "00003.png")
    assert one.digest != FolderSource(renamed).digest


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_is_read_at_any_place(tmp_path, noise, save):
    images = noise(50)
    save(tmp_path / "a.npz", arr_0=images, arr_1=np.arange(50))
    source = ArchiveSource(tmp_path / "a.npz")
    assert np.array_equal(every(source, 50), images)
    assert np.array_equal(source.images([Sample(41), Sample(3), Sample(49)]), images[[41, 3, 49]])
    assert source.labels == tuple(range(50))
    assert source.image_size == (8, 8)


def test_an_archive_needs_no_more_memory_than_a_batch(tmp_path, noise):
    np.savez(tmp_path / "a.npz", arr_0=noise(400, size=64))
    source = ArchiveSource(tmp_path / "a.npz")
    tracemalloc.start()
    for start in range(0, 400, 10):
        source.images([Sample(id=index) for index in range(start, start + 10)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 * 64 * 64 * 3 / 4


def test_archives_of_anything_else_are_refused(tmp_path, noise):
    def refused(match, **arrays):
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises((DataError, RequestError), match=match):
            ArchiveSource(tmp_path / "a.npz")

    refused(r"float64 \[4, 8, 8, 3\]", arr_0=noise(4) / 255)
    refused(r"uint8 \[4, 3, 8, 8\]", arr_0=np.ascontiguousarray(noise(4).transpose(0, 3, 1, 2)))
    refused(r"uint8 \[4, 8, 8\]", arr_0=noise(4)[..., 0])
    refused(r"at least one image", arr_0=noise(0))
    refused(r"Fortran", arr_0=np.asfortranarray(noise(4)))
    refused(r"Images must be under the key arr_0", labels=np.arange(3))
    refused(r"3 labels were given and .* has 4 images", arr_0=noise(4), labels=np.arange(3))
    refused(r"gives image 1 the label 0.5", arr_0=noise(4), labels=np.arange(4) / 2)


def test_damaged_archives_are_refused(tmp_path, noise):
    path = tmp_path / "a.npz"
    path.write_bytes(b"not a zip file")
    with pytest.raises(DataError, match="cannot be read as"):
        ArchiveSource(path)
    np.savez_compressed(path, arr_0=noise(40))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 400] = bytes(400)
    path.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read"):
        every(ArchiveSource(path), 40)


def test_a_path_is_opened_as_what_it_is(tmp_path, noise, write):
    assert isinstance(open_source(write(tmp_path / "folder", noise(1))), FolderSource)
    np.savez(tmp_path / "a.npz", arr_0=noise(1))
    assert isinstance(open_source(tmp_path / "a.npz"), ArchiveSource)
    with pytest.raises(DataError, match="no such file or folder"):
        open_source(tmp_path / "missing")
    (tmp_path / "a.txt").touch()
    with pytest.raises(DataError, match="neither a folder nor an"):
        open_source(tmp_path / "a.txt")


def test_label_files_have_one_integer_a_line(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("3\n 0\n12\n\n")
    assert read_labels(path) == [3, 0, 12]
    path.write_text("3\n\n12\n")
    with pytest.raises(DataError, match=r"labels\.txt:2"):
        read_labels(path)
    path.write_text("3\ncat\n")
    with pytest.raises(DataError, match=r"labels\.txt:2: 'cat' is no integer"):
        read_labels(path)
    with pytest.raises(DataError, match=r"missing\.txt: it cannot be read"):
        read_labels(tmp_path / "missing.txt")


def test_arrays_and_constants_are_sources(noise):
    source = ArraySource(noise(6), np.arange(6), "six")
    assert np.array_equal(source.images([Sample(5), Sample(0)]), noise(6)[[5, 0]])
    assert source.digest != ArraySource(noise(6), None, "six").digest
    assert source.digest != ArraySource(noise(6).reshape(6, 4, 16, 3), np.arange(6), "six").digest
    grey = ConstantSource((4, 5), 9)
    assert len({grey.digest, ConstantSource((5, 4), 9).digest, ConstantSource((4, 5), 8).digest}) == 3
    images = every(grey, 3)
    assert images.shape == (3, 4, 5, 3)
    assert (images == 9).all()
    assert images.dtype == np.uint8


def test_given_labels_replace_those_of_an_archive(tmp_path, noise):
    np.savez(tmp_path / "set.npz", arr_0=noise(3), arr_1=np.array([0, 1, 2]))
    assert ArchiveSource(tmp_path / "set.npz").labels == (0, 1, 2)
    assert ArchiveSource(tmp_path / "set.npz", [5, 6, 7]).labels == (5, 6, 7)


def test_images_as_high_and_of_another_width_are_refused(tmp_path, noise, write):
    folder = write(tmp_path / "set", noise(2))
    Image.fromarray(np.zeros((8, 9, 3), np.uint8)).save(folder / "00002.png")
    with pytest.raises(DataError, match=r"00002\.png is 8x9, the first image of .* is 8x8"):
        every(FolderSource(folder), 3)
