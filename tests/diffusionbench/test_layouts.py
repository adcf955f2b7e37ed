"""Layouts: where a sample lies by each, which one is told apart by names, and what is counted, named or refused."""

import io
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from diffusionbench.errors import DataError, RequestError
from diffusionbench.images import encode_png, save_png
from diffusionbench.layouts import LAYOUTS, Layout, locate, parse_layout
from diffusionbench.runner import fill, open_store
from diffusionbench.sample import Item, Sample
from diffusionbench.source import (
    FolderSource,
    PromptArchiveSource,
    PromptFolderSource,
    UnreadableImages,
    open_prompt_images,
    open_source,
)
from diffusionbench.store import ImageStore

ITEMS, PER_ITEM = 3, 4
SAMPLES = [
    Sample(id=item * PER_ITEM + k, item=Item(f"set/{item:05d}", text=f"text {item}"), k=k)
    for item in range(ITEMS)
    for k in range(PER_ITEM)
]
COUNT = len(SAMPLES)


def opened(path, layout=None, samples=SAMPLES):
    return open_prompt_images(path, samples, PER_ITEM, None if layout is None else parse_layout(layout))


def files_of(images, layout):
    """What a generator would write: name -> picture."""
    if layout == "grid:2x2":
        return {
            f"set/{item:05d}.png": np.vstack([np.hstack(row) for row in group.reshape(2, 2, *group.shape[1:])])
            for item, group in enumerate(images.reshape(ITEMS, PER_ITEM, *images.shape[1:]))
        }
    names = {
        "flat": "{id:06d}.png",
        "folder": "set/{item:05d}/{k}.png",
        "geneval": "{item:05d}/samples/{k:04d}.png",
    }[layout]
    return {
        names.format(id=place, item=place // PER_ITEM, k=place % PER_ITEM): image for place, image in enumerate(images)
    }


def write_folder(folder, files):
    for name, image in files.items():
        save_png(image, folder / name)
    return folder


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, image in files.items():
            data = image if isinstance(image, bytes) else encode_png(image)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


LAID_OUT = ["flat", "folder", "geneval", "grid:2x2"]


@pytest.mark.parametrize("container", ["folder", "tar"])
@pytest.mark.parametrize("layout", LAID_OUT)
def test_every_layout_gives_every_sample_its_image(tmp_path, noise, layout, container):
    images = noise(COUNT)
    files = dict(sorted(files_of(images, layout).items(), reverse=True))
    path = write_folder(tmp_path / "set", files) if container == "folder" else write_tar(tmp_path / "set.tar", files)
    for named in {layout, None} if layout != "grid:2x2" else {layout}:
        source = opened(path, named)
        assert np.array_equal(source.images(SAMPLES), images)
        assert np.array_equal(source.images([SAMPLES[7], SAMPLES[2]]), images[[7, 2]])
        assert (source.notes, source.labels, source.image_size, source.image_format) == ((), None, (8, 8), "png")


@pytest.mark.parametrize("layout", LAID_OUT)
def test_a_store_lists_images_of_every_layout(tmp_path, noise, ask, layout):
    path = write_tar(tmp_path / "set.tar", files_of(noise(COUNT), layout))
    source = opened(path, layout)
    request = ask(count=COUNT, reference=None, metrics=("is_digits",))
    store = open_store(request, source, tmp_path / "store")
    for start in range(0, COUNT, 5):
        store.add(SAMPLES[start : start + 5], source.images(SAMPLES[start : start + 5]))
    assert not list(store.folder.glob("*.images"))
    again = ImageStore(store.folder)
    assert np.array_equal(np.concatenate([images for _, images in again.batches(COUNT)]), noise(COUNT))
    assert [(one.key, one.k) for one in again.entries(COUNT)] == [(one.item.key, one.k) for one in SAMPLES]


def test_an_array_holds_the_images_of_prompts_in_order(tmp_path, noise):
    path = tmp_path / "set.npz"
    texts = np.array([sample.prompt for sample in SAMPLES])
    np.savez(path, arr_0=noise(COUNT + 2), arr_1=texts)
    source = opened(path)
    assert isinstance(source, PromptArchiveSource)
    assert np.array_equal(opened(path, "npz").images(SAMPLES), noise(COUNT + 2)[:COUNT])
    assert (source.image_format, source.labels) == ("npz", None)
    assert source.notes == (f"{path}: left out 2 images behind those of the prompt set (first: row 12).",)
    np.savez(path, arr_0=noise(COUNT), arr_1=texts[::-1])
    with pytest.raises(RequestError, match=r"image 0 was made for 'text 2', and the set asks for 'text 0' there"):
        opened(path)
    np.savez(path, arr_0=noise(COUNT - 1))
    with pytest.raises(UnreadableImages, match=r"image 11 of .*set\.npz is missing: it holds 11"):
        opened(path).images(SAMPLES)


def test_only_the_asked_files_are_looked_at_and_the_others_are_counted_once(tmp_path, noise):
    folder = write_folder(tmp_path / "set", files_of(noise(COUNT), "geneval"))
    for item in range(ITEMS):
        (folder / f"{item:05d}" / "metadata.jsonl").write_text("{}")
        (folder / f"{item:05d}" / "grid.png").write_bytes(b"broken, and not asked for")
    source = opened(folder)
    assert source.notes == (
        f"{folder}: left out 3 files that are no images (first: 00000/metadata.jsonl); "
        "3 images that the prompt set does not name (first: 00000/grid.png).",
    )
    assert source.image_format == "png"
    before = source.digest
    (folder / "00000" / "grid.png").write_bytes(b"another")
    assert opened(folder).digest == before
    (folder / "00001" / "samples" / "0002.png").write_bytes(b"broken")
    assert opened(folder).digest != before


def test_missing_and_unreadable_images_are_named_one_by_one(tmp_path, noise):
    folder = write_folder(tmp_path / "set", files_of(noise(COUNT), "geneval"))
    (folder / "00001" / "samples" / "0002.png").unlink()
    (folder / "00002" / "samples" / "0000.png").write_bytes(b"broken")
    save_png(noise(1, size=9)[0], folder / "00002" / "samples" / "0001.png")
    with pytest.raises(UnreadableImages) as caught:
        opened(folder).images(SAMPLES)
    assert set(caught.value.reasons) == {6, 8, 9}
    assert caught.value.reasons[6] == f"{folder}/00001/samples/0002.png is missing"
    assert "0000.png: it is no known image format" in caught.value.reasons[8]
    assert "0001.png is 9x9, the first image of" in caught.value.reasons[9]


def test_two_files_for_one_sample_are_refused_and_counted(tmp_path, noise):
    folder = write_folder(tmp_path / "set", files_of(noise(COUNT), "folder"))
    for item in range(2):
        Image.fromarray(noise(1)[0]).save(folder / f"set/{item:05d}/1.jpg")
    with pytest.raises(DataError, match=r"1\.jpg and .*1\.png are both image set/00000/1\. Keep one of them\. 1 more"):
        opened(folder)
    flat = write_folder(tmp_path / "flat", files_of(noise(COUNT), "flat") | {"3.png": noise(1)[0]})
    with pytest.raises(DataError, match=r"3\.png are both image"):
        opened(flat)
    # Twice, and not asked for.
    beside = write_folder(tmp_path / "beside", files_of(noise(COUNT), "flat") | {"cover.png": noise(1)[0]})
    Image.fromarray(noise(1)[0]).save(beside / "cover.jpg")
    assert "1 images that the prompt set does not name (first: cover.jpg)" in opened(beside).notes[0]


def test_a_layout_that_names_do_not_tell_is_asked_for(tmp_path, noise):
    both = files_of(noise(COUNT), "geneval") | files_of(noise(COUNT), "flat")
    folder = write_folder(tmp_path / "both", both)
    with pytest.raises(DataError, match=r"several layouts: geneval \(12\), flat \(12\) of 12 images\. Name one with"):
        opened(folder)
    assert np.array_equal(opened(folder, "flat").images(SAMPLES), noise(COUNT))
    grids = files_of(noise(COUNT), "grid:2x2").values()
    numbered = write_folder(tmp_path / "grids", {f"{item}.png": image for item, image in enumerate(grids)})
    with pytest.raises(DataError, match=r"each may be an image or hold the 4 of a prompt\. Say which with --layout"):
        opened(numbered)
    assert np.array_equal(opened(numbered, "grid:2x2").images(SAMPLES), noise(COUNT))
    other = write_folder(tmp_path / "other", {"cat.png": noise(1)[0]})
    with pytest.raises(DataError, match=r"no image of this set; found cat\.png\. The first would be set/00000/0\.png"):
        opened(other)


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ("grid", "unknown layout 'grid'"),
        ("grid:0x2", "unknown layout 'grid:0x2'"),
        ("grid:RxC", "unknown layout 'grid:RxC'"),
        ("Flat", "unknown layout 'Flat'. Known: flat, folder, geneval, grid:RxC, npz, tar"),
        ("grid:1x2", "layout grid:1x2 holds 2 images a file, and the set asks for 4 of each prompt"),
        ("npz", "--layout npz was given, and .* is a folder"),
        ("tar", "--layout tar was given, and .* is a folder"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(tmp_path, noise, layout, said):
    folder = write_folder(tmp_path / "set", files_of(noise(COUNT), "folder"))
    with pytest.raises(RequestError, match=said):
        opened(folder, layout)


def test_a_picture_that_does_not_divide_into_tiles_is_refused(tmp_path, noise):
    files = files_of(noise(COUNT), "grid:2x2")
    files["set/00000.png"] = noise(1, size=17)[0]
    with pytest.raises(DataError, match=r"00000\.png is 17x17, which does not divide into 2x2 images"):
        opened(write_folder(tmp_path / "set", files), "grid:2x2").images(SAMPLES)


def test_one_function_knows_every_layout():
    last = SAMPLES[-1]
    places = {text: locate(parse_layout(text.replace("RxC", "2x2")), last, PER_ITEM) for text in LAYOUTS}
    assert places == {
        "flat": (("11",), None),
        "folder": (("set/00002/3",), None),
        "geneval": (("00002/samples/0003",), None),
        "grid:RxC": (("set/00002", "2"), 3),
        "npz": (("",), 11),
        "tar": (("set/00002/3",), None),
    }
    assert str(Layout("grid", (2, 3))) == "grid:2x3"


# An archive of images of classes.


def test_a_tar_is_read_like_a_folder(tmp_path, noise, write, ask):
    images = noise(6)
    folder = write(tmp_path / "set", images, ["b", "a", "b", "a", "b", "a"])
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    files = {f"./{name}": (folder / name).read_bytes() for name in reversed(names)}
    path = write_tar(tmp_path / "set.tar", {**files, "a/.hidden.png": b"", "notes.txt": b"text"})
    source, same = open_source(path), FolderSource(folder)
    assert isinstance(source, FolderSource)
    assert (source.labels, source.classes, source.image_format) == (same.labels, same.classes, "png")
    samples = [Sample(place) for place in range(6)]
    assert np.array_equal(source.images(samples), same.images(samples))
    assert source.notes == (
        f"{path}: left out 1 hidden entries (first: a/.hidden.png); 1 files that are no images (first: notes.txt).",
    )
    assert np.array_equal(open_source(path, layout=parse_layout("tar")).images(samples), same.images(samples))
    request = ask(count=6, metrics=("is_digits",), reference=None)
    store = open_store(request, source, tmp_path / "store")
    fill(request, source, store)
    assert np.array_equal(next(ImageStore(store.folder).batches(6))[1], same.images(samples))
    other = write_tar(tmp_path / "set.tar", {**files, "./a/00001.png": encode_png(noise(1, seed=9)[0])})
    assert open_source(other).digest != source.digest


def test_damaged_packed_and_hostile_tars_are_refused_in_one_sentence(tmp_path, noise):
    files = files_of(noise(COUNT), "flat")
    (tmp_path / "text.tar").write_bytes(b"no archive at all" * 100)
    write_tar(tmp_path / "packed.tar", files, "w:gz")
    for name in ("text.tar", "packed.tar"):
        with pytest.raises(DataError, match=r"cannot be read as \.tar .* Give an uncompressed \.tar, or unpack it"):
            open_source(tmp_path / name)
    with pytest.raises(DataError, match="has no images"):
        open_source(write_tar(tmp_path / "empty.tar", {"readme.txt": b"text"}))
    cut = write_tar(tmp_path / "cut.tar", files)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 40])
    with pytest.raises(DataError):
        open_source(cut).images([Sample(0)])
    outside = write_tar(tmp_path / "outside.tar", {"../../evil.png": noise(1)[0]})
    with pytest.raises(DataError, match=r"left out 1 hidden entries \(first: \.\./\.\./evil\.png\)"):
        open_source(outside)
    os.mkfifo(tmp_path / "pipe.tar")
    with pytest.raises(DataError, match="no regular file"):
        open_source(tmp_path / "pipe.tar")


def test_links_in_a_tar_are_counted_and_two_members_of_one_name_refused(tmp_path, noise):
    path = write_tar(tmp_path / "set.tar", files_of(noise(COUNT), "flat"))
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("20.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert "1 members that are no plain files (first: 20.png)" in open_source(path).notes[0]
    with tarfile.open(path, "a") as archive:
        again = tarfile.TarInfo("000003.png")
        archive.addfile(again, io.BytesIO(b""))
    with pytest.raises(DataError, match=r"000003\.png is twice in the archive"):
        open_source(path)


def test_layouts_of_prompts_mean_nothing_for_classes(tmp_path, noise, write):
    write(tmp_path, noise(3))
    for layout in ("geneval", "grid:2x2"):
        with pytest.raises(RequestError, match=r"is one of images of prompts, and these are images of classes"):
            open_source(tmp_path, layout=parse_layout(layout))
    assert np.array_equal(open_source(tmp_path, layout=parse_layout("flat")).images([Sample(1)]), noise(3)[1:2])


def test_a_prompt_folder_without_a_set_is_read_by_keys(tmp_path, noise):
    folder = write_folder(tmp_path / "set", files_of(noise(COUNT), "folder"))
    assert np.array_equal(PromptFolderSource(folder).images(SAMPLES[:2]), noise(COUNT)[:2])
